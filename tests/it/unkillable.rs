//! Processes of scripts that wait in the kernel and cannot be killed: they are named, and nobody waits for them.

use std::time::{Duration, Instant};

use crate::support::{
    Hanging, LANDLOCK, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER,
    USERNS_OF_ROOT, in_tiers, wait_for,
};
use nix::sys::signal::Signal;

in_tiers!(an_unkillable_orphan_fails_its_package: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(a_stop_does_not_wait_for_an_unkillable_script: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);

in_tiers!(a_start_that_hangs_is_reported_when_it_is_stopped: NAMESPACE USERNS_OF_ROOT LANDLOCK NONE);
in_tiers!(a_start_that_hangs_fails_its_package: NAMESPACE LANDLOCK NONE);
in_tiers!(a_silent_mount_beside_the_base_directory_hinders_nothing: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);

const LIMIT: Duration = Duration::from_secs(60);

/// A second of grace and ten for processes to be gone, and as much for a slow machine.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// What the start of a script may take.
const START_LIMIT: Duration = Duration::from_secs(60);

mod bodies {
    use super::*;

    pub(super) fn an_unkillable_orphan_fails_its_package(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = Hanging::mount(&place.world) else {
            return;
        };
        let start = Instant::now();
        let ran = place
            .agent()
            .arg(place.release(&ReleaseBuilder::of_script(
                "stat $FACTS/../hanging/x & while [ ! -e $FACTS/hung ]; do sleep 0.01; done; echo done > $BOSH_INSTALL_TARGET/file",
            )))
            .run()
            .blames_the_machine()
            .says("a process of the packaging script of `app` cannot be killed: `stat` (process ")
            .says(", state D")
            .says("the package's directories are left in `");
        assert_eq!(ran.code, Some(4));
        assert!(start.elapsed() < LIMIT);
    }

    /// An agent whose scripts look for `bash` in the hanging file system first.
    fn looks_there_first(place: &Place) -> String {
        let hanging = place.world.path("hanging");
        format!(
            "env PATH={}:/usr/sbin:/usr/bin:/sbin:/bin",
            hanging.display()
        )
    }

    fn wait_until_it_hangs(place: &Place) {
        wait_for("the hanging process", LIMIT, || {
            let hangs = place.world.path("facts/hung").exists();
            hangs.then_some(()).ok_or_else(String::new)
        });
    }

    pub(super) fn a_start_that_hangs_is_reported_when_it_is_stopped(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = Hanging::mount(&place.world) else {
            return;
        };
        let release = place.release(&ReleaseBuilder::of_script("true"));
        let agent = place.agent_through(&looks_there_first(&place));
        let running = agent.args(&["--grace", "1"]).arg(release).start();
        wait_until_it_hangs(&place);
        let start = Instant::now();
        running.signal(Signal::SIGTERM);
        let ran = running.end();
        assert!(start.elapsed() < STOP_LIMIT, "{}", ran.stderr);
        assert_eq!(ran.code, Some(143), "{}", ran.stderr);
        let bash = place.world.path("hanging/bash");
        ran.says("cannot be killed: `sandbox-child` (process ")
            .says(&format!("which was to start `{}`", bash.display()));
    }

    pub(super) fn a_start_that_hangs_fails_its_package(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = Hanging::mount(&place.world) else {
            return;
        };
        let release = place.release(&ReleaseBuilder::of_script("true"));
        let agent = place.agent_through(&looks_there_first(&place));
        let start = Instant::now();
        let ran = agent.arg(release).run().blames_the_machine();
        assert!(start.elapsed() < START_LIMIT + STOP_LIMIT, "{}", ran.stderr);
        let bash = place.world.path("hanging/bash");
        ran.says("Error: failed to compile package app/")
            .says("a process of the packaging script of `app` cannot be killed: `sandbox-child` (process ")
            .says(&format!("which was to start `{}`", bash.display()));
    }

    pub(super) fn a_silent_mount_beside_the_base_directory_hinders_nothing(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = Hanging::mount_silent(&place.world) else {
            return;
        };
        let start = Instant::now();
        place
            .run(&ReleaseBuilder::of_script(
                "echo done > $BOSH_INSTALL_TARGET/file",
            ))
            .succeeds()
            .says(&format!("Isolation: {}", tier.name));
        assert!(start.elapsed() < LIMIT);
        assert_eq!(place.file("app", "file"), "100644 done\n");
        assert!(!place.world.path("facts/hung").exists());
    }

    pub(super) fn a_stop_does_not_wait_for_an_unkillable_script(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = Hanging::mount(&place.world) else {
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
