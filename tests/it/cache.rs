//! The caches of compiled packages (`--cache-dir`, `--cache-from`, `--cache-to`).

mod beside;
mod commands;
mod faulty;
mod full;
mod grpc;
mod grpc_faults;
mod grpc_server;
mod https;
mod keys;
mod killed;
mod memory;
pub(crate) mod nginx;
mod processes;
mod proxy;
mod shared;
mod tiers;
mod uploads;
mod watched;

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    Agent, Ran, ReleaseBuilder, World, processes_below, report, unpacked, wait_for,
};

const LIMIT: Duration = Duration::from_secs(60);

/// A world with a cache, and a file in which each script that runs writes a line.
struct Cached {
    world: World,
}

/// Bytes that do not get shorter by compression.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

/// A script that notes its run, and gives the same bytes each time.
fn script(ran: &Path, name: &str, rest: &str) -> String {
    let times = "find $BOSH_INSTALL_TARGET/ -exec touch -h -d @1 {} +";
    format!(
        "set +x\necho {name} >> {}\necho output of {name}\n{rest}\n{times}",
        ran.display()
    )
}

impl Cached {
    fn new() -> Self {
        let world = World::new();
        Self { world }
    }

    fn directory(&self) -> PathBuf {
        self.world.path("cache")
    }

    fn ran(&self) -> PathBuf {
        self.world.path("ran")
    }

    fn agent(&self) -> Agent {
        self.world.agent().arg("--cache-dir").arg(self.directory())
    }

    /// A chain of three packages, and one without dependencies.
    fn release(&self, source_of_lib: &str) -> ReleaseBuilder {
        let ran = self.ran();
        let copy = |name: &str| format!("cp source $BOSH_INSTALL_TARGET/{name}");
        let uses = |of: &str, name: &str| {
            format!("cat @packages@/{of}/{of} source > $BOSH_INSTALL_TARGET/{name}")
        };
        ReleaseBuilder::new("demo", "1")
            .package("lib", &[], &script(&ran, "lib", &copy("lib")))
            .file("source", 0o644, source_of_lib.as_bytes())
            .package("mid", &["lib"], &script(&ran, "mid", &uses("lib", "mid")))
            .file("source", 0o644, b"mid\n")
            .package("app", &["mid"], &script(&ran, "app", &uses("mid", "app")))
            .file("source", 0o644, b"app\n")
            .package("other", &[], &script(&ran, "other", &copy("other")))
            .file("source", 0o644, b"other\n")
    }

    /// Compiles a release, and returns the packages whose scripts ran, sorted, with the result of the agent.
    #[track_caller]
    fn run(&self, agent: Agent, release: &ReleaseBuilder) -> (Vec<String>, Ran) {
        let tarball = self.world.release("release.tgz", release);
        let _ = std::fs::remove_file(self.ran());
        let ran = agent.arg(&tarball).run();
        let text = std::fs::read_to_string(self.ran()).unwrap_or_default();
        let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
        names.sort();
        (names, ran)
    }

    fn result(&self) -> Vec<u8> {
        std::fs::read(self.world.result("demo-1")).unwrap()
    }

    /// The files of compiled packages and logs.
    fn contents(&self) -> Vec<PathBuf> {
        files_below(&self.directory().join("v1/content"))
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let all = walkdir::WalkDir::new(directory).into_iter();
    let files = all
        .map(Result::unwrap)
        .filter(|it| it.file_type().is_file());
    files.map(|it| it.path().to_owned()).collect()
}

#[test]
fn second_run_starts_no_script_and_gives_the_same_bytes() {
    let cached = Cached::new();
    let release = cached.release("one\n");
    let (names, ran) = cached.run(cached.agent(), &release);
    ran.succeeds().does_not_say("in the cache");
    assert_eq!(names, ["app", "lib", "mid", "other"]);
    let first = cached.result();

    let path = cached.world.path("report.json");
    let agent = cached.agent().arg("--report").arg(&path);
    let (names, ran) = cached.run(agent.without_report(), &release);
    let ran = ran
        .succeeds()
        .says("All 4 packages are in the cache\n")
        .says("Starting packages compilation\n")
        .says("Finished compiling release app/")
        .says(" after 0.0s, from the cache (compiled in ")
        .says("Finished packages compilation after ");
    assert_eq!(names, [""; 0]);
    assert_eq!(cached.result(), first);

    let log = cached.world.log("demo-1", "app");
    assert_eq!(
        std::fs::read_to_string(&log).unwrap(),
        "+ set +x\noutput of app\n"
    );
    let report = report::checked(&path, &cached.world.out(), 0, Some(&ran.stdout));
    for package in report["packages"].as_array().unwrap() {
        assert_eq!(package["cached"], true);
        assert_eq!(package["cache_miss"], Value::Null);
        assert_eq!(package["status"], "compiled");
        assert_eq!(package["started"], Value::Null);
        let last = format!("output of {}", package["name"].as_str().unwrap());
        assert_eq!(package["last_lines"], Value::from(vec![last]));
    }
}

#[test]
fn changed_package_and_its_dependents_run_again() {
    let cached = Cached::new();
    cached
        .run(cached.agent(), &cached.release("one\n"))
        .1
        .succeeds();
    let changed = cached.release("two\n");
    let (names, ran) = cached.run(cached.agent(), &changed);
    ran.succeeds()
        .says("One of 4 packages is in the cache\n")
        .says("(1 of 3)");
    assert_eq!(names, ["app", "lib", "mid"]);
    let with_cache = cached.result();
    let mut plain = cached.world.agent();
    // What scripts inherit is not part of these packages.
    plain = plain.env("CFLAGS", "-O9");
    cached.run(plain, &changed).1.succeeds();
    assert_eq!(cached.result().len(), with_cache.len());
    // Both versions are found now.
    for release in [cached.release("one\n"), changed] {
        let (names, ran) = cached.run(cached.agent(), &release);
        ran.succeeds();
        assert_eq!(names, [""; 0]);
    }
}

#[test]
fn dependency_from_the_cache_is_installed_for_what_runs() {
    let cached = Cached::new();
    let release = cached.release("one\n");
    cached.run(cached.agent(), &release).1.succeeds();
    let ran = cached.ran();
    let more = release.package(
        "more",
        &["mid"],
        &script(&ran, "more", "cp @packages@/mid/mid $BOSH_INSTALL_TARGET/"),
    );
    let (names, ran) = cached.run(cached.agent(), &more);
    ran.succeeds().says("4 of 5 packages are in the cache\n");
    assert_eq!(names, ["more"]);
    let (unpacked, _) = unpacked(&cached.world.result("demo-1"), "more");
    let copy = std::fs::read_to_string(unpacked.path().join("tree/mid"));
    assert_eq!(copy.unwrap(), "one\nmid\n");
}

#[test]
fn failed_run_leaves_its_compiled_packages_for_the_next_one() {
    let cached = Cached::new();
    let broken =
        cached
            .release("one\n")
            .package("zz", &["app"], &script(&cached.ran(), "zz", "exit 3"));
    let (names, ran) = cached.run(cached.agent(), &broken);
    ran.fails();
    assert_eq!(names, ["app", "lib", "mid", "other", "zz"]);
    let mended = cached.release("one\n").package(
        "zz",
        &["app"],
        &script(&cached.ran(), "zz", "touch $BOSH_INSTALL_TARGET/x"),
    );
    let (names, ran) = cached.run(cached.agent(), &mended);
    ran.succeeds();
    assert_eq!(names, ["zz"]);
}

#[test]
fn interrupted_run_leaves_its_compiled_packages_for_the_next_one() {
    for (signal, code) in [(Signal::SIGTERM, Some(143)), (Signal::SIGKILL, None)] {
        interrupted_run_leaves_its_compiled_packages(signal, code);
    }
}

fn interrupted_run_leaves_its_compiled_packages(signal: Signal, code: Option<i32>) {
    let cached = Cached::new();
    // SIGKILL lets the script run on without the agent.
    let go_on = cached.world.write("go-on", "");
    let waiting = format!("while [ -e {} ]; do sleep 0.1; done", go_on.display());
    let waiting = script(&cached.ran(), "zz", &waiting);
    let slow = cached.release("one\n").package("zz", &["app"], &waiting);
    let tarball = cached.world.release("slow.tgz", &slow);
    let mut running = cached.agent().args(&["--jobs=1"]).arg(&tarball).start();
    let entry = cached.directory().join("v1/entries/app");
    wait_for("app in the cache", LIMIT, || {
        assert!(!running.has_ended(), "{}", running.stderr());
        let is_there = std::fs::read_dir(&entry).is_ok_and(|mut it| it.next().is_some());
        is_there.then_some(()).ok_or_else(|| running.stderr())
    });
    running.signal(signal);
    assert_eq!(running.end().code, code);
    std::fs::remove_file(&go_on).unwrap();
    wait_for("the end of the script", LIMIT, || {
        let left = processes_below(&cached.world.path(""));
        left.is_empty().then_some(()).ok_or(format!("{left:#?}"))
    });
    let (names, ran) = cached.run(cached.agent(), &cached.release("one\n"));
    ran.succeeds().does_not_say("Warning");
    // Whether `other` was compiled before the signal is a matter of timing.
    assert!(names.iter().all(|name| name == "other"), "{names:?}");
}

#[test]
fn damaged_file_is_named_set_aside_and_replaced() {
    let cached = Cached::new();
    let release = cached.release("one\n");
    cached.run(cached.agent(), &release).1.succeeds();
    let first = cached.result();
    for file in cached.contents() {
        let good = std::fs::read(&file).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, &bad).unwrap();
        let (names, ran) = cached.run(cached.agent(), &release);
        ran.succeeds().says(&format!(
            "Warning: the file of the cache `{}` was changed: its SHA-256 is wrong. It was set aside, and the package is compiled again\n",
            file.display()
        ));
        assert_eq!(names.len(), 1, "{names:?}");
        assert_eq!(cached.result(), first);
        let aside = cached
            .directory()
            .join("v1/damaged")
            .join(file.file_name().unwrap());
        assert_eq!(std::fs::read(aside).unwrap(), bad);
    }
    assert_eq!(cached.run(cached.agent(), &release).0, [""; 0]);
}

#[test]
fn damaged_descriptions_are_named_and_replaced() {
    let cached = Cached::new();
    let release = cached.release("one\n");
    cached.run(cached.agent(), &release).1.succeeds();
    let first = cached.result();
    for (directory, is_compiled) in [("v1/entries", true), ("v1/sources", false)] {
        let described = files_below(&cached.directory().join(directory));
        assert_eq!(described.len(), 4);
        for file in described {
            let mut bytes = std::fs::read(&file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, bytes).unwrap();
            let (names, ran) = cached.run(cached.agent(), &release);
            let ran = ran.succeeds().says(&format!("`{}`", file.display()));
            assert_eq!(ran.stderr.matches("Warning").count(), 1, "{}", ran.stderr);
            assert_eq!(names.len(), usize::from(is_compiled), "{}", file.display());
            assert_eq!(cached.result(), first);
            let (names, ran) = cached.run(cached.agent(), &release);
            ran.succeeds().does_not_say("Warning");
            assert_eq!(names, [""; 0]);
        }
    }
}

#[test]
fn compression_level_changes_only_the_blobs() {
    let cached = Cached::new();
    let release = cached.release(&"text ".repeat(20_000));
    let agent = || cached.agent().arg("--compression-level=1");
    cached.run(agent(), &release).1.succeeds();
    let fast = cached.result();
    let nine = || cached.agent().arg("--compression-level=9");
    let (names, ran) = cached.run(nine(), &release);
    ran.succeeds();
    assert_eq!(names, [""; 0]);
    let small = cached.result();
    assert!(small.len() < fast.len());
    std::fs::remove_dir_all(cached.directory()).unwrap();
    cached.run(nine(), &release).1.succeeds();
    assert_eq!(cached.result(), small);
}

#[test]
fn scripts_with_a_cache_inherit_only_documented_variables() {
    let cached = Cached::new();
    let shown = cached.world.path("shown");
    let script = format!("env > {}", shown.display());
    let release = ReleaseBuilder::new("demo", "1").package("app", &[], &script);
    let agent = cached.agent().env("SECRET", "s").env("LC_TIME", "C");
    let agent = agent.env("CFLAGS", "-O1").env("https_proxy", "p");
    let agent = agent.args(&["--env", "CFLAGS", "--env=LDFLAGS=-s -w"]);
    cached.run(agent, &release).1.succeeds();
    let text = std::fs::read_to_string(&shown).unwrap();
    for line in ["LC_TIME=C", "CFLAGS=-O1", "LDFLAGS=-s -w", "https_proxy=p"] {
        assert!(
            text.lines().any(|it| it == line),
            "{line} is missing: {text}"
        );
    }
    assert!(
        !text.contains("SECRET") && !text.contains("CARGO"),
        "{text}"
    );

    // Without a cache, scripts inherit everything.
    let agent = cached
        .world
        .agent()
        .env("SECRET", "s")
        .arg("--env=CFLAGS=-O2");
    cached.run(agent, &release).1.succeeds();
    let text = std::fs::read_to_string(&shown).unwrap();
    for line in ["SECRET=s", "CFLAGS=-O2"] {
        assert!(
            text.lines().any(|it| it == line),
            "{line} is missing: {text}"
        );
    }
}

#[test]
fn variable_that_is_not_set_is_a_usage_error() {
    let world = World::new();
    let agent = world.agent().args(&["--env", "SURELY_UNSET", "a.tgz"]);
    agent.without_report().run().ends_with(2).says(
        "Error: the variable `SURELY_UNSET` of --env is not set\nHint: pass --env SURELY_UNSET=VALUE\n",
    );
}

#[test]
fn concurrent_packages_without_isolation_are_not_stored() {
    let cached = Cached::new();
    let release = cached.release("one\n");
    let agent = || {
        let agent = Agent::bare(&cached.world.path("printed"));
        let agent = cached.world.flags_with(agent, "none");
        let agent = agent.arg("--output-directory").arg(cached.world.out());
        agent.arg("--cache-dir").arg(cached.directory())
    };
    for more in [&[][..], &["--cache-unrestricted"]] {
        let (_, ran) = cached.run(agent().arg("--jobs=2").args(more), &release);
        ran.succeeds()
            .says("Warning: the cache is only read: with --isolation=none and several jobs");
        assert_eq!(cached.contents(), [] as [PathBuf; 0], "{more:?}");
    }
    let (names, ran) = cached.run(agent().arg("--jobs=1"), &release);
    ran.succeeds().does_not_say("only read");
    assert_eq!(names.len(), 4);
    let (names, ran) = cached.run(agent().arg("--jobs=2"), &release);
    ran.succeeds();
    assert_eq!(names, [""; 0]);
}

#[test]
fn directory_of_the_cache_comes_from_the_environment() {
    let cached = Cached::new();
    let release = cached.release("one\n");
    let directory = cached.directory();
    let agent = || {
        let agent = cached.world.agent();
        agent.env("BOSH_AGENT_CACHE_DIR", directory.to_str().unwrap())
    };
    assert_eq!(cached.run(agent(), &release).0.len(), 4);
    assert_eq!(cached.run(agent(), &release).0, [""; 0]);
    assert!(directory.join("CACHEDIR.TAG").is_file());
}
