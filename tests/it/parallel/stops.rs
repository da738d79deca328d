//! Failures, stops and kills while several packages run.

use super::*;

const WAITS: &str = "touch $FACTS/waiting; sleep 1000";

#[test]
fn failure_stops_other_packages_and_keeps_results() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
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
    let mut running = place.agent_with_jobs(3).args(&tarballs).start();
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
        .says(" failed: the packaging script exited with 7 after ")
        .says(". Stopping 1 running package\n")
        .says("  | the reason\n")
        .says("Compiled, but discarded because the release is incomplete: early\n")
        .says("Not compiled because they depend on bad: needs-bad\n")
        .says("Stopped because of the failure: slow\n")
        .says("Not started: zoo\n")
        .says("of release demo/1.10: the packaging script exited with 7 after ")
        .says(&format!(
            "Finished archiving compiled tarball {}\n",
            place.world.result("good-1").display()
        ));
    let mut last = ran.stderr.lines().rev();
    // The script failed while another one ran, as the hint says.
    assert!(last.next().unwrap().starts_with("Hint: "));
    assert!(last.next().unwrap().starts_with("Error: "));
    assert!(!place.has("needs-bad") && !place.has("zoo"));
    assert!(!place.world.result("demo-1.10").exists());
    place.assert_no_process();
    assert!(!place.world.base().exists());

    // A release without its own failure.
    std::fs::remove_file(place.fact("waiting")).unwrap();
    std::fs::remove_file(place.fact("go")).unwrap();
    let tarballs = [tarballs[1].clone(), place.release("later.tgz", &later)];
    let waits = |place: &NamespaceWorld, running: &mut Running| {
        place.wait_for_facts(running, &["waiting"]);
        std::fs::write(place.fact("go"), "").unwrap();
    };
    let mut running = place.agent_with_jobs(4).args(&tarballs).start();
    waits(&place, &mut running);
    running
        .end()
        .fails()
        .says("Not written because of the failure: later/1 (");
}

#[test]
fn all_failures_are_reported() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    // The second one continues after SIGTERM, and fails by itself.
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
        .agent_with_jobs(2)
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

/// Packages that resist being stopped, as many as run concurrently, and two releases of them.
fn stubborn(place: &NamespaceWorld) -> [PathBuf; 2] {
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

fn interrupted(signal: Signal) -> Option<(NamespaceWorld, [PathBuf; 2], Ran)> {
    let place = NamespaceWorld::new()?;
    let tarballs = stubborn(&place);
    let mut running = place.agent_with_jobs(4).args(&tarballs).start();
    place.wait_for_facts(&mut running, &["a", "b", "c", "d"]);
    running.signal(signal);
    let ran = running.end();
    Some((place, tarballs, ran))
}

#[test]
fn stop_ends_all_concurrent_packages() {
    let Some((place, _, ran)) = interrupted(Signal::SIGTERM) else {
        return;
    };
    ran.ends_with(143)
        .says(
            "Stopping on SIGTERM: a, b, c and d have 1 s to end (SIGTERM again to kill at once)\n",
        )
        .does_not_say("Error");
    place.assert_no_process();
    assert!(!place.world.base().exists());
    // Created for this run, and empty again.
    assert!(!place.world.out().exists());
}

#[test]
fn next_run_removes_the_leftovers_of_a_killed_one() {
    let Some((place, tarballs, ran)) = interrupted(Signal::SIGKILL) else {
        return;
    };
    assert_eq!(ran.code, None);
    std::fs::write(place.fact("go"), "").unwrap();
    place.agent_with_jobs(4).args(&tarballs).run().succeeds();
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
