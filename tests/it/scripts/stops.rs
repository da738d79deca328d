//! Stops and kills while scripts run.

use super::*;

/// Stops the agent during a script that does not end by itself.
#[track_caller]
fn stop(text: &str, signal: Signal, code: i32) -> (Facts, Ran) {
    let facts = Facts::new();
    let running = facts.start(&script(&format!(
        "{text}\ntouch $FACTS/started\nsleep 1000"
    )));
    running.signal(signal);
    let ran = running.end().ends_with(code);
    facts.assert_clean();
    assert!(!facts.world.out().exists());
    (facts, ran)
}

#[test]
fn stop_ends_the_script_and_leaves_no_files() {
    let (_facts, ran) = stop("", Signal::SIGTERM, 143);
    ran.says("Stopping on SIGTERM").does_not_say("Error");
    let (_facts, ran) = stop("", Signal::SIGINT, 130);
    ran.says("Stopping: app has ")
        .says("Stopped by SIGINT: 0 of 1 package was compiled, nothing was written\n")
        .does_not_say("Error");
}

#[test]
fn stop_sends_sigterm_before_sigkill() {
    // Bash runs a trap between commands and during `wait`. A process that bash has just forked may lose the signal; then bash runs no trap
    // before a command in the foreground has ended.
    let text = "trap ': > $FACTS/asked; exit' TERM; sleep 1000 & touch $FACTS/started; wait";
    let (facts, _) = stop(text, Signal::SIGTERM, 143);
    assert!(facts.has("asked"));
}

#[test]
fn stop_ends_processes_that_resist() {
    let text = format!("trap '' TERM INT\n{STUBBORN}");
    let (_facts, _) = stop(&text, Signal::SIGTERM, 143);
    let (_facts, _) = stop(&text, Signal::SIGINT, 130);
}

#[test]
fn stop_keeps_complete_results_and_starts_no_package() {
    let facts = Facts::new();
    let first = facts.world.release("first.tgz", &ReleaseBuilder::demo());
    let second = ReleaseBuilder::new("second", "1")
        .package("a", &[], "touch $FACTS/started\nsleep 1000")
        .package("b", &[], "touch $FACTS/b");
    let second = facts.world.release("second.tgz", &second);
    let running = facts.agent().args(&[first, second]).start();
    let result = facts.world.result("demo-1.10");
    let told = format!("Finished archiving compiled tarball {}\n", result.display());
    // The first release is written while the second one compiles.
    wait_for("the first release and the second's script", LIMIT, || {
        let are_there = facts.has("started") && result.exists();
        are_there.then_some(()).ok_or(running.stderr())
    });
    running.signal(Signal::SIGTERM);
    running.end().ends_with(143).says(&told);
    assert!(result.exists());
    assert!(!facts.has("b"));
    facts.assert_clean();
}

#[test]
fn stop_while_a_tarball_is_read_leaves_no_files() {
    let facts = Facts::new();
    let pipe = facts.world.path("pipe.tgz");
    crate::support::run_tool("mkfifo", &[&pipe]);
    let running = facts.agent().arg(&pipe).start();
    // The pipe can be opened when the reader runs; it waits for the rest of the tarball.
    let mut writer = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    let half = crate::support::Compression::Gzip
        .apply(&crate::support::archive(&ReleaseBuilder::demo().members()));
    std::io::Write::write_all(&mut writer, &half[..half.len() / 2]).unwrap();
    wait_for("the reader", LIMIT, || {
        let said = running.stderr();
        said.contains("Reading BOSH Release")
            .then_some(())
            .ok_or(said)
    });
    running.signal(Signal::SIGTERM);
    wait_for("the signal to be heard", LIMIT, || {
        let said = running.stderr();
        said.contains("Stopping on SIGTERM")
            .then_some(())
            .ok_or(said)
    });
    // A read that waits for data cannot be canceled; there is no further one.
    drop(writer);
    running.end().ends_with(143);
    facts.assert_clean();
}

#[test]
fn script_of_a_killed_agent_ends_and_is_cleaned_up() {
    let facts = Facts::new();
    let running = facts.start(&script(&format!("{STUBBORN}\nsleep 1000")));
    running.signal(Signal::SIGKILL);
    assert_eq!(running.end().code, None);
    wait_for("the script's processes to end", LIMIT, || {
        let left = processes_below(&facts.world.base());
        left.is_empty().then_some(()).ok_or(format!("{left:#?}"))
    });
    let left = crate::support::snapshot(&facts.world.base());
    assert!(left.contains_key("packages/app"), "{:?}", left.keys());

    facts.run(&ReleaseBuilder::demo()).succeeds();
    let left = crate::support::snapshot(&facts.world.base());
    let left: Vec<&String> = left.keys().collect();
    assert_eq!(
        left,
        ["", "data", "data/compile", "data/packages", "packages"],
        "what the killed run left is not gone"
    );
    let results: Vec<_> = crate::support::snapshot(&facts.world.out())
        .into_keys()
        .collect();
    assert_eq!(results, ["", "demo-1.10-ubuntu-noble-1.406.tgz"]);
}

#[test]
fn next_run_waits_for_the_script_of_a_killed_one() {
    let facts = Facts::new();
    // It prints no text, as the broken pipe would end it at once.
    let text = format!(
        "{{ set +x; }} 2>/dev/null\n\
         trap '' TERM\n{NOTES_ITSELF}\ntouch $FACTS/started\n\
         while true; do touch $BOSH_INSTALL_TARGET/old 2>/dev/null; sleep 0.01; done"
    );
    let running = facts.start(&script(&text));
    running.signal(Signal::SIGKILL);
    running.end();
    let next = format!("if {NOTED_IS_ALIVE}; then touch $FACTS/met; fi");
    let ran = facts.run(&script(&next));
    assert!(
        !facts.has("met"),
        "both scripts ran at once:\n{}",
        ran.stderr
    );
    match ran.code {
        Some(0) => {
            let (_scratch, app) = unpacked(&facts.world.result("demo-1.10"), "app");
            assert!(!app.contains_key("old"), "{app:?}");
        }
        _ => drop(ran.fails().says("another bosh-agent is compiling")),
    }
    wait_for("the old script's end", LIMIT, || {
        let left = processes_below(&facts.world.base());
        left.is_empty().then_some(()).ok_or(format!("{left:#?}"))
    });
}

#[test]
fn next_run_removes_the_partial_result_of_a_killed_one() {
    let world = World::new();
    let partial = world.write("out/.bosh-agent-partial-12345-0", "half");
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    world.compile(&[&tarball]).succeeds();
    assert!(!partial.exists());
}
