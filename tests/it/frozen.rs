//! Processes of scripts that the freezer of control groups (version 1) stops: SIGKILL ends them only when they are thawed.

use std::path::{Path, PathBuf};

use crate::support::{NONE, Place, ReleaseBuilder, Tier, in_tiers, require, wait_for};

in_tiers!(frozen_process_is_reported_with_its_state: NONE);

const FREEZER: &str = "/sys/fs/cgroup/freezer";

/// A control group, whose processes are thawed at the end.
struct Group(PathBuf);

impl Group {
    /// `None` if this machine has no such freezer, as with version 2 only.
    fn new() -> Option<Self> {
        let name = format!("bosh-agent-test-{}", std::process::id());
        let path = Path::new(FREEZER).join(name);
        std::fs::create_dir(&path).ok()?;
        let group = Self(path);
        std::fs::create_dir(group.inner()).unwrap();
        Some(group)
    }

    /// A group in it, which is frozen with it.
    fn inner(&self) -> PathBuf {
        self.0.join("inner")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its process was killed while it was frozen.
        let _ = std::fs::write(self.0.join("freezer.state"), "THAWED");
        wait_for(
            "the end of the frozen process",
            std::time::Duration::from_secs(60),
            || {
                let removed = std::fs::remove_dir(self.inner());
                removed.map_err(|error| error.to_string())
            },
        );
        let _ = std::fs::remove_dir(&self.0);
    }
}

mod bodies {
    use super::*;

    pub(super) fn frozen_process_is_reported_with_its_state(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let group = Group::new();
        if !require(group.is_some(), "the freezer of control groups version 1") {
            return;
        }
        let Some(group) = group else {
            return;
        };
        let path = group.0.display().to_string();
        let script = format!(
            "sleep 1000 & echo $! > {path}/inner/tasks && echo FROZEN > {path}/freezer.state && touch $FACTS/frozen"
        );
        place
            .run(&ReleaseBuilder::of_script(&script))
            .blames_the_machine()
            .says(", state D, frozen")
            .says(&format!("the control group `{path}` is frozen"))
            .does_not_say("FUSE");
        assert!(place.world.path("facts/frozen").exists());
    }
}
