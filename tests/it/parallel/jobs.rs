//! Durations of previous runs, packages of one name, and make jobs.

use super::*;

/// Runs for three times as long as the scripts `a` and `b` took since `start` was written.
const LONGEST: &str = "until [ -e $FACTS/a ] && [ -e $FACTS/b ]; do sleep 0.01; done\n\
    now=$(date +%s%N); start=$(date -r $FACTS/start +%s%N)\n\
    while [ $(date +%s%N) -lt $((4 * now - 3 * start)) ]; do sleep 0.05; done";

#[test]
fn slowest_package_of_the_previous_run_starts_first() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
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
        place.agent_with_jobs(2).arg(&tarball).run().succeeds()
    };
    // It has the smallest source.
    run().says(&format!("Compiling package z/{version} (3 of 3)\n"));
    run().says(&format!("Compiling package z/{version} (1 of 3)\n"));
    std::fs::write(place.world.path("logs/durations.json"), "{").unwrap();
    run()
        .says("Warning: could not read how long packages took in the previous run: `")
        .says(&format!("Compiling package z/{version} (3 of 3)\n"));
    run()
        .does_not_say("Warning")
        .says(&format!("Compiling package z/{version} (1 of 3)\n"));
}

#[test]
fn packages_of_one_name_with_different_contents_are_separate() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
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
    // Each `lib` waits for the other, so they are compiled concurrently.
    let tarballs = [
        place.release("one.tgz", &release("one", "two")),
        place.release("two.tgz", &release("two", "one")),
    ];
    place.agent_with_jobs(2).args(&tarballs).run().succeeds();
    for name in ["one", "two"] {
        let outcome = Outcome::of(&place.world.result(&format!("{name}-1")));
        assert_eq!(outcome.packages["app"]["file"], format!("100644 {name}\n"));
    }
}

#[test]
fn two_tarballs_of_one_name_have_separate_logs() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
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

/// Two packages whose makefiles have six recipes each, which record their start and end.
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

/// The maximum number of concurrent recipes of these packages.
fn most_recipes(place: &NamespaceWorld, packages: &[&str]) -> usize {
    let names: Vec<String> = packages
        .iter()
        .flat_map(|package| (1..=6).map(move |number| format!("{package}{number}")))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    place.most_at_once(&names)
}

#[test]
fn make_jobs_share_one_pool_on_request() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    if !crate::support::require_tools(&["make"]) || !crate::support::require(cpus > 1, "two CPUs") {
        return;
    }
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    let tarball = place.release("release.tgz", &of_recipes());
    place.agent_with_jobs(2).arg(&tarball).run().succeeds();
    for package in ["a", "b"] {
        assert_eq!(most_recipes(&place, &[package]), 1);
    }
    let shared = |jobs| {
        let agent = place
            .agent_with_jobs(jobs)
            .arg("--make-jobserver")
            .arg(&tarball);
        agent.run().succeeds();
        most_recipes(&place, &["a", "b"])
    };
    // Each make has its own job, in addition to those in the pool, which is limited by the share of a CPU.
    assert!(shared(2) <= cpus + 2);
    let alone = shared(1);
    assert!((2..=cpus + 1).contains(&alone), "{alone} at once");
    let outcome = Outcome::of(&place.world.result("demo-1.10"));
    let files: Vec<&str> = outcome.packages["a"].keys().map(String::as_str).collect();
    assert_eq!(files, ["", "Makefile", "packaging"]);
    let log = place.world.read("logs/demo-1.10/a.log");
    assert!(
        log.starts_with("+ set -e\n") && log.ends_with("+ echo made\nmade\n"),
        "{log}"
    );
}

#[test]
fn memory_limits_the_default_number_of_jobs() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("a", &[], &timed("a", "true"))
        .package("b", &[], &timed("b", "true"));
    let tarball = place.release("release.tgz", &release);
    let run = |per_job: &str| {
        place
            .agent_at("namespace", "out")
            .args(&["--jobs", "auto", "--memory-per-job", per_job])
            .arg(&tarball)
            .run()
            .succeeds()
    };
    let cpus = std::thread::available_parallelism().unwrap().get();
    let ran = run("1000TiB");
    assert_eq!(place.most_at_once(&["a", "b"]), 1);
    if cpus > 1 {
        ran.says(&format!(
            "Compiling one package at a time, although {cpus} CPUs are available: "
        ))
        .says(", and each package may need 1000.0 TiB (--memory-per-job)\n");
        run("0").says(&format!("Compiling up to {cpus} packages concurrently\n"));
    }
}
