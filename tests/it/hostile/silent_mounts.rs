//! File systems that do not respond, over the directories of the tree: a run after a killed one unmounts those of the script, and names
//! those of the machine.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{
    Agent, Daemon, Hanging, LANDLOCK, LANDLOCK_OF_ROOT, NONE, Place, ReleaseBuilder, Tier, World,
    in_tiers, require_tools, wait_for,
};

in_tiers!(mounts_of_a_killed_run_are_unmounted: LANDLOCK_OF_ROOT NONE);
in_tiers!(mounts_of_the_machine_are_named: LANDLOCK_OF_ROOT NONE);
in_tiers!(signal_ends_the_wait_for_a_mount: LANDLOCK_OF_ROOT NONE);
in_tiers!(automatic_tier_waits_once_for_a_mount: LANDLOCK);

const LIMIT: Duration = Duration::from_secs(120);

/// The time in which a run ends after a signal.
const SOON: Duration = Duration::from_secs(10);

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

/// Compiles, and waits only for a short time for a file system.
fn impatient(place: &Place) -> Agent {
    let agent = place.agent().env("BOSH_AGENT_TEST_MOUNT_LIMIT", "3");
    agent.arg(place.release(&plain()))
}

/// Runs a test of each case on a thread of its own: in some cases, the agent waits until a limit.
fn for_each_case(tier: Tier, test: impl Fn(Place, &str, bool) + Sync) {
    std::thread::scope(|scope| {
        for (directory, is_there) in CASES {
            if let Some(place) = Place::new(tier) {
                let test = &test;
                scope.spawn(move || test(place, directory, is_there));
            }
        }
    });
}

#[test]
fn daemon_names_mounts_that_do_not_respond() {
    if !require_tools(&["openssl"]) {
        return;
    }
    std::thread::scope(|scope| {
        for directory in ["bosh", "data", "data/sys/log", "packages", "sys"] {
            scope.spawn(move || {
                let world = World::new();
                Daemon::configure(&world);
                std::fs::create_dir(world.path("facts")).unwrap();
                let at = format!("vcap/{directory}");
                let Some(_hanging) = Hanging::mount_silent_at(&world, &at) else {
                    return;
                };
                let agent = Agent::wrapped(&world.path("printed"), &[""; 0]);
                let agent = Daemon::command(agent, &world).within(LIMIT);
                let ended = agent.env("BOSH_AGENT_TEST_MOUNT_LIMIT", "3").run();
                assert_eq!(ended.code, Some(1), "{directory}");
                let said = format!(
                    "Checking the directories of the machine: the file system that is mounted at `{}` does not respond: no result after ",
                    world.base().join(directory).display()
                );
                assert!(ended.stderr.contains(&said), "{}", ended.stderr);
                assert!(ended.stderr.contains("umount -l"), "{}", ended.stderr);
            });
        }
    });
}

mod bodies {
    use super::*;

    pub(super) fn mounts_of_a_killed_run_are_unmounted(tier: Tier) {
        for_each_case(tier, |place, directory, is_there| {
            let running = place.start("touch $FACTS/started; sleep 1000");
            running.signal(Signal::SIGKILL);
            running.end();
            let Some(_hanging) = mount(&place, directory, is_there) else {
                return;
            };
            let start = Instant::now();
            let mounted = place.world.base().join(directory);
            impatient(&place).run().succeeds().says(&format!(
                "unmounted a file system without response that the packaging script of a killed run left mounted: `{}`",
                mounted.display()
            ));
            assert!(start.elapsed() < LIMIT, "{directory}");
            assert_eq!(place.file("app", "file"), "100644 done\n");
        });
    }

    pub(super) fn mounts_of_the_machine_are_named(tier: Tier) {
        for_each_case(tier, |place, directory, is_there| {
            let Some(_hanging) = mount(&place, directory, is_there) else {
                return;
            };
            let start = Instant::now();
            let mounted = place.world.base().join(directory);
            let ran = impatient(&place).run().blames_the_machine().says(&format!(
                "the file system that is mounted at `{}` does not respond",
                mounted.display()
            ));
            if is_there {
                ran.says(" does not respond: no result after ");
            }
            assert!(start.elapsed() < LIMIT, "{directory}");
        });
    }

    pub(super) fn automatic_tier_waits_once_for_a_mount(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = mount(&place, "packages", true) else {
            return;
        };
        // After ten seconds, a message says that the agent waits.
        let agent = place.agent().env("BOSH_AGENT_TEST_MOUNT_LIMIT", "11");
        let ran = agent.arg(place.release(&plain())).run();
        let ran = ran.blames_the_machine().says("packages` does not respond");
        let message = "waiting for the file system that is mounted at";
        assert_eq!(ran.stderr.matches(message).count(), 1, "{}", ran.stderr);
    }

    pub(super) fn signal_ends_the_wait_for_a_mount(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = mount(&place, "packages", true) else {
            return;
        };
        let mounted = place.world.base().join("packages");
        let running = place.agent().arg(place.release(&plain())).start();
        let said = format!(
            "waiting for the file system that is mounted at `{}`",
            mounted.display()
        );
        wait_for("the message", LIMIT, || {
            let is_said = running.stderr().contains(&said);
            is_said.then_some(()).ok_or_else(|| running.stderr())
        });
        running.signal(Signal::SIGTERM);
        running.end_within(SOON).does_not_say("does not respond: ");
    }
}
