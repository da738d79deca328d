//! Reports of failed scripts, and their logs.

use super::*;

#[test]
fn failing_script_is_reported_with_all_details() {
    let facts = Facts::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("a-early", &[], "true")
        .package(
            "lib",
            &[],
            "{ set +x; } 2>/dev/null\nfor i in $(seq 1 60); do echo line $i; done\necho to stderr >&2\nexit 7",
        )
        .of_version("3.1")
        .package("app", &["lib"], "touch $FACTS/app")
        .package("top", &["app"], "touch $FACTS/top")
        .package("zoo", &[], "touch $FACTS/zoo");
    let ran = facts
        .run(&release)
        .fails()
        .says("Last lines of the packaging script of lib:\n  | line 37\n  | line 38\n")
        .says("  | line 60\n  | to stderr\n")
        .says(&format!("Full log: {}\n", facts.log("lib").display()))
        .says("Compiled, but discarded because the release is incomplete: a-early\n")
        .says("Not compiled because they depend on lib: app, top\n")
        .says("Not started: zoo\n")
        .says("Error: failed to compile package lib/3.1 of release demo/1.10: the packaging script exited with 7 after ")
        .does_not_say("line 36\n")
        .does_not_say("Hint");
    let last = ran.stderr.lines().last().unwrap();
    assert!(
        last.starts_with("Error: "),
        "the last line says what failed: {last}"
    );
    let log = std::fs::read_to_string(facts.log("lib")).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 61);
    assert_eq!(
        (lines[0], lines[59], lines[60]),
        ("line 1", "line 60", "to stderr")
    );
    for package in ["app", "top", "zoo"] {
        assert!(!facts.has(package), "{package} was compiled");
    }
    assert!(!facts.world.out().exists());
    facts.assert_clean();
}

#[test]
fn failing_script_without_output_is_reported() {
    let facts = Facts::new();
    let text = "{ set +x; } 2> /dev/null; exit 1";
    // The trace of the first command is lost.
    facts
        .run(&script(text))
        .fails()
        .says("The packaging script of app printed nothing\n");
}

#[test]
fn killed_script_is_reported_with_the_signal() {
    for (signal, name) in [
        ("KILL", "SIGKILL"),
        ("SEGV", "SIGSEGV"),
        ("TERM", "SIGTERM"),
    ] {
        let facts = Facts::new();
        facts
            .run(&script(&format!(
                "ulimit -c 0\nkill -{signal} $$\nsleep 1000"
            )))
            .fails()
            .says(&format!("the packaging script was killed by {name} after "));
        facts.assert_clean();
    }
}

#[test]
fn killed_command_of_a_script_is_reported() {
    let facts = Facts::new();
    facts
        .run(&script("bash -c 'kill -KILL $$'\nexit $?"))
        .fails()
        .says(
            "the packaging script exited with 137 (a command in it was killed by SIGKILL) after ",
        );
}

#[test]
fn missing_bash_is_reported() {
    let facts = Facts::new();
    let tarball = facts.world.release("release.tgz", &script("true"));
    let nowhere = facts.world.path("facts");
    facts
        .agent()
        .env("PATH", nowhere.to_str().unwrap())
        .arg(tarball)
        .run()
        .blames_the_machine()
        .says("failed to start `bash`: No such file or directory");
    facts.assert_clean();
}

#[test]
fn log_has_all_output_in_order() {
    let facts = Facts::new();
    let text = "{ set +x; } 2>/dev/null\n\
                for i in $(seq 1 500); do echo out $i; echo err $i >&2; done\n\
                printf 'no\\0text\\377\\r\\033[31m and no end'";
    facts.run(&script(text)).succeeds();
    let log = std::fs::read(facts.log("app")).unwrap();
    let mut expected = Vec::new();
    for number in 1..=500 {
        expected.extend(format!("out {number}\nerr {number}\n").bytes());
    }
    expected.extend(b"no\0text\xff\r\x1b[31m and no end");
    assert!(log == expected, "{}", String::from_utf8_lossy(&log));
}

#[test]
fn logs_are_kept_in_boshs_directory() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let logs = world.base().join("sys/log/compilation");
    world.compile(&[&tarball]).succeeds().says(&format!(
        "Logs of packaging scripts are kept in {}\n",
        logs.display()
    ));
    for package in ["lib", "app"] {
        let log = std::fs::read_to_string(world.log("demo-1.10", package)).unwrap();
        assert!(log.starts_with("+ "), "{log}");
    }
    let left = crate::support::snapshot(&world.base());
    let left: Vec<&String> = left
        .keys()
        .filter(|path| !path.starts_with("sys"))
        .collect();
    assert_eq!(left, [""]);
}
