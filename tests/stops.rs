//! Signals at random moments, again and again, under each isolation. `BOSH_AGENT_SOAK=1` makes it a hundred times each.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests start programs and handle files by the plain means, and fail where these fail"
)]

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::{ReleaseBuilder, World, processes_below, require_root, snapshot, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// The longest wait before a signal: a run takes about as long.
const SPAN_MS: u64 = 350;

fn rounds() -> u64 {
    if std::env::var_os("BOSH_AGENT_SOAK").is_some() {
        100
    } else {
        10
    }
}

/// Scripts that fork, detach, ignore signals and change their dependencies; a chain, so that every phase is met, and one that
/// may run beside it.
fn release() -> ReleaseBuilder {
    let stubborn = "setsid bash -c \"trap '' TERM HUP INT; for n in $(seq 100); do sleep 0.1; done\" & \
                    (trap '' TERM; sleep 0.05; sleep 10) & head -c 300000 /dev/urandom > $BOSH_INSTALL_TARGET/data; sleep 0.03";
    ReleaseBuilder::new("demo", "1.10")
        .package("a", &[], stubborn)
        .package("b", &["a"], &format!("touch @packages@/a/new; {stubborn}"))
        .package("c", &["a", "b"], stubborn)
        .package("d", &[], stubborn)
}

/// A place with what a machine may already have in its base directory.
struct Place {
    world: World,
    isolation: &'static str,
    tarball: PathBuf,
    before: BTreeMap<String, String>,
    chance: u64,
}

impl Place {
    fn new(isolation: &'static str) -> Self {
        let world = World::outside_tmp();
        std::fs::create_dir(world.out()).unwrap();
        std::fs::create_dir_all(world.base().join("bosh")).unwrap();
        std::fs::create_dir_all(world.base().join("data")).unwrap();
        let tarball = world.release("release.tgz", &release());
        let before = snapshot(&world.base());
        Self {
            world,
            isolation,
            tarball,
            before,
            chance: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Starts a run and sends it a signal at some moment of it. Returns its exit code.
    fn interrupt(&mut self, signal: Signal) -> Option<i32> {
        // xorshift: random enough, and the same each time.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let agent = self.world.agent_at(self.isolation, "out");
        let running = agent
            .args(&["--grace", "1", "--logs-dir"])
            .arg(self.world.path("logs"))
            .arg(&self.tarball)
            .start();
        // The moment is what is varied here; nothing is expected to have happened by then.
        std::thread::sleep(Duration::from_millis(self.chance % SPAN_MS));
        running.signal(signal);
        running.end().code
    }

    fn wait_for_no_process(&self) {
        wait_for("the end of all processes", LIMIT, || {
            let left = processes_below(&self.world.path(""));
            left.is_empty().then_some(()).ok_or(format!("{left:#?}"))
        });
    }

    /// A result is whole or not there; nothing else is in the output directory.
    fn check_output(&self) {
        let out = self.world.out();
        let names: Vec<String> = snapshot(&out)
            .into_keys()
            .filter(|name| !name.is_empty())
            .collect();
        if !names.is_empty() {
            assert_eq!(names, ["demo-1.10-ubuntu-noble-1.406.tgz"]);
            support::list(&self.world.result("demo-1.10"));
            std::fs::remove_file(self.world.result("demo-1.10")).unwrap();
        }
    }

    /// How much is mounted below the test's directory: elsewhere others mount, too.
    fn mounts(&self) -> usize {
        let own = self.world.path("").display().to_string();
        std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .filter(|mount| mount.contains(own.trim_end_matches('/')))
            .count()
    }
}

fn stopped_again_and_again(isolation: &'static str, signal: Signal, code: i32) {
    let mut place = Place::new(isolation);
    let mounts = place.mounts();
    for _ in 0..rounds() {
        let ended = place.interrupt(signal);
        // Before it listens, a signal ends it as it ends any program; after its work is done there is nothing to stop.
        assert!(
            matches!(ended, None | Some(0)) || ended == Some(code),
            "{ended:?}"
        );
        let left = processes_below(&place.world.path(""));
        assert!(left.is_empty(), "{left:#?}");
        place.check_output();
        if ended.is_some() {
            assert_eq!(snapshot(&place.world.base()), place.before);
        }
    }
    assert_eq!(place.mounts(), mounts);
}

fn killed_again_and_again(isolation: &'static str) {
    let mut place = Place::new(isolation);
    let mounts = place.mounts();
    for _ in 0..rounds() {
        place.interrupt(Signal::SIGKILL);
        let next = place
            .world
            .agent_at(isolation, "out")
            .arg("--logs-dir")
            .arg(place.world.path("logs"))
            .arg(&place.tarball);
        next.run().succeeds();
        place.check_output();
        place.wait_for_no_process();
        let after = snapshot(&place.world.base());
        let left: Vec<&String> = after
            .keys()
            .filter(|name| !place.before.contains_key(*name))
            // Directories that the killed run made for packages, empty now.
            .filter(|name| !matches!(name.as_str(), "packages" | "data/packages" | "data/compile"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert_eq!(place.mounts(), mounts);
}

#[test]
fn sigterm_in_place() {
    stopped_again_and_again("none", Signal::SIGTERM, 143);
}

#[test]
fn sigint_in_place() {
    stopped_again_and_again("none", Signal::SIGINT, 130);
}

#[test]
fn sigkill_in_place() {
    killed_again_and_again("none");
}

#[test]
fn sigterm_in_namespaces() {
    if require_root() {
        stopped_again_and_again("namespace", Signal::SIGTERM, 143);
    }
}

#[test]
fn sigint_in_namespaces() {
    if require_root() {
        stopped_again_and_again("namespace", Signal::SIGINT, 130);
    }
}

#[test]
fn sigkill_in_namespaces() {
    if require_root() {
        killed_again_and_again("namespace");
    }
}

#[test]
fn sigterm_in_user_namespaces() {
    if require_root() {
        stopped_again_and_again("userns", Signal::SIGTERM, 143);
    }
}

#[test]
fn sigkill_in_user_namespaces() {
    if require_root() {
        killed_again_and_again("userns");
    }
}

#[test]
fn sigterm_under_rules() {
    stopped_again_and_again("landlock", Signal::SIGTERM, 143);
}

#[test]
fn sigkill_under_rules() {
    killed_again_and_again("landlock");
}
