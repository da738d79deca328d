//! Signals at random times, repeatedly, in each isolation tier. `BOSH_AGENT_SOAK=1` sends a hundred of each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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

/// The files that runs may leave in the output directory.
const RESULTS: [&str; 2] = [
    "demo-1.10-ubuntu-noble-1.406.tgz",
    "hostile-1-ubuntu-noble-1.406.tgz",
];

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

/// Scripts whose leftovers are hard to remove, or that replace the agent's directories. `@host@` is a directory of the host.
const HOSTILE: [&str; 6] = [
    "for tree in $BOSH_COMPILE_TARGET $BOSH_INSTALL_TARGET; do \
       perl -e 'chdir $ARGV[0] or die; for (1..2500) { mkdir \"d\" or die; chdir \"d\" or die } open F, \">file\"' $tree; done",
    "mkdir bound memory; mount --bind @host@ bound; mount -t tmpfs none memory; echo > memory/file; \
     mkdir $BOSH_INSTALL_TARGET/bound; mount --bind @host@ $BOSH_INSTALL_TARGET/bound",
    "mkdir -p a/b; echo > a/b/file; chattr +i a/b/file a/b; chattr +a a .; echo > $BOSH_INSTALL_TARGET/file; \
     chattr +i $BOSH_INSTALL_TARGET/file $BOSH_INSTALL_TARGET",
    "mkdir -p a/b; echo > a/b/file; chmod 0 a/b/file a/b a; chmod 0 .; chmod 0 $BOSH_INSTALL_TARGET",
    "cd /; mv @base@/data/compile @base@/data/compile-moved; ln -s @host@ @base@/data/compile",
    "cd /; rm -rf @base@/data/packages/[bc]; ln -s @host@ @base@/data/packages/b; \
     mv @base@/packages @base@/packages-moved; ln -s @host@ @base@/packages",
];

/// A package with one of these scripts, and a stubborn one.
fn hostile(script: &str, host: &Path, base: &Path) -> ReleaseBuilder {
    let script = script
        .replace("@host@", &host.display().to_string())
        .replace("@base@", &base.display().to_string());
    ReleaseBuilder::new("hostile", "1")
        .package("a", &[], "(trap '' TERM; sleep 10) & sleep 0.05")
        .package("b", &[], &format!("{script}\nsleep 0.2"))
        .package("c", &["a"], &format!("{script}\nsleep 0.2"))
}

/// Directories with other files in the base directory.
struct Place {
    world: World,
    isolation: &'static str,
    tarball: PathBuf,
    /// Releases with hostile scripts.
    hostile: Vec<PathBuf>,
    /// A directory that such scripts link to and mount.
    host: PathBuf,
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
        let host = world.path("host");
        // The agent would use and remove these files by path.
        for directory in ["b", "c", "compile/b", "packages/b"] {
            std::fs::create_dir_all(host.join(directory)).unwrap();
            std::fs::write(host.join(directory).join("file"), "the host's").unwrap();
        }
        let hostile = HOSTILE.iter().enumerate().map(|(number, script)| {
            let release = hostile(script, &host, &world.base());
            world.release(&format!("hostile-{number}.tgz"), &release)
        });
        Self {
            hostile: hostile.collect(),
            before: snapshot(&world.base()),
            world,
            isolation,
            tarball,
            host,
            chance: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Starts a run and sends it a signal at some time. Returns its exit code.
    fn interrupt(&mut self, signal: Signal) -> Option<i32> {
        self.interrupt_with(&self.tarball.clone(), signal)
    }

    fn interrupt_with(&mut self, tarball: &Path, signal: Signal) -> Option<i32> {
        // xorshift: random enough, and reproducible.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let agent = self.world.agent_at(self.isolation, "out");
        let running = agent
            .args(&["--grace", "1", "--logs-dir"])
            .arg(self.world.path("logs"))
            .arg(tarball)
            .start();
        // The time is the variable of this test; it waits for no event.
        std::thread::sleep(Duration::from_millis(self.chance % SPAN_MS));
        running.signal(signal);
        running.end().code
    }

    /// Asserts that the run after a killed one succeeds and removes its leftovers.
    fn next_run_leaves_nothing(&self, tarball: &Path) {
        let next = self.world.agent_at(self.isolation, "out");
        next.args(&["--grace", "1", "--logs-dir"])
            .arg(self.world.path("logs"))
            .arg(tarball)
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
            assert!(RESULTS.contains(&name.as_str()), "{name}");
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
        place.next_run_leaves_nothing(&place.tarball);
    }
    assert_eq!(place.mounts(), mounts);
}

fn killed_with_hostile_scripts(isolation: &'static str) {
    let mut place = Place::new(isolation);
    let (mounts, host) = (place.mounts(), snapshot(&place.host));
    let hostile = place.hostile.clone();
    let plain = ReleaseBuilder::new("demo", "1.10")
        .package("b", &[], "echo > $BOSH_INSTALL_TARGET/file")
        .package("c", &["b"], "cat @packages@/b/file");
    let plain = place.world.release("plain.tgz", &plain);
    let rounds = if is_long() {
        rounds()
    } else {
        HOSTILE.len() as u64
    };
    for (round, tarball) in (0..rounds).zip(hostile.iter().cycle()) {
        place.interrupt_with(tarball, Signal::SIGKILL);
        place.next_run_leaves_nothing(&plain);
        assert_eq!(snapshot(&place.host), host, "round {round}");
        assert_eq!(place.mounts(), mounts, "round {round}");
    }
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

#[test]
fn sigkill_with_hostile_scripts_in_place() {
    if require_root() {
        killed_with_hostile_scripts("none");
    }
}

#[test]
fn sigkill_with_hostile_scripts_in_namespaces() {
    if require_root() {
        killed_with_hostile_scripts("namespace");
    }
}

#[test]
fn sigkill_with_hostile_scripts_in_user_namespaces() {
    if require_root() {
        killed_with_hostile_scripts("userns");
    }
}

#[test]
fn sigkill_with_hostile_scripts_under_rules() {
    if require_root() {
        killed_with_hostile_scripts("landlock");
    }
}
