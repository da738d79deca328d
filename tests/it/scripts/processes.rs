//! Processes that a script leaves behind.

use super::*;

#[test]
fn processes_that_a_script_leaves_behind_are_gone_when_the_agent_ends() {
    let facts = Facts::new();
    facts
        .run(&script(STUBBORN))
        .succeeds()
        .says("Warning: the packaging script of app left ");
    facts.assert_clean();
}

#[test]
fn processes_of_a_failed_script_are_gone_too() {
    let facts = Facts::new();
    facts.run(&script(&format!("{STUBBORN}\nexit 1"))).fails();
    facts.assert_clean();
}

#[test]
fn processes_of_one_script_are_gone_before_the_next_begins() {
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
fn a_script_that_leaves_nothing_behind_is_not_warned_of() {
    let facts = Facts::new();
    facts
        .run(&script("true | cat\nsleep 0 & wait"))
        .succeeds()
        .does_not_say("Warning");
}
