//! Processes of scripts that wait in the kernel and cannot be killed: they are named, and nobody waits for them.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests start programs and handle files by the plain means, and fail where these fail"
)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use support::{
    LANDLOCK, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER, USERNS_OF_ROOT,
    in_tiers, require, require_tools, wait_for,
};

in_tiers!(an_unkillable_orphan_fails_its_package: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(a_stop_does_not_wait_for_an_unkillable_script: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);

const LIMIT: Duration = Duration::from_secs(60);

/// A file system that does not answer, as of a server that is gone.
struct Hanging {
    server: Child,
    at: PathBuf,
}

impl Hanging {
    fn mount(place: &Place) -> Option<Self> {
        if !require_tools(&["python3"]) || !require(Path::new("/dev/fuse").exists(), "FUSE") {
            return None;
        }
        let (at, facts) = (place.world.path("hanging"), place.world.path("facts"));
        std::fs::create_dir(&at).unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/hanging.py");
        let server = Command::new("python3")
            .arg(program)
            .args([&at, &facts])
            .spawn()
            .unwrap();
        let mut hanging = Self { server, at };
        wait_for("the mount", LIMIT, || {
            assert!(
                hanging.server.try_wait().unwrap().is_none(),
                "no FUSE mount"
            );
            let is_mounted = facts.join("mounted").exists();
            is_mounted.then_some(()).ok_or_else(String::new)
        });
        Some(hanging)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        // With its server the connection ends, and every process that waits for it.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

mod bodies {
    use super::*;

    pub(super) fn an_unkillable_orphan_fails_its_package(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = Hanging::mount(&place) else {
            return;
        };
        let start = Instant::now();
        let ran = place
            .agent()
            .arg(place.release(&ReleaseBuilder::of_script(
                "stat $FACTS/../hanging/x & while [ ! -e $FACTS/hung ]; do sleep 0.01; done; echo done > $BOSH_INSTALL_TARGET/file",
            )))
            .run()
            .fails()
            .says("a process of the packaging script of `app` cannot be killed: `stat` (process ")
            .says(", state D")
            .says("the package's directories are left in `");
        assert_eq!(ran.code, Some(1));
        assert!(start.elapsed() < LIMIT);
    }

    pub(super) fn a_stop_does_not_wait_for_an_unkillable_script(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = Hanging::mount(&place) else {
            return;
        };
        let running = place.start(
            "touch $FACTS/started; stat $FACTS/../hanging/x; echo > $BOSH_INSTALL_TARGET/file",
        );
        wait_for("the hanging process", LIMIT, || {
            let hangs = place.world.path("facts/hung").exists();
            hangs.then_some(()).ok_or_else(String::new)
        });
        let start = Instant::now();
        running.signal(Signal::SIGTERM);
        let ran = running.end();
        assert!(start.elapsed() < LIMIT, "{}", ran.stderr);
        assert_eq!(ran.code, Some(143), "{}", ran.stderr);
        ran.says("cannot be killed: `stat` (process ");
    }
}
