//! `--protect-host`: scripts in namespaces can write only to their own directories.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{
    Agent, LANDLOCK, NAMESPACE, NONE, Place, Ran, ReleaseBuilder, Tier, USER, USERNS_OF_A_USER,
    USERNS_OF_ROOT, Who, example_release, in_tiers, is_soak, require, require_tools, snapshot,
};

in_tiers!(everything_but_own_directories_is_read_only: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);
in_tiers!(own_directories_are_writable: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);
in_tiers!(devices_and_proc_are_usable: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);
in_tiers!(scripts_cannot_undo_the_protection: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);
in_tiers!(failure_names_the_protected_path: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);
in_tiers!(home_above_the_tree_stays_read_only: NAMESPACE USERNS_OF_A_USER);
in_tiers!(work_directory_below_home_stays_hidden: NAMESPACE USERNS_OF_A_USER);
in_tiers!(example_release_compiles: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);
in_tiers!(tiers_that_cannot_refuse_before_compiling: LANDLOCK NONE);

/// Directories with a `HOME`; the other directories represent the host's.
struct Site(Place);

impl Site {
    fn new(tier: Tier) -> Option<Self> {
        let site = Self(Place::new(tier)?);
        for directory in ["home", "host"] {
            std::fs::create_dir(site.path(directory)).unwrap();
            if tier.who == Who::User {
                std::os::unix::fs::chown(site.path(directory), Some(USER), Some(USER)).unwrap();
            }
        }
        Some(site)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.world.path(name)
    }

    fn agent(&self) -> Agent {
        self.0
            .agent()
            .arg("--protect-host")
            .env("HOME", self.path("home").to_str().unwrap())
    }

    /// `@host@` in the script is a directory of the host that the user may write to.
    fn run(&self, script: &str) -> Ran {
        let script = script.replace("@host@", self.path("host").to_str().unwrap());
        let tarball = self.0.release(&ReleaseBuilder::of_script(&script));
        self.agent().arg(tarball).run()
    }
}

/// The time limit of a real release on a busy machine.
const LONG: Duration = Duration::from_secs(900);

mod bodies {
    use super::*;

    pub(super) fn everything_but_own_directories_is_read_only(tier: Tier) {
        let Some(site) = Site::new(tier) else { return };
        let sys = site.path("vcap/sys/run");
        std::fs::create_dir_all(&sys).unwrap();
        std::fs::write(site.path("host/file"), "kept").unwrap();
        let before = snapshot(&site.path("host"));
        let own = format!("bosh-agent-test-{}", std::process::id());
        site.run(&format!(
            "for directory in / /etc /usr /run /opt /dev /sys @host@ @base@/sys/run; do \
               if (echo > $directory/{own}) 2>/dev/null; then echo reached $directory; exit 1; fi; \
               if [ -e $directory/{own} ]; then exit 2; fi; done; \
             if rm @host@/file || mv @host@/file $BOSH_INSTALL_TARGET || chmod 600 @host@/file; then exit 3; fi; \
             cat @host@/file > $BOSH_INSTALL_TARGET/file"
        ))
        .succeeds()
        .says(&format!("Isolation: {}, with a read-only host", tier.name));
        assert_eq!(site.0.file("app", "file"), "100644 kept");
        assert_eq!(snapshot(&site.path("host")), before);
        assert_eq!(std::fs::read_dir(&sys).unwrap().count(), 0);
        for directory in ["/", "/etc", "/usr", "/run", "/opt", "/dev"] {
            let file = Path::new(directory).join(&own);
            if file.exists() {
                std::fs::remove_file(&file).unwrap();
                panic!("a script made {}", file.display());
            }
        }
    }

    pub(super) fn own_directories_are_writable(tier: Tier) {
        let Some(site) = Site::new(tier) else { return };
        let cache = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        if tier.who == Who::User {
            std::os::unix::fs::chown(cache.path(), Some(USER), Some(USER)).unwrap();
        }
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/file; mkdir -p @base@/data/lib/cache")
            .package(
                "app",
                &["lib"],
                "set -e; for directory in /tmp /var/tmp /dev/shm $HOME $CACHE $BOSH_COMPILE_TARGET $BOSH_INSTALL_TARGET \
                   @base@ @base@/data @base@/data/app @base@/data/lib/cache @packages@/lib; do \
                   mkdir $directory/new; echo > $directory/new/file; mv $directory/new/file $directory/new/moved; done; \
                 su -s /bin/sh nobody -c 'mktemp > /dev/null'; chown 1234 /tmp/new",
            );
        let tarball = site.0.release(&release);
        site.agent()
            .env("CACHE", cache.path().to_str().unwrap())
            .arg(tarball)
            .run()
            .succeeds()
            .does_not_say("Warning");
        assert!(site.path("home/new/moved").exists() && cache.path().join("new/moved").exists());
        assert!(!site.path("vcap").exists());
    }

    pub(super) fn devices_and_proc_are_usable(tier: Tier) {
        let Some(site) = Site::new(tier) else { return };
        site.run(
            "set -e; echo > /dev/null; echo fine > /dev/stderr; cat <(echo fine) > /dev/null; head -c 8 /dev/zero > /dev/full || true; \
             head -c 8 /dev/urandom | wc -c > $BOSH_INSTALL_TARGET/file; echo 1000 > /proc/self/oom_score_adj; \
             echo renamed > /proc/self/comm; cat /sys/kernel/mm/transparent_hugepage/enabled /proc/sys/kernel/ostype > /dev/null; \
             for file in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/mm/transparent_hugepage/enabled; do \
               if [ -e $file ] && true 2>/dev/null >> $file; then exit 1; fi; done; \
             perl -e 'open(my $p, \"+<\", \"/dev/ptmx\") or die $!; print $p \"x\\n\"'",
        )
        .succeeds()
        .does_not_say("Warning");
        assert_eq!(site.0.file("app", "file"), "100644 8\n");
    }

    pub(super) fn scripts_cannot_undo_the_protection(tier: Tier) {
        let Some(site) = Site::new(tier) else { return };
        std::fs::write(site.path("host/file"), "kept").unwrap();
        let before = snapshot(&site.path("host"));
        let script = "writable() { \
               for file in /sys/kernel/mm/transparent_hugepage/enabled /proc/sys/kernel/core_pattern /proc/sysrq-trigger; do \
                 if [ -e $file ] && true >> $file; then exit 1; fi; done; \
               if touch /dev/@own@; then rm /dev/@own@; exit 2; fi; \
               touch @host@/new bound/new; rm @host@/file; }; \
             mkdir bound; mount --bind @host@ bound; \
             for at in / /dev /sys /proc/sys bound; do mount -o remount,bind,rw $at; done; writable; \
             mount -o remount,rw /; mount -t sysfs none /sys; writable; umount -l /sys; umount -l /proc/sys; writable; \
             nsenter --mount=/proc/1/ns/mnt touch @host@/new; \
             unshare --user --map-root-user --mount sh -c 'mount -o remount,bind,rw /; touch @host@/new'; \
             set -e; if unshare --user --map-root-user true; then mkdir m; \
               unshare --user --map-root-user --mount sh -c 'mount -t tmpfs none m && echo > m/file'; fi";
        let own = format!("bosh-agent-test-{}", std::process::id());
        site.run(&script.replace("@own@", &own)).succeeds();
        assert_eq!(snapshot(&site.path("host")), before);
    }

    pub(super) fn failure_names_the_protected_path(tier: Tier) {
        let Some(site) = Site::new(tier) else { return };
        let host = site.path("host").display().to_string();
        site.run("set -e; touch @host@/file").fails().says(&format!(
            "`{host}/file` is protected from writes by --protect-host"
        ));
        site.run("touch @host@/file; echo > $BOSH_INSTALL_TARGET/file")
            .succeeds()
            .says("Warning: ")
            .says(&format!(
                "`{host}/file` is protected from writes by --protect-host"
            ));
        // Dependencies are mounts, too, but a second run with copies would not help.
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/file")
            .package("app", &["lib"], &format!("set -e; cd {host}; touch file"));
        let tarball = site.0.release(&release);
        site.agent()
            .arg(tarball)
            .run()
            .fails()
            .says("Read-only file system`: --protect-host protects")
            .does_not_say("copies");
        // A write that --readonly-deps refuses is not reported as protected.
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/file")
            .package("app", &["lib"], "set -e; touch @packages@/lib/new");
        let tarball = site.0.release(&release);
        site.agent()
            .arg("--readonly-deps")
            .arg(tarball)
            .run()
            .fails()
            .says("Read-only file system")
            .does_not_say("--protect-host");
        site.run("mkdir m; mount -t tmpfs none m")
            .fails()
            .says("--protect-host");
    }

    pub(super) fn home_above_the_tree_stays_read_only(tier: Tier) {
        let Some(site) = Site::new(tier) else { return };
        let above = site.path("").display().to_string();
        for home in ["/", &above, "/none", "relative"] {
            let host = site.path("host").display().to_string();
            let script =
                format!("if touch {host}/file; then exit 1; fi; echo > $BOSH_INSTALL_TARGET/file");
            let tarball = site.0.release(&ReleaseBuilder::of_script(&script));
            site.agent().env("HOME", home).arg(tarball).run().succeeds();
            assert!(!site.path("host/file").exists(), "{home}");
        }
    }

    pub(super) fn work_directory_below_home_stays_hidden(tier: Tier) {
        let Some(site) = Site::new(tier) else { return };
        let work = site.path("home/work");
        let script = format!(
            "touch $HOME/new; if ls {0}/.bosh-agent-work-*/places || touch {0}/.bosh-agent-work-*/new; then exit 1; fi",
            work.display()
        );
        let tarball = site.0.release(&ReleaseBuilder::of_script(&script));
        site.agent()
            .arg("--work-dir")
            .arg(&work)
            .arg(tarball)
            .run()
            .succeeds();
        assert!(site.path("home/new").exists());
    }

    pub(super) fn example_release_compiles(tier: Tier) {
        let Some(site) = Site::new(tier) else { return };
        let site = Site(site.0.at_var_vcap());
        // The tiers differ only in how they mount, so the others compile a small release, except in long runs of the tests.
        if tier.who != Who::User && !is_soak() {
            let tarball = site.0.release(&ReleaseBuilder::demo());
            site.agent()
                .arg(tarball)
                .run()
                .succeeds()
                .does_not_say("Warning");
            return;
        }
        let tarball = example_release();
        if !require(tarball.is_file(), "the example release (`make example`)")
            || !require_tools(&["gcc", "g++", "make"])
        {
            return;
        }
        site.agent()
            .within(LONG)
            .arg(tarball)
            .run()
            .succeeds()
            .does_not_say("Warning");
    }

    pub(super) fn tiers_that_cannot_refuse_before_compiling(tier: Tier) {
        let Some(site) = Site::new(tier) else { return };
        // Landlock is what `auto` has left after it has tried namespaces.
        let hint = match tier.name {
            "landlock" => "Hint: make namespaces available",
            _ => "Hint: use --isolation=auto, namespace or userns",
        };
        site.run("touch @host@/file")
            .blames_the_machine()
            .says("--protect-host requires namespaces")
            .says(hint)
            .does_not_say("Compiling package");
        assert!(!site.path("host/file").exists());
    }
}

#[test]
fn host_around_a_missing_base_directory_is_read_only() {
    let Some(site) = Site::new(USERNS_OF_A_USER) else {
        return;
    };
    // Only root may create files here, as in /var, so the tree covers all of it.
    let file = site.0.world.write("var/lib/file", "of the host");
    let lib = file.parent().unwrap();
    std::os::unix::fs::chown(lib, Some(USER), Some(USER)).unwrap();
    let base = site.path("var/above/vcap");
    let script = format!(
        "cat {0}/file; if touch {0}/new; then exit 1; fi; touch /tmp/new $HOME/new; echo > $BOSH_INSTALL_TARGET/file",
        lib.display()
    );
    let tarball = site.0.release(&ReleaseBuilder::of_script(&script));
    site.0
        .agent_as("auto", &base)
        .arg("--protect-host")
        .env("HOME", site.path("home").to_str().unwrap())
        .arg(tarball)
        .run()
        .succeeds();
    assert!(site.path("home/new").exists() && !lib.join("new").exists());
}
