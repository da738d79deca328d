//! Processes that a script leaves running.

use super::*;

#[test]
fn remaining_processes_of_a_script_are_killed() {
    let facts = Facts::new();
    facts
        .run(&script(STUBBORN))
        .succeeds()
        .says("Warning: the packaging script of app left ");
    facts.assert_clean();
}

#[test]
fn remaining_processes_of_a_failed_script_are_killed() {
    let facts = Facts::new();
    facts.run(&script(&format!("{STUBBORN}\nexit 1"))).fails();
    facts.assert_clean();
}

#[test]
fn processes_of_a_script_end_before_the_next_script() {
    let facts = Facts::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "a",
            &[],
            &format!(
                "setsid bash -c 'trap \"\" TERM; {NOTES_ITSELF}; sleep 1000; sleep 1000' &\n\
                 while [ ! -s $FACTS/process ]; do sleep 0.01; done"
            ),
        )
        .package(
            "b",
            &[],
            &format!("if {NOTED_IS_ALIVE}; then touch $FACTS/alive; fi"),
        );
    facts.run(&release).succeeds();
    assert!(!facts.has("alive"));
}

#[test]
fn script_without_remaining_processes_gives_no_warning() {
    let facts = Facts::new();
    facts
        .run(&script("true | cat\nsleep 0 & wait"))
        .succeeds()
        .does_not_say("Warning");
}
