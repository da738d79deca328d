//! Packages that run concurrently, and packages that wait.

use super::*;

#[test]
fn independent_packages_run_together_and_dependents_wait() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    // Each of the first two waits for the other: one after another, they would never end.
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
        .agent_with_jobs(2)
        .arg(tarball)
        .run()
        .succeeds()
        .says("Compiling up to 2 packages concurrently\n")
        .says("(4 of 4)");
    assert_eq!(place.most_at_once(&["a", "b", "c", "d"]), 2);
    let (begin, _) = place.times("d");
    for name in ["a", "b", "c"] {
        assert!(place.times(name).1 <= begin, "d began before {name} ended");
    }
}

#[test]
fn packages_without_isolation_run_together_only_on_request() {
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
        .says("Warning: packages that are compiled concurrently are not isolated from each other")
        .says("Compiling up to 2 packages concurrently\n");
    // Changes of other scripts to a dependency are undone before the next dependent runs.
    let scratch = tempfile::tempdir().unwrap();
    crate::support::extract(&world.result("demo-1.10"), scratch.path());
    let blob = scratch.path().join("compiled_packages/c.tgz");
    crate::support::extract(&blob, scratch.path());
    let file = std::fs::read_to_string(scratch.path().join("file")).unwrap();
    assert_eq!(file, "lib\n");
    assert!(!world.base().join("packages").exists());
}

#[test]
fn packages_have_the_go_agents_order_with_one_job() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    let script = |name: &str| timed(name, &format!("echo {name} >> $FACTS/order"));
    // By durations or sizes, `z` and its dependencies would come first.
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("z", &["y"], &script("z"))
        .file("large", 0o644, &[7; 100_000])
        .package("y", &[], &script("y"))
        .package("b", &[], &script("b"))
        .package("a", &[], &script("a"));
    let tarball = place.release("release.tgz", &release);
    place
        .agent_with_jobs(1)
        .arg(tarball)
        .run()
        .succeeds()
        .does_not_say("at once");
    let order = std::fs::read_to_string(place.fact("order")).unwrap();
    assert_eq!(order, "a\nb\ny\nz\n");
    assert_eq!(place.most_at_once(&["a", "b", "y", "z"]), 1);
}

/// A random release whose packages contain the content of their dependencies.
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
fn random_releases_give_the_same_bytes() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    let (release, shape) = random_release(200);
    let tarball = place.release("release.tgz", &release);
    let result = |out: &str| {
        let name = place.world.result("demo-1.10");
        std::fs::read(place.world.path(out).join(name.file_name().unwrap())).unwrap()
    };
    place
        .agent_with_jobs_to(1, "alone")
        .arg(&tarball)
        .run()
        .succeeds();
    let alone = result("alone");
    let rounds = match std::env::var_os("BOSH_AGENT_SOAK") {
        Some(_) => 20,
        None => 2,
    };
    for _ in 0..rounds {
        place.agent_with_jobs(8).arg(&tarball).run().succeeds();
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
