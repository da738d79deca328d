//! Output that arrives after the script itself has ended, under each isolation. `BOSH_AGENT_SOAK=1` makes it fifty times each.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests start programs and handle files by the plain means, and fail where these fail"
)]

mod support;

use std::time::{Duration, Instant};

use support::{
    LANDLOCK, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER, USERNS_OF_ROOT,
    extract, in_tiers, processes_below, unpacked,
};

in_tiers!(no_line_is_lost_that_a_tee_writes: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(a_slow_tee_loses_nothing: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(a_failed_script_with_a_tee_is_reported_with_its_reason: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(files_of_a_background_job_that_ends_soon_are_packed: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(daemons_left_behind_are_ended_and_reported: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(a_script_without_leftovers_is_not_waited_for: NAMESPACE NONE);

/// How many lines a script prints through its idiom.
const LINES: usize = 40;

fn rounds() -> usize {
    if std::env::var_os("BOSH_AGENT_SOAK").is_some() {
        50
    } else {
        5
    }
}

/// Prints `line 1` to `line LINES`.
fn lines() -> String {
    format!("for n in $(seq {LINES}); do echo \"line $n\"; done")
}

/// What scripts do with their output, and the file of the package that has the lines then.
fn idioms() -> [(&'static str, String, &'static str); 4] {
    let lines = lines();
    [
        (
            "whole",
            format!("exec > >(tee -a $BOSH_INSTALL_TARGET/build.log) 2>&1\n{lines}"),
            "build.log",
        ),
        (
            "errors",
            format!("{{ {lines}; }} 2> >(tee $BOSH_INSTALL_TARGET/err) >&2"),
            "err",
        ),
        (
            "filter",
            format!("{{ {lines}; }} | sed 's/^/ /' | tee $BOSH_INSTALL_TARGET/filtered &"),
            "filtered",
        ),
        (
            "nested",
            format!(
                "exec > >(exec 2>&1; sed 's/^/ /' > >(tee $BOSH_INSTALL_TARGET/nested))\n{lines}"
            ),
            "nested",
        ),
    ]
}

/// The numbers of the lines that are in a text, in its order. The trace of `bash -x` is left out.
fn numbers(text: &str) -> Vec<usize> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("line ")?.parse().ok())
        .collect()
}

#[track_caller]
fn check_complete(what: &str, text: &str) {
    let expected: Vec<usize> = (1..=LINES).collect();
    assert_eq!(numbers(text), expected, "{what} has:\n{text}");
}

/// The contents of a file of a compiled package.
fn text_of(place: &Place, package: &str, file: &str) -> String {
    let found = place.file(package, file);
    let (_mode, text) = found.split_once(' ').unwrap();
    text.to_owned()
}

mod bodies {
    use super::*;

    pub(super) fn no_line_is_lost_that_a_tee_writes(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let mut release = ReleaseBuilder::new("demo", "1.10");
        let mut expected = Vec::new();
        for round in 0..rounds() {
            for (idiom, script, file) in idioms() {
                let name = format!("{idiom}-{round}");
                release = release.package(&name, &[], &script);
                expected.push((name, file));
            }
        }
        place.run(&release).succeeds().does_not_say("Warning");
        let scratch = tempfile::tempdir().unwrap();
        extract(&place.world.result("demo-1.10"), scratch.path());
        for (name, file) in expected {
            let tree = scratch.path().join(&name);
            let blob = scratch.path().join(format!("compiled_packages/{name}.tgz"));
            extract(&blob, &tree);
            let text = std::fs::read_to_string(tree.join(file)).unwrap();
            check_complete(&format!("{file} of {name}"), &text);
            let log = place.world.read(&format!("logs/demo-1.10/{name}.log"));
            check_complete(&format!("the log of {name}"), &log);
        }
    }

    pub(super) fn a_slow_tee_loses_nothing(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = format!(
            "exec > >(sleep 0.3; tee $BOSH_INSTALL_TARGET/build.log) 2>&1\n{}",
            lines()
        );
        let ran = place.run(&ReleaseBuilder::of_script(&script));
        ran.succeeds().does_not_say("Warning");
        check_complete("the file", &text_of(&place, "app", "build.log"));
        check_complete("the log", &place.world.read("logs/demo-1.10/app.log"));
    }

    pub(super) fn a_failed_script_with_a_tee_is_reported_with_its_reason(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = "exec > >(sleep 0.2; tee -a $BOSH_INSTALL_TARGET/build.log) 2>&1\n\
                      printf 'the reason is %s\\n' $((1200 + 34))\nexit 3";
        let ran = place.run(&ReleaseBuilder::of_script(script));
        ran.fails()
            .says("exited with 3")
            .says("the reason is 1234\n")
            .does_not_say("running, to be ended");
        let log = place.world.read("logs/demo-1.10/app.log");
        assert!(log.contains("the reason is 1234\n"), "{log}");
    }

    pub(super) fn files_of_a_background_job_that_ends_soon_are_packed(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script =
            "setsid sh -c 'sleep 0.3; echo late > $BOSH_INSTALL_TARGET/late' >/dev/null 2>&1 &";
        let ran = place.run(&ReleaseBuilder::of_script(script));
        ran.succeeds().does_not_say("Warning");
        assert_eq!(place.file("app", "late"), "100644 late\n");
    }

    pub(super) fn daemons_left_behind_are_ended_and_reported(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = "setsid sleep 1000 </dev/null >/dev/null 2>&1 &\n\
                      sleep 1000 &\n\
                      exec > >(tee $BOSH_INSTALL_TARGET/build.log) 2>&1\n\
                      printf 'said %s\\n' $((1200 + 34))";
        let ran = place.run(&ReleaseBuilder::of_script(script));
        ran.succeeds()
            .says("Warning: the packaging script of app left 2 processes running");
        let (_scratch, contents) = unpacked(&place.world.result("demo-1.10"), "app");
        assert!(contents["build.log"].contains("said 1234\n"));
        assert_eq!(processes_below(&place.world.path("facts")), [""; 0]);
    }

    pub(super) fn a_script_without_leftovers_is_not_waited_for(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let names: Vec<String> = (0..60).map(|number| format!("p{number}")).collect();
        let mut release = ReleaseBuilder::new("demo", "1.10");
        for (number, name) in names.iter().enumerate() {
            let before: Vec<&str> = names[..number]
                .last()
                .map(String::as_str)
                .into_iter()
                .collect();
            release = release.package(name, &before, "true");
        }
        let tarball = place.release(&release);
        let start = Instant::now();
        place.agent().arg(tarball).run().succeeds();
        // One after the other: with a second for each it would be a minute.
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
