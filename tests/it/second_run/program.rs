//! A second run in the program's output.

use super::decision::MemoryGroup;
use super::*;
use crate::support::require_root;

/// Asserts that these texts follow each other.
#[track_caller]
fn in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            panic!("`{part}` is missing, or too early, in:\n{text}");
        };
        rest = after;
    }
}

#[test]
fn first_failure_is_printed_while_another_script_runs() {
    let Some(place) = Place::new(LANDLOCK) else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "app",
            &[],
            &format!(
                "{COUNT}[ $run = 2 ] && touch $FACTS/second; until [ -e $FACTS/slow ]; do sleep 0.01; done; \
                 echo it is broken; exit 8"
            ),
        )
        .package(
            "slow",
            &[],
            "touch $FACTS/slow; until [ -e $FACTS/gate ]; do sleep 0.01; done",
        )
        .package("next", &["slow"], "[ -e $FACTS/second ]");
    let tarball = place.release(&release);
    let running = place.agent().args(&["--jobs", "2"]).arg(tarball).start();
    let announced = "app is compiled again, alone and without restrictions once the running packaging script has ended; \
                     no other script starts before that\n";
    wait_for("the first failure", LIMIT, || {
        let stderr = running.stderr();
        stderr.contains(announced).then_some(()).ok_or(stderr)
    });
    place.world.write("facts/gate", "");
    let ran = running.end().fails();
    let log = |name: &str| {
        place
            .world
            .path("logs/demo-1.10")
            .join(name)
            .display()
            .to_string()
    };
    in_order(
        &ran.stderr,
        &[
            "Warning: the packaging script of `app` exited with 8 (after ",
            ", restricted by Landlock)\nLast lines of the packaging script of app:\n",
            "  | it is broken\n",
            &format!("Full log: {}\n", log("app@first.log")),
            announced,
            "Compiling package app again, alone and without restrictions\n",
            "Last lines of the packaging script of app:\n",
            "  | it is broken\n",
            &format!("Full log: {}\n", log("app.log")),
            &format!(
                "The second run, without Landlock's restrictions, failed as well. Full log of the first run: {}\n",
                log("app@first.log")
            ),
            "Error: failed to compile package app/",
            "the packaging script exited with 8 after ",
        ],
    );
}

/// How long after the end of a script its failure may be reported.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Compiles a package whose script fails after a denial while another one, which ignores SIGTERM, runs. Asserts that the failure is
/// reported before the other script ends.
fn assert_reported_at_once(failing: &str, reported: &str, runs: usize) {
    let Some(place) = Place::new(LANDLOCK) else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "app",
            &[],
            &format!(
                "{COUNT}until [ -e $FACTS/slow ]; do sleep 0.01; done; echo 'mkdir: /x: Permission denied' >&2; {failing}"
            ),
        )
        .package(
            "slow",
            &[],
            "trap '' TERM; touch $FACTS/slow; until [ -e $FACTS/gate ]; do echo; sleep 0.01; done",
        );
    let tarball = place.release(&release);
    let agent = place.agent().args(&["--jobs", "2", "--grace", "60"]);
    let running = agent
        .args(&["--silence-timeout", "3s"])
        .arg(tarball)
        .start();
    wait_for("the script's end", LIMIT, || {
        let ended = place.world.path("facts/ended").exists();
        ended.then_some(()).ok_or_else(|| running.stderr())
    });
    wait_for(reported, AT_ONCE, || {
        let stderr = running.stderr();
        stderr.contains(reported).then_some(()).ok_or(stderr)
    });
    place.world.write("facts/gate", "");
    running.end().fails_or_blames_the_machine();
    let recorded = place.world.read("facts/app.runs");
    assert_eq!(recorded.lines().count(), runs, "{failing}");
}

#[test]
fn denied_script_is_reported_at_once_beside_a_long_one() {
    assert_reported_at_once(
        "touch $FACTS/ended; exit 8",
        "the packaging script of `app` exited with 8 (after ",
        2,
    );
}

#[test]
fn killed_script_is_reported_at_once_and_runs_once() {
    assert_reported_at_once("touch $FACTS/ended; kill -KILL $$", "SIGKILL", 1);
}

#[test]
fn full_disk_is_reported_at_once_and_the_script_runs_once() {
    assert_reported_at_once(
        "echo 'cp: No space left on device' >&2; touch $FACTS/ended; exit 1",
        " failed: the packaging script exited with 1 after ",
        1,
    );
}

#[test]
fn silent_script_is_reported_at_once_and_runs_once() {
    assert_reported_at_once(
        "trap 'touch $FACTS/ended; exit 1' TERM; sleep 1000 & wait",
        "printed nothing for",
        1,
    );
}

#[test]
fn lack_of_memory_is_reported_at_once_and_the_script_runs_once() {
    if !require_root() {
        return;
    }
    let group = MemoryGroup::new(64 << 20);
    if !require(group.is_some(), "a control group with a limit of memory") {
        return;
    }
    let procs = group.as_ref().unwrap().0.join("cgroup.procs");
    assert_reported_at_once(
        &format!(
            "echo $$ > {}; perl -e '$x = \"x\" x (300 << 20)' || {{ touch $FACTS/ended; exit 1; }}",
            procs.display()
        ),
        "out of memory",
        1,
    );
}

#[test]
fn successful_second_run_shows_denials_and_hints() {
    let Some((place, ran)) = run(
        "set -e; mkdir $base/new; rmdir $base/new; echo fine > $BOSH_INSTALL_TARGET/file",
        &[],
    ) else {
        return;
    };
    let new = place.world.base().join("new").display().to_string();
    in_order(
        &ran.succeeds().stderr,
        &[
            "Warning: the packaging script of `app` exited with 1 (after ",
            &format!("Denied access to: `{new}`\n"),
            "app is compiled again, alone and without restrictions",
            "Compiling package app again, alone and without restrictions\n",
            "Warning: app compiled only in its second run, without restrictions\n",
            "Denied in the first run:\n",
            "  | mkdir: cannot create directory ",
            &new,
            "app@first.log\n",
            &format!("Hint: Landlock does not let scripts create, replace or remove `{new}`"),
            "Finished compiling release app/",
        ],
    );
    assert_eq!(place.file("app", "file"), "100644 fine\n");
}

#[test]
fn changed_dependency_is_hinted_at() {
    for script in [
        "set -e; echo more >> $base/packages/lib/file",
        "set -e; ln $base/packages/lib/file $BOSH_INSTALL_TARGET/file",
        // This one continues.
        "rm $base/packages/lib/file; true",
    ] {
        let Some((place, ran)) = run(script, &[]) else {
            return;
        };
        let lib = place.world.base().join("packages/lib/file");
        ran.succeeds().says(&format!(
            "Hint: Landlock does not let scripts change or hard-link a dependency (`{}`)",
            lib.display()
        ));
    }
}

#[test]
fn second_run_can_be_switched_off() {
    let script = "set -e; mkdir $base/new; rmdir $base/new";
    let Some((place, ran)) = run(script, &["--second-run=never"]) else {
        return;
    };
    let new = place.world.base().join("new").display().to_string();
    ran.fails()
        .says(&format!("Denied access to: `{new}`\n"))
        .says("Hint: the script was restricted by Landlock: --second-run=always reruns it without restrictions\n")
        .does_not_say("compiled again, alone");
    let script = "mkdir $base/new; true";
    let Some((_place, ran)) = run(script, &["--second-run", "never"]) else {
        return;
    };
    ran.succeeds()
        .says("Warning: the packaging script of app succeeded in spite of a denied access. With --second-run=never")
        .says("  | mkdir: cannot create directory ")
        .says("Hint: Landlock does not let scripts create, replace or remove `");
}

#[test]
fn first_log_is_kept_until_the_next_run() {
    let Some(place) = Place::new(LANDLOCK) else {
        return;
    };
    let script = format!("{COUNT}echo this is run $run; [ $run != 1 ]");
    let tarballs = ["one", "two"].map(|name| {
        let release = ReleaseBuilder::new(name, "1").package("app", &[], &script);
        place.world.release(&format!("{name}.tgz"), &release)
    });
    let log = |release: &str, name: &str| place.world.path(&format!("logs/{release}-1/{name}"));
    place.agent().args(&tarballs).run().succeeds();
    for release in ["one", "two"] {
        for (name, text) in [
            ("app@first.log", "this is run 1"),
            ("app.log", "this is run 2"),
        ] {
            let found = std::fs::read_to_string(log(release, name)).unwrap();
            assert!(
                found.lines().any(|line| line == text),
                "{release} {name}: {found}"
            );
        }
    }
    place.agent().args(&tarballs).run().succeeds();
    for release in ["one", "two"] {
        assert!(!log(release, "app@first.log").exists());
        assert!(log(release, "app.log").exists());
    }
}

in_tiers!(undeclared_packages_count_in_errors_only: NAMESPACE USERNS_OF_ROOT LANDLOCK NONE);
