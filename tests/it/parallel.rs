//! Several packages at once: what may run together does, what must wait waits, and nothing of the result tells of it.
//! `BOSH_AGENT_SOAK=1` repeats the long ones more often.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{
    Agent, Outcome, Ran, ReleaseBuilder, Running, World, compiled_packages, manifest_of,
    processes_below, require_root, snapshot, wait_for,
};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);

/// Gives everything that a script has installed one time, so that it is packed to the same bytes whenever it runs.
const TIMELESS: &str = "find $BOSH_INSTALL_TARGET/ -exec touch -h -d @1600000000 {} +";

/// Notes when a script began and ended.
fn timed(name: &str, script: &str) -> String {
    format!("date +%s%N > $FACTS/{name}.from\n{script}\ndate +%s%N > $FACTS/{name}.to")
}

/// A place for tests outside /tmp, which scripts have to themselves in namespaces.
struct Place {
    world: World,
}

impl Place {
    /// Nothing where namespaces cannot be had; then the reason has been told.
    fn new() -> Option<Self> {
        if !require_root() {
            return None;
        }
        let world = World::outside_tmp();
        std::fs::create_dir(world.path("facts")).unwrap();
        Some(Self { world })
    }

    fn agent(&self, jobs: usize) -> Agent {
        self.agent_to(jobs, "out")
    }

    fn agent_to(&self, jobs: usize, out: &str) -> Agent {
        self.world
            .agent_at("namespace", out)
            .env("FACTS", self.world.path("facts").to_str().unwrap())
            .args(&["--grace", "1", "--jobs", &jobs.to_string(), "--logs-dir"])
            .arg(self.world.path("logs"))
    }

    fn release(&self, name: &str, release: &ReleaseBuilder) -> PathBuf {
        self.world.release(name, release)
    }

    fn fact(&self, name: &str) -> PathBuf {
        self.world.path("facts").join(name)
    }

    fn has(&self, name: &str) -> bool {
        self.fact(name).exists()
    }

    /// From when until when a script ran, in nanoseconds.
    fn times(&self, name: &str) -> (u128, u128) {
        let time = |what| {
            let text = std::fs::read_to_string(self.fact(&format!("{name}.{what}"))).unwrap();
            text.trim().parse().unwrap()
        };
        (time("from"), time("to"))
    }

    /// The most of these scripts that ran at one moment.
    fn most_at_once(&self, names: &[&str]) -> usize {
        let times: Vec<(u128, u128)> = names.iter().map(|name| self.times(name)).collect();
        let at = |moment: u128| {
            let runs = |(from, to): &&(u128, u128)| *from <= moment && moment < *to;
            times.iter().filter(runs).count()
        };
        times.iter().map(|(from, _)| at(*from)).max().unwrap()
    }

    fn wait_for_facts(&self, running: &mut Running, names: &[&str]) {
        wait_for("the start of scripts", LIMIT, || {
            if names.iter().all(|name| self.has(name)) {
                return Ok(());
            }
            assert!(!running.has_ended(), "{}", running.stderr());
            Err(running.stderr())
        });
    }

    fn assert_no_process(&self) {
        let left = processes_below(&self.world.path(""));
        assert!(left.is_empty(), "{left:#?}");
    }
}

#[test]
fn independent_packages_run_together_as_far_as_allowed_and_dependents_wait() {
    let Some(place) = Place::new() else { return };
    // Each of the first two waits for the other: one after another they would never end.
    let meets = |own: &str, other: &str| {
        timed(
            own,
            &format!(
                "touch $FACTS/{own}; while [ ! -e $FACTS/{other} ]; do sleep 0.01; done; sleep 0.3"
            ),
        )
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("a", &[], &meets("a", "b"))
        .package("b", &[], &meets("b", "a"))
        .package("c", &[], &timed("c", "sleep 0.3"))
        .package("d", &["a", "b", "c"], &timed("d", "true"));
    let tarball = place.release("release.tgz", &release);
    place
        .agent(2)
        .arg(tarball)
        .run()
        .succeeds()
        .says("Compiling up to 2 packages at once\n")
        .says("(4 of 4)");
    assert_eq!(place.most_at_once(&["a", "b", "c", "d"]), 2);
    let (begin, _) = place.times("d");
    for name in ["a", "b", "c"] {
        assert!(place.times(name).1 <= begin, "d began before {name} ended");
    }
}

#[test]
fn with_nothing_between_them_packages_run_together_only_where_that_is_asked_for() {
    let world = World::new();
    std::fs::create_dir(world.path("facts")).unwrap();
    let meets = |own: &str, other: &str| {
        format!(
            "touch $FACTS/{own}; while [ ! -e $FACTS/{other} ]; do sleep 0.01; done\n\
             cat @packages@/lib/file > $BOSH_INSTALL_TARGET/file; echo more >> @packages@/lib/file"
        )
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/file")
        .package("a", &["lib"], &meets("a", "b"))
        .package("b", &["lib"], &meets("b", "a"))
        .package(
            "c",
            &["lib", "a", "b"],
            "cat @packages@/lib/file > $BOSH_INSTALL_TARGET/file",
        );
    let tarball = world.release("release.tgz", &release);
    let facts = world.path("facts");
    let agent = || {
        let logs = world.path("logs");
        let agent = world.agent_at("none", "out");
        agent
            .env("FACTS", facts.to_str().unwrap())
            .arg("--logs-dir")
            .arg(logs)
    };
    agent()
        .args(&["--jobs", "2"])
        .arg(&tarball)
        .run()
        .succeeds()
        .says("Isolation: none")
        .says("Warning: nothing keeps packages apart that are compiled at once")
        .says("Compiling up to 2 packages at once\n");
    // What others have written to a dependency is gone when the next needs it.
    let scratch = tempfile::tempdir().unwrap();
    crate::support::extract(&world.result("demo-1.10"), scratch.path());
    let blob = scratch.path().join("compiled_packages/c.tgz");
    crate::support::extract(&blob, scratch.path());
    let file = std::fs::read_to_string(scratch.path().join("file")).unwrap();
    assert_eq!(file, "lib\n");
    assert!(!world.base().join("packages").exists());
}

#[test]
fn with_one_job_packages_come_in_the_go_agents_order() {
    let Some(place) = Place::new() else { return };
    let script = |name: &str| timed(name, &format!("echo {name} >> $FACTS/order"));
    // By durations or sizes `z` and what it needs would come first.
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("z", &["y"], &script("z"))
        .file("large", 0o644, &[7; 100_000])
        .package("y", &[], &script("y"))
        .package("b", &[], &script("b"))
        .package("a", &[], &script("a"));
    let tarball = place.release("release.tgz", &release);
    place
        .agent(1)
        .arg(tarball)
        .run()
        .succeeds()
        .does_not_say("at once");
    let order = std::fs::read_to_string(place.fact("order")).unwrap();
    assert_eq!(order, "a\nb\ny\nz\n");
    assert_eq!(place.most_at_once(&["a", "b", "y", "z"]), 1);
}

/// A release of random shape, whose packages contain what their dependencies contain.
fn random_release(count: usize) -> (ReleaseBuilder, Vec<Vec<usize>>) {
    let mut chance = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = |below: usize| {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        usize::try_from(chance % below as u64).unwrap()
    };
    let mut release = ReleaseBuilder::new("demo", "1.10");
    let mut shape: Vec<Vec<usize>> = Vec::new();
    for number in 0..count {
        let mut needed: Vec<usize> = (0..draw(4).min(number)).map(|_| draw(number)).collect();
        needed.sort_unstable();
        needed.dedup();
        let names: Vec<String> = needed.iter().map(|needed| format!("p{needed}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let own = format!("p{number}");
        let script = format!(
            "set -e\ncat @packages@/*/file > all 2> /dev/null || true\n\
             (echo {own}; md5sum < all) > $BOSH_INSTALL_TARGET/file\nls @packages@ > $BOSH_INSTALL_TARGET/seen\n{TIMELESS}"
        );
        release = release.package(&own, &names, &timed(&own, &script));
        shape.push(needed);
    }
    (release, shape)
}

#[test]
fn packages_of_any_shape_wait_for_their_dependencies_and_give_the_same_bytes() {
    let Some(place) = Place::new() else { return };
    let (release, shape) = random_release(200);
    let tarball = place.release("release.tgz", &release);
    let result = |out: &str| {
        let name = place.world.result("demo-1.10");
        std::fs::read(place.world.path(out).join(name.file_name().unwrap())).unwrap()
    };
    place.agent_to(1, "alone").arg(&tarball).run().succeeds();
    let alone = result("alone");
    let rounds = match std::env::var_os("BOSH_AGENT_SOAK") {
        Some(_) => 20,
        None => 2,
    };
    for _ in 0..rounds {
        place.agent(8).arg(&tarball).run().succeeds();
        for (number, needed) in shape.iter().enumerate() {
            let begin = place.times(&format!("p{number}")).0;
            for needed in needed {
                let end = place.times(&format!("p{needed}")).1;
                assert!(end <= begin, "p{number} began before p{needed} ended");
            }
        }
        assert!(result("out") == alone, "the bytes tell how it was made");
    }
    assert!(!place.world.base().exists());
}

/// Two releases that have four packages in common, one of these over another.
fn sharing(place: &Place) -> [PathBuf; 2] {
    let script = |name: &str| {
        format!("echo {name} >> $FACTS/runs; echo {name} > $BOSH_INSTALL_TARGET/file; {TIMELESS}")
    };
    let common = |release: ReleaseBuilder| {
        release
            .package("go", &[], &script("go"))
            .package("lib", &["go"], &script("lib"))
            .package("tool", &[], &script("tool"))
            .package("util", &["tool", "lib"], &script("util"))
            // The same name and version, but not the same source.
            .package("own", &[], "")
    };
    let one = common(ReleaseBuilder::new("one", "1"))
        .file("text", 0o644, b"one")
        .package("app", &["util", "go"], &script("app"));
    let two = common(ReleaseBuilder::new("two", "2"))
        .file("text", 0o644, b"two")
        .package("web", &["lib", "own"], &script("web"))
        .no_compression();
    [
        place.release("one.tgz", &one),
        place.release("two.tgz", &two),
    ]
}

#[test]
fn what_two_releases_have_in_common_is_compiled_once_and_both_are_whole() {
    for jobs in [1, 4] {
        let Some(place) = Place::new() else { return };
        let tarballs = sharing(&place);
        let ran = place
            .agent(jobs)
            .args(&tarballs)
            .run()
            .succeeds()
            .says("4 packages are the same in several releases and compiled once\n")
            .says("(8 of 8)");
        let results = ["one-1", "two-2"].map(|name| place.world.result(name));
        let last: Vec<&str> = ran.stderr.lines().rev().take(2).collect();
        for (line, result) in last.iter().rev().zip(&results) {
            let expected = format!("Finished archiving compiled tarball {}", result.display());
            assert_eq!(**line, expected, "in the order of the inputs");
        }
        let mut runs: Vec<String> = std::fs::read_to_string(place.fact("runs"))
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        runs.sort();
        assert_eq!(runs, ["app", "go", "lib", "tool", "util", "web"]);

        let digests = results.each_ref().map(|result| {
            let packages: BTreeMap<String, String> = compiled_packages(&manifest_of(result))
                .into_iter()
                .collect();
            packages
        });
        for name in ["go", "lib", "tool", "util"] {
            assert_eq!(digests[0][name], digests[1][name], "{name}");
        }
        for (result, own) in results.iter().zip(["app", "web"]) {
            // Compares every digest with the bytes.
            let outcome = Outcome::of(result);
            assert_eq!(outcome.packages.len(), 6);
            assert_eq!(outcome.packages[own]["file"], format!("100644 {own}\n"));
        }
        let log = |release: &str| {
            use std::os::unix::fs::MetadataExt;
            let log = place.world.path("logs").join(release).join("go.log");
            assert!(std::fs::read_to_string(&log).unwrap().contains("+ echo go"));
            std::fs::metadata(log).unwrap().ino()
        };
        assert_eq!(log("one-1"), log("two-2"));
        // The same as each of them alone.
        for (tarball, result) in tarballs.iter().zip(&results) {
            let alone = format!("alone-{jobs}");
            place.agent_to(1, &alone).arg(tarball).run().succeeds();
            let alone = place.world.path(&alone).join(result.file_name().unwrap());
            assert_eq!(Outcome::of(&alone), Outcome::of(result));
        }
        assert_ne!(
            log("one-1"),
            log("two-2"),
            "a run changes the log of another"
        );
    }
}

#[test]
fn a_release_is_written_while_another_is_still_compiled() {
    let Some(place) = Place::new() else { return };
    let quick = ReleaseBuilder::new("quick", "1").package("a", &[], "true");
    let slow = ReleaseBuilder::new("slow", "1").package(
        "b",
        &[],
        "touch $FACTS/started; while [ ! -e $FACTS/go ]; do sleep 0.01; done",
    );
    let tarballs = [
        place.release("slow.tgz", &slow),
        place.release("quick.tgz", &quick),
    ];
    let mut running = place.agent(2).args(&tarballs).start();
    place.wait_for_facts(&mut running, &["started"]);
    wait_for("the first result", LIMIT, || {
        match place.world.result("quick-1").exists() {
            true => Ok(()),
            false => Err(running.stderr()),
        }
    });
    assert!(!place.world.result("slow-1").exists());
    std::fs::write(place.fact("go"), "").unwrap();
    let ran = running.end().succeeds();
    let last: Vec<&str> = ran.stderr.lines().rev().take(2).collect();
    assert!(last[1].ends_with(&place.world.result("slow-1").display().to_string()));
    assert!(last[0].ends_with(&place.world.result("quick-1").display().to_string()));
}

/// The only directory of this beginning below another.
fn below(directory: &Path, beginning: &str) -> PathBuf {
    let mut entries = std::fs::read_dir(directory).unwrap().flatten();
    let entry = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(beginning));
    entry.unwrap().path()
}

#[test]
fn what_nobody_needs_any_more_is_removed_at_once() {
    let Some(place) = Place::new() else { return };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "lib",
            &[],
            "head -c 1000 /dev/zero > $BOSH_INSTALL_TARGET/lib",
        )
        .package(
            "app",
            &["lib"],
            "cat @packages@/lib/lib > $BOSH_INSTALL_TARGET/app",
        )
        .package(
            "zoo",
            &["app"],
            "touch $FACTS/started; while [ ! -e $FACTS/go ]; do sleep 0.01; done",
        );
    let tarballs = [
        place.release("release.tgz", &release),
        place.release(
            "other.tgz",
            &ReleaseBuilder::new("other", "1").package("b", &[], "true"),
        ),
    ];
    let mut running = place
        .agent(2)
        .arg("--work-dir")
        .arg(place.world.path("work"))
        .args(&tarballs)
        .start();
    place.wait_for_facts(&mut running, &["started"]);
    let work = below(&place.world.path("work"), ".bosh-agent-work-");
    wait_for("the removal of what is done with", LIMIT, || {
        let files: Vec<String> = snapshot(&work)
            .into_iter()
            .filter(|(path, kind)| kind.starts_with("100") && !path.starts_with("places"))
            .map(|(path, _)| path)
            .collect();
        let of = |prefix: &str| files.iter().filter(|path| path.starts_with(prefix)).count();
        // Blobs of `lib` and `app`, which the result needs; the tree of `app` alone; the source of `zoo` alone.
        match (of("blobs/0"), of("store"), of("spool/0")) {
            (2, 1, 1)
                if files.iter().any(|path| path.contains("/app/"))
                    && of("blobs/1") + of("spool/1") == 0 =>
            {
                Ok(())
            }
            _ => Err(format!("{files:#?}")),
        }
    });
    std::fs::write(place.fact("go"), "").unwrap();
    running.end().succeeds();
}

const WAITS: &str = "touch $FACTS/waiting; sleep 1000";

#[test]
fn after_a_failure_nothing_starts_what_runs_is_stopped_and_what_is_written_stays() {
    let Some(place) = Place::new() else { return };
    let fails = "while [ ! -e $FACTS/go ]; do sleep 0.01; done; echo the reason; exit 7";
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("bad", &[], fails)
        .package("needs-bad", &["bad"], "touch $FACTS/needs-bad")
        .package("early", &[], "true")
        .package("slow", &["early"], WAITS)
        .package("zoo", &["slow"], "touch $FACTS/zoo");
    let good = ReleaseBuilder::new("good", "1").package("a", &[], "true");
    let later = ReleaseBuilder::new("later", "1")
        .package("b", &[], "true")
        .package("c", &["b"], WAITS);
    let tarballs = [
        place.release("good.tgz", &good),
        place.release("release.tgz", &release),
    ];
    let mut running = place.agent(3).args(&tarballs).start();
    place.wait_for_facts(&mut running, &["waiting"]);
    wait_for("the good release", LIMIT, || {
        match place.world.result("good-1").exists() {
            true => Ok(()),
            false => Err(running.stderr()),
        }
    });
    std::fs::write(place.fact("go"), "").unwrap();
    let ran = running
        .end()
        .fails()
        .says(" has failed: 1 under way is told to end\n")
        .says("  | the reason\n")
        .says("Compiled before it, and dropped with it: early\n")
        .says("Not compiled because they depend on bad: needs-bad\n")
        .says("Stopped because of it: slow\n")
        .says("Not begun: zoo\n")
        .says("of release demo/1.10: the packaging script exited with 7 after ")
        .says(&format!(
            "Finished archiving compiled tarball {}\n",
            place.world.result("good-1").display()
        ));
    let mut last = ran.stderr.lines().rev();
    // The script failed beside another one, which is what the hint is about.
    assert!(last.next().unwrap().starts_with("Hint: "));
    assert!(last.next().unwrap().starts_with("Error: "));
    assert!(!place.has("needs-bad") && !place.has("zoo"));
    assert!(!place.world.result("demo-1.10").exists());
    place.assert_no_process();
    assert!(!place.world.base().exists());

    // A release without a failure of its own.
    std::fs::remove_file(place.fact("waiting")).unwrap();
    std::fs::remove_file(place.fact("go")).unwrap();
    let tarballs = [tarballs[1].clone(), place.release("later.tgz", &later)];
    let waits = |place: &Place, running: &mut Running| {
        place.wait_for_facts(running, &["waiting"]);
        std::fs::write(place.fact("go"), "").unwrap();
    };
    let mut running = place.agent(4).args(&tarballs).start();
    waits(&place, &mut running);
    running
        .end()
        .fails()
        .says("Not written because of it: later/1 (");
}

#[test]
fn every_failure_is_told() {
    let Some(place) = Place::new() else { return };
    // The second goes on when it is told to stop, and fails by itself.
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "a",
            &[],
            "while [ ! -e $FACTS/b ]; do sleep 0.01; done; echo first reason; exit 7",
        )
        .package(
            "b",
            &[],
            "trap 'asked=1' TERM; touch $FACTS/b; until [ $asked ]; do sleep 0.01; done; echo second reason; exit 8",
        )
        .package("c", &["a", "b"], "touch $FACTS/c");
    let tarball = place.release("release.tgz", &release);
    let ran = place
        .agent(2)
        .args(&["--grace", "60"])
        .arg(tarball)
        .run()
        .fails()
        .says("  | first reason\n")
        .says("  | second reason\n")
        .says("Not compiled because they depend on a: c\n")
        .says("Not compiled because they depend on b: c\n");
    let errors: Vec<&str> = ran
        .stderr
        .lines()
        .filter(|line| line.starts_with("Error: "))
        .collect();
    assert!(errors[0].contains("package a/") && errors[0].contains("exited with 7"));
    assert!(errors[1].contains("package b/") && errors[1].contains("exited with 8"));
    assert_eq!(errors.len(), 2);
    assert!(!place.has("c"));
}

/// Packages that do not want to end, as many as run at once, and two releases of them.
fn stubborn(place: &Place) -> [PathBuf; 2] {
    let script = |name: &str| {
        format!(
            "setsid bash -c \"trap '' TERM HUP INT; for n in $(seq 600); do sleep 0.1; done\" &\n\
             touch $FACTS/{name}; trap '' TERM; while [ ! -e $FACTS/go ]; do sleep 0.05; done"
        )
    };
    let release = |name: &str, first: &str, second: &str| {
        ReleaseBuilder::new(name, "1")
            .package("shared", &[], "echo shared > $BOSH_INSTALL_TARGET/file")
            .package(first, &["shared"], &script(first))
            .package(second, &["shared"], &script(second))
    };
    [
        place.release("one.tgz", &release("one", "a", "b")),
        place.release("two.tgz", &release("two", "c", "d")),
    ]
}

fn interrupted(signal: Signal) -> Option<(Place, [PathBuf; 2], Ran)> {
    let place = Place::new()?;
    let tarballs = stubborn(&place);
    let mut running = place.agent(4).args(&tarballs).start();
    place.wait_for_facts(&mut running, &["a", "b", "c", "d"]);
    running.signal(signal);
    let ran = running.end();
    Some((place, tarballs, ran))
}

#[test]
fn a_stop_ends_all_that_run_at_once_and_leaves_nothing() {
    let Some((place, _, ran)) = interrupted(Signal::SIGTERM) else {
        return;
    };
    ran.ends_with(143)
        .says("Stopping on SIGTERM: waiting up to 1s for 4 packaging scripts (a, b, c, d); send SIGTERM again to kill them\n")
        .does_not_say("Error");
    place.assert_no_process();
    assert!(!place.world.base().exists());
    // Made for this run, and empty again.
    assert!(!place.world.out().exists());
}

#[test]
fn a_killed_run_leaves_nothing_that_the_next_does_not_clear_away() {
    let Some((place, tarballs, ran)) = interrupted(Signal::SIGKILL) else {
        return;
    };
    assert_eq!(ran.code, None);
    std::fs::write(place.fact("go"), "").unwrap();
    place.agent(4).args(&tarballs).run().succeeds();
    wait_for("the end of all processes", LIMIT, || {
        let left = processes_below(&place.world.path(""));
        left.is_empty().then_some(()).ok_or(format!("{left:#?}"))
    });
    let mut names: Vec<String> = snapshot(&place.world.out()).into_keys().collect();
    names.retain(|name| !name.is_empty());
    let expected = ["one-1", "two-1"].map(|name| {
        let path = place.world.result(name);
        path.file_name().unwrap().to_string_lossy().into_owned()
    });
    assert_eq!(names, expected);
    let left: Vec<String> = snapshot(&place.world.base()).into_keys().collect();
    assert!(
        left.iter().all(|name| matches!(name.as_str(), "" | "data")),
        "{left:?}"
    );
}

/// Runs three times as long as it took the scripts `a` and `b` to end since `start` was written.
const LONGEST: &str = "until [ -e $FACTS/a ] && [ -e $FACTS/b ]; do sleep 0.01; done\n\
    now=$(date +%s%N); start=$(date -r $FACTS/start +%s%N)\n\
    while [ $(date +%s%N) -lt $((4 * now - 3 * start)) ]; do sleep 0.05; done";

#[test]
fn what_took_long_the_last_time_begins_first() {
    let Some(place) = Place::new() else { return };
    let version = format!("{}11", "5a".repeat(19));
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("a", &[], "touch $FACTS/a")
        .file("large", 0o644, &[7; 50_000])
        .package("b", &[], "touch $FACTS/b")
        .file("large", 0o644, &[7; 50_000])
        .package("z", &[], LONGEST);
    let tarball = place.release("release.tgz", &release);
    let run = || {
        for name in ["a", "b"] {
            let _ = std::fs::remove_file(place.fact(name));
        }
        std::fs::write(place.fact("start"), "").unwrap();
        place.agent(2).arg(&tarball).run().succeeds()
    };
    // By its source it is the smallest.
    run().says(&format!("Compiling package z/{version} (3 of 3)\n"));
    run().says(&format!("Compiling package z/{version} (1 of 3)\n"));
    std::fs::write(place.world.path("logs/durations.json"), "{").unwrap();
    run()
        .says("Warning: how long packages took before is not known: `")
        .says(&format!("Compiling package z/{version} (3 of 3)\n"));
    run()
        .does_not_say("Warning")
        .says(&format!("Compiling package z/{version} (1 of 3)\n"));
}

#[test]
fn packages_of_one_name_and_different_contents_do_not_meet() {
    let Some(place) = Place::new() else { return };
    let release = |release: &str, other: &str| {
        let script = format!(
            "touch $FACTS/{release}; while [ ! -e $FACTS/{other} ]; do sleep 0.01; done; echo {release} > $BOSH_INSTALL_TARGET/file"
        );
        ReleaseBuilder::new(release, "1")
            .package("lib", &[], &script)
            .package(
                "app",
                &["lib"],
                "cp @packages@/lib/file $BOSH_INSTALL_TARGET/",
            )
    };
    // Each `lib` waits for the other, so they are compiled together.
    let tarballs = [
        place.release("one.tgz", &release("one", "two")),
        place.release("two.tgz", &release("two", "one")),
    ];
    place.agent(2).args(&tarballs).run().succeeds();
    for name in ["one", "two"] {
        let outcome = Outcome::of(&place.world.result(&format!("{name}-1")));
        assert_eq!(outcome.packages["app"]["file"], format!("100644 {name}\n"));
    }
}

#[test]
fn two_tarballs_of_one_name_keep_their_logs_apart() {
    let Some(place) = Place::new() else { return };
    let mut tarballs = Vec::new();
    for text in ["one", "two"] {
        let directory = place.world.path(text);
        std::fs::create_dir(&directory).unwrap();
        let release = ReleaseBuilder::of_script(&format!("echo this is {text}"));
        tarballs.push(place.release(&format!("{text}/release.tgz"), &release));
    }
    let agent = Agent::bare(&place.world.path("printed"));
    place
        .world
        .flags_with(agent, "namespace")
        .arg("--logs-dir")
        .arg(place.world.path("logs"))
        .args(&tarballs)
        .run()
        .succeeds();
    let log = |name: &str| place.world.read(&format!("logs/{name}/app.log"));
    assert!(log("demo-1.10").contains("this is one"));
    assert!(log("demo-1.10.2").contains("this is two"));
}

/// Two packages whose makefiles have six recipes each, which note when they ran.
fn of_recipes() -> ReleaseBuilder {
    let makefile = "all: 1 2 3 4 5 6\n%:\n\t@date +%s%N > $(FACTS)/$(PACKAGE)$@.from; sleep 0.2; date +%s%N > $(FACTS)/$(PACKAGE)$@.to\n";
    let mut release = ReleaseBuilder::new("demo", "1.10");
    for name in ["a", "b"] {
        let script =
            format!("set -e; cp -a . $BOSH_INSTALL_TARGET/; PACKAGE={name} make; echo made");
        release = release
            .package(name, &[], &script)
            .file("Makefile", 0o644, makefile.as_bytes());
    }
    release
}

/// The most recipes of these packages that ran at one moment.
fn most_recipes(place: &Place, packages: &[&str]) -> usize {
    let names: Vec<String> = packages
        .iter()
        .flat_map(|package| (1..=6).map(move |number| format!("{package}{number}")))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    place.most_at_once(&names)
}

#[test]
fn make_is_parallel_only_where_that_is_asked_for_and_then_within_one_pool() {
    let processors = std::thread::available_parallelism().unwrap().get();
    if !crate::support::require_tools(&["make"])
        || !crate::support::require(processors > 1, "two processors")
    {
        return;
    }
    let Some(place) = Place::new() else { return };
    let tarball = place.release("release.tgz", &of_recipes());
    place.agent(2).arg(&tarball).run().succeeds();
    for package in ["a", "b"] {
        assert_eq!(most_recipes(&place, &[package]), 1);
    }
    let shared = |jobs| {
        let agent = place.agent(jobs).arg("--make-jobserver").arg(&tarball);
        agent.run().succeeds();
        most_recipes(&place, &["a", "b"])
    };
    // Each make has one job of its own, beside those in the pool, which is as large as a part of a processor makes it.
    assert!(shared(2) <= processors + 2);
    let alone = shared(1);
    assert!((2..=processors + 1).contains(&alone), "{alone} at once");
    let outcome = Outcome::of(&place.world.result("demo-1.10"));
    let files: Vec<&str> = outcome.packages["a"].keys().map(String::as_str).collect();
    assert_eq!(files, ["", "Makefile", "packaging"]);
    let log = place.world.read("logs/demo-1.10/a.log");
    assert!(
        log.starts_with("+ set -e\n") && log.ends_with("+ echo made\nmade\n"),
        "{log}"
    );
}
