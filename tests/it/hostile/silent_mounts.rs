//! File systems that do not respond, over the directories of the tree: a run after a killed one unmounts those of the script, and names
//! those of the machine.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Hanging, LANDLOCK_OF_ROOT, NONE, Place, ReleaseBuilder, Tier, in_tiers};

in_tiers!(mounts_of_a_killed_run_are_unmounted: LANDLOCK_OF_ROOT NONE);
in_tiers!(mounts_of_the_machine_are_named: LANDLOCK_OF_ROOT NONE);

const LIMIT: Duration = Duration::from_secs(60);

/// The directories, and whether the server of the file system still exists, but does not answer.
const CASES: [(&str, bool); 6] = [
    ("data", true),
    ("packages", true),
    ("data", false),
    ("packages", false),
    ("data/packages", false),
    ("data/compile", false),
];

fn mount(place: &Place, directory: &str, is_there: bool) -> Option<Hanging> {
    let mut hanging = Hanging::mount_silent_at(&place.world, &format!("vcap/{directory}"))?;
    if !is_there {
        hanging.end_server();
    }
    Some(hanging)
}

fn plain() -> ReleaseBuilder {
    ReleaseBuilder::of_script("echo done > $BOSH_INSTALL_TARGET/file")
}

mod bodies {
    use super::*;

    pub(super) fn mounts_of_a_killed_run_are_unmounted(tier: Tier) {
        for (directory, is_there) in CASES {
            let Some(place) = Place::new(tier) else {
                return;
            };
            let running = place.start("touch $FACTS/started; sleep 1000");
            running.signal(Signal::SIGKILL);
            running.end();
            let Some(_hanging) = mount(&place, directory, is_there) else {
                return;
            };
            let start = Instant::now();
            let mounted = place.world.base().join(directory);
            place.run(&plain()).succeeds().says(&format!(
                "unmounted a file system without response that the packaging script of a killed run left mounted: `{}`",
                mounted.display()
            ));
            assert!(start.elapsed() < LIMIT, "{directory}");
            assert_eq!(place.file("app", "file"), "100644 done\n");
        }
    }

    pub(super) fn mounts_of_the_machine_are_named(tier: Tier) {
        for (directory, is_there) in CASES {
            let Some(place) = Place::new(tier) else {
                return;
            };
            let Some(_hanging) = mount(&place, directory, is_there) else {
                return;
            };
            let start = Instant::now();
            let mounted = place.world.base().join(directory);
            place.run(&plain()).blames_the_machine().says(&format!(
                "the file system that is mounted at `{}` does not respond",
                mounted.display()
            ));
            assert!(start.elapsed() < LIMIT, "{directory}");
        }
    }
}
