//! Protections by root in an ordinary user's trees while a script runs: flags that the user may not clear and mounts that the user may not
//! unmount. A package fails only if its result is affected, and no file is removed through a mount.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{
    LANDLOCK_OF_A_USER, NONE_OF_A_USER, Place, Ran, Tier, USERNS_OF_A_USER, in_tiers, run_tool,
    snapshot,
};

in_tiers!(flagged_files_in_the_compile_directory_are_left_behind: USERNS_OF_A_USER LANDLOCK_OF_A_USER NONE_OF_A_USER);
in_tiers!(flagged_file_in_the_install_target_is_packed: USERNS_OF_A_USER LANDLOCK_OF_A_USER NONE_OF_A_USER);
in_tiers!(mounts_of_root_keep_their_files: LANDLOCK_OF_A_USER NONE_OF_A_USER);

/// Creates a file and a directory, and ends when root has protected them.
const SCRIPT: &str = "set -e; mkdir $BOSH_COMPILE_TARGET/protected; echo x > $BOSH_COMPILE_TARGET/protected/compiled; \
                      echo x > $BOSH_INSTALL_TARGET/installed; touch $FACTS/started; \
                      until [ -e $FACTS/go ]; do sleep 0.01; done";

/// Flags that root set, and that are cleared at the end of the test.
struct Flagged(PathBuf);

impl Drop for Flagged {
    fn drop(&mut self) {
        // Moved files have other paths. The exit code is not checked, as links in the tree cause errors.
        let _ = Command::new("chattr")
            .args(["-R", "-f", "-i"])
            .arg(&self.0)
            .status();
    }
}

/// The only file of this name below `directory`.
fn find(directory: &Path, name: &str) -> PathBuf {
    let found = run_tool(
        "find",
        &[directory.as_os_str(), "-name".as_ref(), name.as_ref()],
    );
    let mut lines = found.lines();
    let path = lines.next().unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(lines.next(), None);
    PathBuf::from(path)
}

/// Runs the script, and `protect` while it waits. `protect` gets the agent's process id.
fn run(place: &Place, protect: impl FnOnce(&Path, i32)) -> Ran {
    let works = place.world.path("works");
    std::fs::create_dir(&works).unwrap();
    run_tool("chmod", &["777".as_ref(), works.as_os_str()]);
    let agent = place.agent().arg("--work-dir").arg(&works);
    let running = place.start_of(agent, SCRIPT);
    protect(&place.world.path(""), running.pid());
    std::fs::write(place.world.path("facts/go"), "").unwrap();
    running.end()
}

fn flag(path: &Path) {
    run_tool("chattr", &["+i".as_ref(), path.as_os_str()]);
}

mod bodies {
    use super::*;

    pub(super) fn flagged_files_in_the_compile_directory_are_left_behind(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let _flagged = Flagged(place.world.path(""));
        run(&place, |world, _| flag(&find(world, "compiled")))
            .succeeds()
            .says("could not remove")
            .says("run `chattr -i -a ");
        assert_eq!(place.file("app", "installed"), "100644 x\n");
    }

    pub(super) fn flagged_file_in_the_install_target_is_packed(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let _flagged = Flagged(place.world.path(""));
        run(&place, |world, _| flag(&find(world, "installed")))
            .succeeds()
            .says("run `chattr -i -a ");
        assert_eq!(place.file("app", "installed"), "100644 x\n");
    }

    pub(super) fn mounts_of_root_keep_their_files(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let host = place.world.path("host");
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("file"), "the host's").unwrap();
        let before = snapshot(&host);
        let ran = run(&place, |world, agent| {
            let agent = agent.to_string();
            let mount = [
                "--target".as_ref(),
                agent.as_ref(),
                "--mount".as_ref(),
                "mount".as_ref(),
                "--bind".as_ref(),
                host.as_os_str(),
                find(world, "protected").as_os_str(),
            ]
            .map(std::ffi::OsStr::to_owned);
            run_tool("nsenter", &mount);
        });
        ran.succeeds().says("run `umount ");
        assert_eq!(place.file("app", "installed"), "100644 x\n");
        assert_eq!(snapshot(&host), before);
    }
}
