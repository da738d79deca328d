//! Output that arrives after the end of the script, in each isolation tier. `BOSH_AGENT_SOAK=1` repeats each test fifty times.

use crate::support::{
    LANDLOCK, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER, USERNS_OF_ROOT,
    extract, in_tiers, processes_below, unpacked,
};

in_tiers!(no_line_of_a_tee_is_lost: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(slow_tee_loses_no_line: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(failed_script_with_a_tee_is_reported_with_its_reason: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(files_of_a_short_background_job_are_packed: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(remaining_daemons_are_stopped_and_reported: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(agent_does_not_wait_after_a_script_without_leftovers: NAMESPACE NONE);
in_tiers!(agent_waits_no_longer_than_the_last_process: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);

/// The number of lines that a script prints through its idiom.
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

/// Idioms that redirect the output of scripts, and the file of the package with the lines.
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

/// The numbers of the lines in a text, in order, without the trace of `bash -x`.
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

    pub(super) fn no_line_of_a_tee_is_lost(tier: Tier) {
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

    pub(super) fn slow_tee_loses_no_line(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = format!(
            "exec > >(sleep 0.1; tee $BOSH_INSTALL_TARGET/build.log) 2>&1\n{}",
            lines()
        );
        let ran = place.run(&ReleaseBuilder::of_script(&script));
        ran.succeeds().does_not_say("Warning");
        check_complete("the file", &text_of(&place, "app", "build.log"));
        check_complete("the log", &place.world.read("logs/demo-1.10/app.log"));
    }

    pub(super) fn failed_script_with_a_tee_is_reported_with_its_reason(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        for (idiom, script, _) in idioms() {
            let tarball = place.release(&ReleaseBuilder::of_script(&format!("{script}\nexit 3")));
            for round in 0..rounds() {
                let ran = place.agent().arg(&tarball).run().fails();
                ran.says("the packaging script exited with 3")
                    .says(&format!("line {LINES}\n"))
                    .does_not_say("left ");
                // Under Landlock it fails twice.
                for log in ["app@first.log", "app.log"] {
                    let what = format!("{log} of {idiom}-{round}");
                    if log == "app.log" || place.tier.name == "landlock" {
                        let text = place.world.read(&format!("logs/demo-1.10/{log}"));
                        check_complete(&what, &text);
                    }
                }
            }
        }
    }

    pub(super) fn files_of_a_short_background_job_are_packed(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script =
            "setsid sh -c 'sleep 0.1; echo late > $BOSH_INSTALL_TARGET/late' >/dev/null 2>&1 &";
        let ran = place.run(&ReleaseBuilder::of_script(script));
        ran.succeeds().does_not_say("Warning");
        assert_eq!(place.file("app", "late"), "100644 late\n");
    }

    pub(super) fn remaining_daemons_are_stopped_and_reported(tier: Tier) {
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

    pub(super) fn agent_does_not_wait_after_a_script_without_leftovers(tier: Tier) {
        assert_gaps_below_one_second(tier, "true");
    }

    pub(super) fn agent_waits_no_longer_than_the_last_process(tier: Tier) {
        assert_gaps_below_one_second(tier, "exec > >(sleep 0.1; cat) 2>&1; echo line");
    }

    /// Compiles packages one after another with this script, and checks the times between the scripts.
    fn assert_gaps_below_one_second(tier: Tier, script: &str) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        // Each records its start and its end.
        let script = format!("date +%s%N >> $FACTS/times; {script}; date +%s%N >> $FACTS/times");
        let names: Vec<String> = (0..21).map(|number| format!("p{number}")).collect();
        let mut release = ReleaseBuilder::new("demo", "1.10").package(&names[0], &[], &script);
        for pair in names.windows(2) {
            release = release.package(&pair[1], &[&pair[0]], &script);
        }
        place.run(&release).succeeds();
        let times = place.world.read("facts/times");
        let times: Vec<u64> = times.lines().map(|line| line.parse().unwrap()).collect();
        let mut gaps: Vec<u64> = times[1..]
            .chunks_exact(2)
            .map(|pair| pair[1] - pair[0])
            .collect();
        gaps.sort_unstable();
        // Half of them, for busy machines: if the agent waited for as long as it may, each would take one second more.
        assert_eq!(gaps.len(), 20);
        assert!(gaps[10] < 1_000_000_000, "{gaps:?}");
    }
}
