//! Processes of scripts that wait in the kernel and cannot be killed: they are named, and nobody waits for them.

use std::time::{Duration, Instant};

use crate::support::{
    Hanging, LANDLOCK, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER,
    USERNS_OF_ROOT, in_tiers, wait_for,
};
use nix::sys::signal::Signal;

in_tiers!(an_unkillable_orphan_fails_its_package: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(a_stop_does_not_wait_for_an_unkillable_script: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);

const LIMIT: Duration = Duration::from_secs(60);

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
