//! Mounts that a script leaves in or over its scratch directory, and mounts that exist when a run is stopped.

use std::time::Duration;

use super::*;
use crate::support::require;

in_tiers!(mounts_in_scratch_keep_their_files: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK_OF_ROOT NONE);
in_tiers!(mounts_over_scratch_keep_their_files: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK_OF_ROOT NONE);
in_tiers!(hundreds_of_mounts_with_long_names_keep_their_files: NAMESPACE USERNS_OF_A_USER LANDLOCK_OF_ROOT NONE);
in_tiers!(mount_over_a_directory_in_forged_notes_is_only_unmounted: LANDLOCK_OF_ROOT NONE);
in_tiers!(stop_with_left_mounts_ends_within_the_grace_time: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK_OF_ROOT NONE);

/// Lets the script of `lib` mount a directory of the host at a path in `$scratch`, its scratch directory. A dependent then removes
/// everything in the scratch directory.
fn assert_scratch_is_safe(tier: Tier, at: &str) {
    for is_kept in [false, true] {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let kept = site.place.world.path("kept");
        let mount = format!(
            "set -e; scratch=@base@/data/lib; mkdir -p $scratch/m; mount --bind {} {at}; echo done > $BOSH_INSTALL_TARGET/result",
            site.host.display()
        );
        let remove = "set -e; ls @base@/data/lib > $BOSH_INSTALL_TARGET/seen; rm -r @base@/data/lib/*; echo > @base@/data/lib/new";
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], &mount)
            .package("app", &["lib"], remove);
        let agent = match is_kept {
            true => site.agent().arg("--scratch-dir").arg(&kept),
            false => site.agent(),
        };
        let ran = agent.arg(site.place.release(&release)).run().succeeds();
        if !tier.has_mounts() {
            ran.says("\nWarning: unmounted a file system that a packaging script left mounted: `");
        }
        assert_eq!(site.place.file("lib", "result"), "100644 done\n");
        assert_eq!(site.place.file("app", "seen"), "100644 m\n");
        site.assert_untouched();
        assert!(!site.place.world.base().exists());
        if is_kept {
            assert_eq!(listed(kept.join("lib")), [kept.join("lib/new")]);
        }
    }
}

mod bodies {
    use super::*;

    pub(super) fn mounts_in_scratch_keep_their_files(tier: Tier) {
        assert_scratch_is_safe(tier, "$scratch/m");
    }

    pub(super) fn mounts_over_scratch_keep_their_files(tier: Tier) {
        assert_scratch_is_safe(tier, "$scratch");
    }

    pub(super) fn hundreds_of_mounts_with_long_names_keep_their_files(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let script = format!(
            "set -e +x; cd $BOSH_COMPILE_TARGET; mkdir m; for n in $(seq 400); do at=m/$(printf 'x\\033%.0s' {{1..100}})$n; \
               mkdir $at; mount --bind {} $at; done; echo done > $BOSH_INSTALL_TARGET/result",
            site.host.display()
        );
        site.run(&script).succeeds();
        assert_eq!(site.place.file("app", "result"), "100644 done\n");
        site.assert_untouched();
        // One of them is in the install target.
        let script = format!(
            "{script}; mkdir $BOSH_INSTALL_TARGET/m; mount --bind m $BOSH_INSTALL_TARGET/m"
        );
        site.run(&script).fails().says("left a mount at `");
        site.assert_untouched();
    }

    pub(super) fn mount_over_a_directory_in_forged_notes_is_only_unmounted(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let jobs = place.world.base().join("data/jobs");
        std::fs::create_dir_all(&jobs).unwrap();
        std::fs::write(jobs.join("file"), "theirs").unwrap();
        let born = std::fs::metadata(&jobs).and_then(|found| found.created());
        if !require(born.is_ok(), "a file system with times of creation") {
            return;
        }
        kill_after(
            &place,
            "for notes in packages/.bosh-agent:compile data/.bosh-agent-compile.lock; do echo data/jobs >> $base/$notes; done; \
             mount -t tmpfs none $base/data/jobs; echo > $base/data/jobs/new",
        );
        let _over = Memory(jobs.clone());
        assert_eq!(listed(jobs.clone()), [jobs.join("new")]);
        place
            .run(&ReleaseBuilder::of_script(
                "echo x > $BOSH_INSTALL_TARGET/file",
            ))
            .succeeds()
            .says("list a file that is older than that run");
        assert_eq!(listed(jobs.clone()), [jobs.join("file")]);
    }

    pub(super) fn stop_with_left_mounts_ends_within_the_grace_time(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let script = format!(
            "{ONLY_UNRESTRICTED}; set -e; trap '' TERM; \
             for directory in $BOSH_COMPILE_TARGET $BOSH_INSTALL_TARGET @base@/data/app; do \
               mkdir $directory/m; mount --bind {} $directory/m; done; \
             touch $FACTS/started; sleep 1000; sleep 1000",
            site.host.display()
        );
        if tier.name != "landlock" {
            site.place.world.write("facts/first", "");
        }
        let agent = site.agent().args(&["--grace", "1"]);
        let running = site.place.start_of(agent, &script);
        running.signal(Signal::SIGTERM);
        // The rest is for a busy machine.
        running
            .end_within(Duration::from_secs(1 + 10))
            .ends_with(143)
            .does_not_say("Error");
        site.assert_untouched();
        assert!(!site.place.world.base().exists());
    }
}
