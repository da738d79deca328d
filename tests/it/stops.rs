//! Signals at random times, repeatedly, in each isolation tier. `BOSH_AGENT_SOAK=1` sends a hundred of each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::{ReleaseBuilder, World, processes_below, require_root, snapshot, wait_for};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);

/// The longest wait before a signal: the approximate duration of a run.
const SPAN_MS: u64 = 350;

fn is_long() -> bool {
    std::env::var_os("BOSH_AGENT_SOAK").is_some()
}

fn rounds() -> u64 {
    if is_long() { 100 } else { 10 }
}

/// The only file that runs may leave in the output directory.
const RESULT: &str = "demo-1.10-ubuntu-noble-1.406.tgz";

/// Scripts that fork, detach, ignore signals and change their dependencies; a chain, so that signals arrive in each phase, and one that may
/// run concurrently.
fn release() -> ReleaseBuilder {
    let stubborn = "setsid bash -c \"trap '' TERM HUP INT; for n in $(seq 100); do sleep 0.1; done\" & \
                    (trap '' TERM; sleep 0.05; sleep 10) & head -c 300000 /dev/urandom > $BOSH_INSTALL_TARGET/data; sleep 0.03";
    ReleaseBuilder::new("demo", "1.10")
        .package("a", &[], stubborn)
        .package("b", &["a"], &format!("touch @packages@/a/new; {stubborn}"))
        .package("c", &["a", "b"], stubborn)
        .package("d", &[], stubborn)
}

/// Directories with other files in the base directory.
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
        Self {
            before: snapshot(&world.base()),
            world,
            isolation,
            tarball,
            chance: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Starts a run and sends it a signal at some time. Returns its exit code.
    fn interrupt(&mut self, signal: Signal) -> Option<i32> {
        // xorshift: random enough, and reproducible.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let agent = self.world.agent_at(self.isolation, "out");
        let running = agent
            .args(&["--grace", "1", "--logs-dir"])
            .arg(self.world.path("logs"))
            .arg(&self.tarball)
            .start();
        // The time is the variable of this test; it waits for no event.
        std::thread::sleep(Duration::from_millis(self.chance % SPAN_MS));
        running.signal(signal);
        running.end().code
    }

    /// Asserts that the run after a killed one succeeds and removes its leftovers.
    fn next_run_leaves_nothing(&self) {
        let next = self.world.agent_at(self.isolation, "out");
        next.args(&["--grace", "1", "--logs-dir"])
            .arg(self.world.path("logs"))
            .arg(&self.tarball)
            .run()
            .succeeds();
        self.check_output();
        self.wait_for_no_process();
        let after = snapshot(&self.world.base());
        let left: Vec<&String> = after
            .keys()
            .filter(|name| !self.before.contains_key(*name))
            // Empty directories that the killed run created for packages.
            .filter(|name| !matches!(name.as_str(), "packages" | "data/packages" | "data/compile"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    fn wait_for_no_process(&self) {
        wait_for("the end of all processes", LIMIT, || {
            let left = processes_below(&self.world.path(""));
            left.is_empty().then_some(()).ok_or(format!("{left:#?}"))
        });
    }

    /// Asserts that each result is complete or missing, and that no other file is in the output directory.
    fn check_output(&self) {
        let out = self.world.out();
        let names: Vec<String> = snapshot(&out)
            .into_keys()
            .filter(|name| !name.is_empty())
            .collect();
        for name in names {
            assert_eq!(name, RESULT);
            crate::support::list(&out.join(&name));
            std::fs::remove_file(out.join(name)).unwrap();
        }
    }

    /// The number of mounts below the test's directory.
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
        // Before it handles signals, a signal ends it like any program; at its end there may be nothing to stop.
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
        place.next_run_leaves_nothing();
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
