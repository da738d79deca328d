//! Several processes that use one cache at once, some of them killed.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;

use super::files_below;
use crate::support::{
    Agent, NamespaceWorld, Ran, ReleaseBuilder, Running, is_soak, processes_below, unpacked,
    wait_for,
};

/// How many processes use the cache.
const PROCESSES: usize = 8;

/// How many of them are killed.
const KILLED: usize = 3;

/// Within how many milliseconds they are killed: the approximate duration of a run.
const SPAN_MS: u64 = 600;

/// How long the last processes may take to end.
const LIMIT: Duration = Duration::from_secs(60);

fn random(below: u64) -> u64 {
    RandomState::new().hash_one(0_u8) % below
}

fn release(round: usize) -> ReleaseBuilder {
    let text = format!("echo {round} > $BOSH_INSTALL_TARGET/text; sleep 0.05");
    let copy = |of: &str| format!("cp @packages@/{of}/text $BOSH_INSTALL_TARGET/{of}; {text}");
    ReleaseBuilder::new("demo", "1")
        .package("a", &[], &text)
        .package("b", &["a"], &copy("a"))
        .package("c", &["b"], &copy("b"))
        .package("same", &[], "echo same > $BOSH_INSTALL_TARGET/text")
}

/// How the processes use the directory `cache`.
#[derive(Clone, Copy)]
enum Use {
    Local,
    Shared,
}

fn agent(here: &NamespaceWorld, number: usize, how: Use) -> Agent {
    let agent = here.agent_at("namespace", &format!("out-{number}"));
    let flags: &[&str] = match how {
        Use::Local => &["--cache-dir"],
        Use::Shared => &["--cache-from", "--cache-to"],
    };
    let agent = flags.iter().fold(agent, |agent, flag| {
        agent.arg(flag).arg(here.world.path("cache"))
    });
    agent
        .arg("--logs-dir")
        .arg(here.world.path(&format!("logs-{number}")))
        .without_report()
}

#[track_caller]
fn assert_result(here: &NamespaceWorld, number: usize, round: usize) {
    let result = here
        .world
        .path(&format!("out-{number}/demo-1-ubuntu-noble-1.406.tgz"));
    for (package, file, expected) in [
        ("a", "text", round.to_string()),
        ("b", "a", round.to_string()),
        ("c", "b", round.to_string()),
        ("same", "text", "same".to_owned()),
    ] {
        let (scratch, _) = unpacked(&result, package);
        let text = std::fs::read_to_string(scratch.path().join("tree").join(file)).unwrap();
        assert_eq!(text.trim(), expected, "{package} of process {number}");
    }
}

/// Starts all processes and kills some of them at random times. The others must succeed.
fn run(here: &NamespaceWorld, tarball: &Path, round: usize, how: Use) {
    let mut running: Vec<Running> = (0..PROCESSES)
        .map(|number| agent(here, number, how).arg(tarball).start())
        .collect();
    for _ in 0..KILLED {
        // The time is the variable of this test; it waits for no event.
        std::thread::sleep(Duration::from_millis(random(SPAN_MS / 3)));
        let victim = running.pop().unwrap();
        victim.signal(Signal::SIGKILL);
        drop(victim);
    }
    for (number, running) in running.into_iter().enumerate() {
        let ran = running.end().succeeds();
        ran.does_not_say("Warning");
        assert_result(here, number, round);
    }
}

/// Runs a command for the cache that must succeed.
#[track_caller]
fn command(here: &NamespaceWorld, arguments: &[&str]) -> Ran {
    let agent = Agent::bare(&here.world.path("printed")).arg("cache");
    let agent = agent.args(arguments).arg("--cache-dir");
    let ran = agent.arg(here.world.path("cache")).without_report().run();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran
}

#[track_caller]
fn assert_all_are_good(here: &NamespaceWorld, packages: usize) {
    // Exit code 0: nothing is damaged or missing.
    let verified = command(here, &["verify"]).stdout;
    assert!(
        verified.starts_with(&format!("{packages} packages good")),
        "{verified}"
    );
}

/// Runs several processes at once on a new release in each round. Returns the number of rounds.
fn run_rounds(here: &NamespaceWorld, tarball: &Path, how: Use) -> usize {
    let rounds = if is_soak() { 100 } else { 3 };
    for round in 0..rounds {
        here.release("release.tgz", &release(round));
        run(here, tarball, round, how);
    }
    rounds
}

#[test]
fn eight_processes_share_a_directory_while_some_are_killed() {
    let Some(here) = NamespaceWorld::new() else {
        return;
    };
    let tarball = here.world.path("release.tgz");
    let rounds = run_rounds(&here, &tarball, Use::Shared);
    let last = agent(&here, 0, Use::Shared).arg(&tarball).run();
    last.succeeds()
        .says("All 4 packages are in the cache\n")
        .does_not_say("Warning");
    assert_result(&here, 0, rounds - 1);
    assert_all_are_good(&here, 3 * rounds + 1);
    let temporary = here.world.path("cache/v1/tmp");
    assert_eq!(files_below(&temporary), [] as [PathBuf; 0]);
}

#[test]
fn eight_processes_share_a_cache_while_some_are_killed() {
    let Some(here) = NamespaceWorld::new() else {
        return;
    };
    let tarball = here.world.path("release.tgz");
    let rounds = run_rounds(&here, &tarball, Use::Local);
    let cache = here.world.path("cache");
    // The next run removes the temporary files of those that were killed.
    let settled = || {
        agent(&here, 0, Use::Local).arg(&tarball).run().succeeds();
        assert_eq!(files_below(&cache.join("v1/tmp")), [] as [PathBuf; 0]);
        files_below(&cache).into_iter().collect::<BTreeSet<_>>()
    };
    let before = settled();
    run(&here, &tarball, rounds - 1, Use::Local);
    assert_eq!(settled(), before);

    let command = |arguments: &[&str]| command(&here, arguments);
    assert_all_are_good(&here, 3 * rounds + 1);

    // What killed processes left goes away.
    for file in files_below(&cache.join("v1/content")) {
        let file = std::fs::File::open(file).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    }
    command(&["prune"]);
    assert_eq!(files_below(&cache.join("v1/tmp")), [] as [PathBuf; 0]);
    let listed: serde_json::Value =
        serde_json::from_str(&command(&["ls", "--json"]).stdout).unwrap();
    let mut named: Vec<&str> = Vec::new();
    for package in listed["packages"].as_array().unwrap() {
        for content in [&package["blob"], &package["log"]] {
            named.push(content["sha256"].as_str().unwrap());
        }
    }
    named.sort_unstable();
    named.dedup();
    assert_eq!(files_below(&cache.join("v1/content")).len(), named.len());
    wait_for("the end of all processes", LIMIT, || {
        let left = processes_below(&here.world.path(""));
        left.is_empty().then_some(()).ok_or(format!("{left:#?}"))
    });
}

#[test]
fn pruning_breaks_no_process_that_uses_the_cache() {
    let Some(here) = NamespaceWorld::new() else {
        return;
    };
    let rounds = if is_soak() { 100 } else { 3 };
    let tarball = here.release("release.tgz", &release(0));
    for _ in 0..rounds {
        let running: Vec<Running> = (0..PROCESSES)
            .map(|number| {
                let agent = agent(&here, number, Use::Local);
                let agent = match number % 2 {
                    0 => agent.arg("--cache-max-size=0"),
                    _ => agent,
                };
                agent.arg(&tarball).start()
            })
            .collect();
        for (number, running) in running.into_iter().enumerate() {
            running.end().succeeds().does_not_say("Warning");
            assert_result(&here, number, 0);
        }
    }
}
