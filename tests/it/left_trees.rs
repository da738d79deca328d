//! Leftovers in a script's directories: mounts, protected files, deep trees, unreadable directories. No file of the host is removed, and
//! runs fail only if there is no other way.

mod mounts;

use std::collections::BTreeMap;
use std::os::unix::fs::chown;
use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

use crate::support::{
    Agent, LANDLOCK, LANDLOCK_OF_A_USER, LANDLOCK_OF_ROOT, Listed, NAMESPACE, NONE, NONE_OF_A_USER,
    Place, Ran, ReleaseBuilder, Tier, USER, USERNS_OF_A_USER, USERNS_OF_ROOT, Who, in_tiers,
    listed, snapshot,
};

in_tiers!(mounts_in_the_compile_directory_keep_their_files: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK_OF_ROOT NONE);
in_tiers!(mount_in_the_install_target_is_an_error: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK_OF_ROOT NONE);
in_tiers!(mount_over_an_installed_file_is_an_error: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK_OF_ROOT NONE);
in_tiers!(mount_over_the_install_target_is_an_error: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK_OF_ROOT NONE);
in_tiers!(mounts_over_the_shared_directories_keep_their_files: LANDLOCK_OF_ROOT NONE);
in_tiers!(mount_behind_a_link_of_a_killed_run_stays: LANDLOCK_OF_ROOT NONE);
in_tiers!(mount_over_the_data_of_a_killed_run_is_an_error: LANDLOCK_OF_ROOT NONE);
in_tiers!(mounts_below_a_bound_directory_stay_mounted: NAMESPACE LANDLOCK_OF_ROOT NONE);
in_tiers!(links_in_place_of_directories_are_errors: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK LANDLOCK_OF_ROOT NONE NONE_OF_A_USER);
in_tiers!(link_in_place_of_the_packages_directory_is_an_error: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK LANDLOCK_OF_ROOT NONE NONE_OF_A_USER);
in_tiers!(immutable_and_append_only_files_are_removed: NAMESPACE LANDLOCK NONE);
in_tiers!(long_paths_are_packed_and_reach_dependents: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE LANDLOCK_OF_A_USER NONE_OF_A_USER);
in_tiers!(unreadable_files_and_old_times_are_packed: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE LANDLOCK_OF_A_USER NONE_OF_A_USER);
in_tiers!(unremovable_leftovers_do_not_block_the_next_run: USERNS_OF_A_USER LANDLOCK_OF_A_USER NONE_OF_A_USER);

/// A file system in memory with one file.
struct Memory(PathBuf);

impl Memory {
    fn mount(at: PathBuf) -> Self {
        std::fs::create_dir(&at).unwrap();
        let (kind, flags) = (Some("tmpfs"), MsFlags::empty());
        mount(kind, &at, kind, flags, None::<&str>).unwrap();
        std::fs::write(at.join("file"), "theirs").unwrap();
        Self(at)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Fails unless `facts/first` exists: under Landlock, only the second run is unrestricted.
const ONLY_UNRESTRICTED: &str = "[ -e $FACTS/first ] || { touch $FACTS/first; exit 1; }";

/// Kills the agent after a script has run these commands without restrictions. `$base` is the base directory.
fn kill_after(place: &Place, commands: &str) {
    let script = format!(
        "{ONLY_UNRESTRICTED}; base=${{BOSH_INSTALL_TARGET%/packages/*}}; {commands}; touch $FACTS/started; sleep 1000"
    );
    if place.tier.name == "none" {
        place.world.write("facts/first", "");
    }
    let running = place.start(&script);
    running.signal(Signal::SIGKILL);
    assert_eq!(running.end().code, None);
}

mod bodies {
    use super::*;

    pub(super) fn mount_behind_a_link_of_a_killed_run_stays(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let memory = Memory::mount(place.world.path("memory"));
        let before = snapshot(&memory.0);
        for directory in ["data/compile", "data/packages", "packages"] {
            let link = format!(
                "mv $base/{directory} $FACTS/moved; ln -s {} $base/{directory}",
                memory.0.display()
            );
            kill_after(&place, &link);
            place
                .run(&ReleaseBuilder::of_script(
                    "echo x > $BOSH_INSTALL_TARGET/file",
                ))
                .succeeds();
            assert_eq!(place.world.read("memory/file"), "theirs", "{directory}");
            assert_eq!(snapshot(&memory.0), before, "{directory}");
            for fact in ["first", "started"] {
                std::fs::remove_file(place.world.path("facts").join(fact)).unwrap();
            }
            std::fs::remove_dir_all(place.world.path("facts/moved")).unwrap();
        }
    }

    pub(super) fn mount_over_the_data_of_a_killed_run_is_an_error(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let memory = Memory::mount(place.world.path("memory"));
        // The agent would remove these files by path.
        for directory in ["packages/app", "compile/app", "app"] {
            place
                .world
                .write(&format!("memory/{directory}/file"), "theirs");
        }
        let before = snapshot(&memory.0);
        let cover = format!("mount --bind {} $base/data", memory.0.display());
        kill_after(&place, &cover);
        let over = Memory(place.world.base().join("data"));
        let next = ReleaseBuilder::of_script("echo x > $BOSH_INSTALL_TARGET/file");
        let said = format!("a file system is mounted over `{}`, ", over.0.display());
        let hint = format!("Hint: unmount `{}`", over.0.display());
        place
            .run(&next)
            .blames_the_machine()
            .says(&said)
            .says(&hint);
        assert_eq!(snapshot(&memory.0), before);
        drop(over);
        place.run(&next).succeeds();
        assert_eq!(snapshot(&memory.0), before);
    }

    pub(super) fn mounts_in_the_compile_directory_keep_their_files(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let host = site.host.display();
        let script = format!(
            "set -e; cd $BOSH_COMPILE_TARGET; mkdir bound memory twice; mount --bind {host} bound; \
             echo > file; mount --bind {host}/dir/file file; mount -t tmpfs none memory; echo > memory/file; \
             mount --bind {host} twice; mount --bind {host}/dir twice; \
             mkdir up scratch merged; mount -t overlay none -o lowerdir={host},upperdir=up,workdir=scratch merged || true; \
             if [ -n \"$TMPDIR\" ]; then mkdir $TMPDIR/bound; mount --bind {host} $TMPDIR/bound; fi; \
             echo done > $BOSH_INSTALL_TARGET/result"
        );
        let ran = site.run(&script).succeeds().does_not_say(" WARN ");
        if !tier.has_mounts() {
            let base = site.place.world.base().display().to_string();
            ran.says(&format!(
                "\nWarning: unmounted a file system that a packaging script left mounted: `{base}/data/"
            ));
        }
        assert_eq!(site.place.file("app", "result"), "100644 done\n");
        site.assert_untouched();
    }

    pub(super) fn mount_in_the_install_target_is_an_error(tier: Tier) {
        assert_fails(
            tier,
            "mkdir -p $BOSH_INSTALL_TARGET/a/m; mount --bind @host@ $BOSH_INSTALL_TARGET/a/m",
            "/a/m`, so its files there cannot be packed",
        );
    }

    pub(super) fn mount_over_an_installed_file_is_an_error(tier: Tier) {
        assert_fails(
            tier,
            "echo > $BOSH_INSTALL_TARGET/file; mount --bind @host@/dir/file $BOSH_INSTALL_TARGET/file",
            "/file`, so its files there cannot be packed",
        );
    }

    pub(super) fn mount_over_the_install_target_is_an_error(tier: Tier) {
        assert_fails(
            tier,
            "mount -t tmpfs none $BOSH_INSTALL_TARGET; echo > $BOSH_INSTALL_TARGET/file",
            "`, so its files there cannot be packed",
        );
    }

    pub(super) fn mounts_over_the_shared_directories_keep_their_files(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        // The agent would remove these files by path.
        for directory in ["app", "data/compile/app"] {
            std::fs::create_dir_all(site.host.join(directory)).unwrap();
            std::fs::write(site.host.join(directory).join("file"), "host").unwrap();
        }
        for below in ["data/compile", "data"] {
            let before = snapshot(&site.host);
            let base = site.place.world.base();
            let script = format!(
                "set -e; echo > $BOSH_INSTALL_TARGET/file; mount --bind {} {}",
                site.host.display(),
                base.join(below).display()
            );
            // If only the compile directory is covered, it can be packed; otherwise the install target is hidden.
            match below {
                "data" => site.run(&script).fails().says("left a mount at"),
                _ => site.run(&script).succeeds(),
            };
            assert_eq!(snapshot(&site.host), before, "{below}");
        }
    }

    pub(super) fn mounts_below_a_bound_directory_stay_mounted(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        // If mounts are shared, as on most hosts, unmounting a recursive bind mount can propagate to the original.
        let inner = site.host.join("dir").display().to_string();
        let host = site.host.display();
        let tarball = site.place.release(&ReleaseBuilder::of_script(&format!(
            "set -e; mkdir m; mount --rbind {host} m; test -e m/dir/inner; echo > $BOSH_INSTALL_TARGET/file"
        )));
        site.agent_after(
            &format!("mount --make-rshared /; mount -t tmpfs none {inner}; echo > {inner}/inner; "),
            &format!("; code=$?; test -e {inner}/inner || exit 99; exit $code"),
        )
        .arg(tarball)
        .run()
        .succeeds();
        site.assert_untouched();
    }

    pub(super) fn links_in_place_of_directories_are_errors(tier: Tier) {
        let Some(mut site) = Site::new(tier) else {
            return;
        };
        // The agent would move, rename or remove these files by path.
        for directory in ["app", "compile/app", "packages/app"] {
            std::fs::create_dir_all(site.host.join(directory)).unwrap();
            std::fs::write(site.host.join(directory).join("file"), "host").unwrap();
        }
        site.before = snapshot(&site.host);
        let base = site.place.world.base();
        let install = "set -e; echo > $BOSH_INSTALL_TARGET/file";
        for (below, needed) in ["packages", "data", "data/compile", "data/packages"]
            .into_iter()
            .flat_map(|below| [(below, false), (below, true)])
        {
            let (path, host) = (base.join(below), site.host.display());
            let path = path.display();
            let mut release = ReleaseBuilder::of_script(&format!(
                "{install}; cd /; mv {path} {path}-old; ln -s {host} {path}"
            ));
            if needed {
                release = release.package("late", &["app"], "true");
            }
            site.release(&release).blames_the_machine().says(&format!(
                "the packaging script replaced `{path}`, which leads to `{host}` now"
            ));
            site.assert_untouched();
            assert!(!base.exists(), "{below}");
        }
        let (data, packages) = (base.join("data"), base.join("packages"));
        let (data, packages, host) = (data.display(), packages.display(), site.host.display());
        site.run(&format!(
            "{install}; cd /; for path in {data} {packages}; do mv $path $path-old; ln -s {host} $path; done"
        ))
        .blames_the_machine()
        .says(&format!("`{data}`, which leads to `{host}` now"))
        .says(&format!("`{packages}`, which leads to `{host}` now"));
        site.assert_untouched();
        assert!(!base.exists());
        site.run(&format!(
            "{install}; rm -rf {}",
            base.join("data/packages/app").display()
        ))
        .fails()
        .says("leads nowhere");
        site.run(install).succeeds();
        site.assert_untouched();
    }

    pub(super) fn link_in_place_of_the_packages_directory_is_an_error(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let own = site.place.world.base().join("data/packages/app");
        let (own, host) = (own.display(), site.host.display());
        site.run(&format!(
            "set -e; mv {own} $BOSH_COMPILE_TARGET/; ln -s {host} {own}"
        ))
        .fails()
        .says("/data/packages/app`: there is a link or a file");
        site.assert_untouched();
    }

    pub(super) fn immutable_and_append_only_files_are_removed(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let flag = "set -e; cd $BOSH_COMPILE_TARGET; mkdir -p a/b; echo > a/b/file; chattr +i a/b/file a/b; chattr +a a; \
                    cd $BOSH_INSTALL_TARGET; mkdir dir; echo x > dir/file; ln dir/file same; touch -d @-5.5 dir/file; \
                    chattr +i dir/file; chattr +a dir .; scratch=@base@/data/$BOSH_PACKAGE_NAME/dir; mkdir -p $scratch; \
                    echo > $scratch/file; chattr +i $scratch/file $scratch; \
                    if [ -n \"$TMPDIR\" ]; then mkdir $TMPDIR/dir; echo > $TMPDIR/dir/file; chattr +i $TMPDIR/dir/file $TMPDIR/dir; fi";
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], flag)
            .package(
                "app",
                &["lib"],
                &format!("{flag}; cat @packages@/lib/dir/file"),
            );
        // The second run follows the first, whose files must be removed.
        for _ in 0..2 {
            site.release(&release).succeeds();
        }
        assert_eq!(site.place.file("lib", "dir/file"), "100644 x\n");
        assert_eq!(site.place.file("app", "dir/file"), "100644 x\n");
        assert!(!site.place.world.base().exists());
    }

    pub(super) fn long_paths_are_packed_and_reach_dependents(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let name = "n".repeat(200);
        let script = format!(
            "set -e; cd $BOSH_INSTALL_TARGET; \
             perl -e 'for (1..25) {{ mkdir \"{name}\" or die; chdir \"{name}\" or die }} open F, \">file\"; link \"file\", \"same\"'"
        );
        let look = format!(
            "perl -e 'chdir $ARGV[0] or die; for (1..25) {{ chdir \"{name}\" or die }} -e \"same\" or die' @packages@/lib"
        );
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], &script)
            .package("app", &["lib"], &look);
        site.release(&release).succeeds();
        let entries = site.place.entries("lib");
        assert_eq!(entries.len(), 28);
        let last = entries.last().unwrap();
        assert_eq!(last.name.len(), "./".len() + 25 * 201 + "same".len());
        assert_eq!(last.link.len(), last.name.len());
    }

    pub(super) fn unreadable_files_and_old_times_are_packed(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let script = "set -e; cd $BOSH_INSTALL_TARGET; mkdir -p locked/inner; echo x > locked/inner/file; \
                      echo y > secret; chmod 0 secret locked/inner locked; touch -d 1950-01-02T03:04:05Z secret";
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], script)
            .package("app", &["lib"], script);
        site.release(&release).succeeds();
        for package in ["lib", "app"] {
            let entries: BTreeMap<String, Listed> = site
                .place
                .entries(package)
                .into_iter()
                .map(|entry| (entry.name.clone(), entry))
                .collect();
            let entry = |name: &str| &entries[name];
            assert_eq!(entry("./").owner, "0/1000");
            assert_eq!(entry("./").names, "root/vcap");
            for name in [
                "./locked/",
                "./locked/inner/",
                "./locked/inner/file",
                "./secret",
            ] {
                assert_eq!(entry(name).owner, "0/0", "{name}");
                assert_eq!(entry(name).names, "root/root", "{name}");
            }
            assert_eq!(entry("./locked/").mode, "d---------");
            assert_eq!(entry("./locked/inner/").mode, "d---------");
            assert_eq!(entry("./secret").mode, "----------");
            assert_eq!(entry("./secret").size, 2);
            assert_eq!(entry("./secret").time, "1950-01-02 03:04:05");
        }
    }

    pub(super) fn unremovable_leftovers_do_not_block_the_next_run(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let world = &site.place.world;
        // As after a killed run; but root has a file in each directory that the user may not remove.
        let work = world.path("work/.bosh-agent-work-1-0");
        let package = world.base().join("data/packages/app");
        // The notes come first: what is older than they are does not belong to the killed run.
        if !tier.has_mounts() {
            let packages = world.base().join("packages");
            std::fs::create_dir_all(&packages).unwrap();
            std::fs::write(packages.join(".bosh-agent:compile"), "app").unwrap();
            for path in [packages.join(".bosh-agent:compile"), packages] {
                chown(path, Some(USER), Some(USER)).unwrap();
            }
        }
        for directory in [&work, &package] {
            let inner = directory.join("inner");
            std::fs::create_dir_all(&inner).unwrap();
            std::fs::write(inner.join("file"), "root's").unwrap();
            for directory in directory.ancestors().take_while(|it| *it != world.path("")) {
                chown(directory, Some(USER), Some(USER)).unwrap();
            }
        }
        let tarball = site.place.release(&ReleaseBuilder::of_script(
            "echo > $BOSH_INSTALL_TARGET/file",
        ));
        site.agent()
            .arg("--work-dir")
            .arg(world.path("work"))
            .arg(tarball)
            .run()
            .succeeds()
            .says("Warning: could not remove temporary files");
        if !tier.has_mounts() {
            let data = listed(world.base().join("data"));
            let is_set_aside =
                |path: &PathBuf| path.display().to_string().contains("/.bosh-agent-left-");
            assert!(data.iter().any(is_set_aside), "{data:?}");
        }
    }
}

/// Runs a script that leaves a mount in its install target.
fn assert_fails(tier: Tier, script: &str, says: &str) {
    let Some(site) = Site::new(tier) else {
        return;
    };
    let script = script.replace("@host@", &site.host.display().to_string());
    for needed in [false, true] {
        let mut release = ReleaseBuilder::of_script(&format!("set -e; {script}"));
        if needed {
            release = release.package("late", &["app"], "true");
        }
        site.release(&release)
            .fails()
            .says("the packaging script of `app` left a mount at")
            .says(says)
            .says("Hint: let the script unmount");
        site.assert_untouched();
    }
}

/// Directories with files of the host that must stay unchanged.
struct Site {
    place: Place,
    host: PathBuf,
    before: BTreeMap<String, String>,
}

impl Site {
    fn new(tier: Tier) -> Option<Self> {
        let place = Place::new(tier)?;
        let host = place.world.path("host");
        std::fs::create_dir_all(host.join("dir/deeper")).unwrap();
        for file in ["file", "dir/file", "dir/deeper/file"] {
            std::fs::write(host.join(file), "the host's").unwrap();
        }
        let before = snapshot(&host);
        Some(Self {
            place,
            host,
            before,
        })
    }

    /// The program in its own mount namespace, so that leftover mounts end with it, and with few descriptors.
    fn agent(&self) -> Agent {
        if self.place.tier.who != Who::Root {
            return self.place.agent();
        }
        self.agent_after("exec ", "")
    }

    /// The program as root, between shell commands.
    fn agent_after(&self, before: &str, after: &str) -> Agent {
        let own = self.place.world.path("bosh-agent").display().to_string();
        let before = format!("shift; ulimit -n 1024; {before}{own} \"$@\"{after}");
        let words = ["unshare", "--mount", "sh", "-c", &before, "sh"];
        let agent = Agent::wrapped(&self.place.world.path("printed"), &words);
        self.place.with_flags(agent)
    }

    fn run(&self, script: &str) -> Ran {
        self.release(&ReleaseBuilder::of_script(script))
    }

    fn release(&self, release: &ReleaseBuilder) -> Ran {
        self.agent().arg(self.place.release(release)).run()
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(snapshot(&self.host), self.before, "files of the host");
    }
}
