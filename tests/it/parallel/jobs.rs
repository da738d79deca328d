//! Durations of previous runs, packages of one name, and make jobs.

use super::*;

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
        .says("Warning: could not read how long packages took in the previous run: `")
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
