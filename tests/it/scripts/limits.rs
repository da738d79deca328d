//! Users, time limits and leftovers of a script.

use super::*;

#[test]
fn ordinary_user_can_compile() {
    if !require_root() || !require_tools(&["setpriv", "chown"]) {
        return;
    }
    let facts = Facts::new();
    let release = script("id -u > $BOSH_INSTALL_TARGET/user\nmkdir -m 0 locked");
    let tarball = facts.world.release("release.tgz", &release);
    let home = facts.world.path("printed");
    let home = home.parent().unwrap();
    run_tool_with(
        "chown",
        &["-R".as_ref(), "12345:12345".as_ref(), home.as_os_str()],
        b"",
    );
    // The program may be in a directory that only root can reach.
    let own = copied_agent(home);
    let script = format!("shift; exec {} \"$@\"", own.display());
    let wrapped = Agent::wrapped(
        &facts.world.path("printed"),
        &[
            "setpriv",
            "--reuid=12345",
            "--regid=12345",
            "--clear-groups",
            "sh",
            "-c",
            &script,
            "sh",
        ],
    );
    facts
        .with_facts(facts.world.flags(wrapped))
        .arg("--output-directory")
        .args(&[facts.world.out(), tarball])
        .run()
        .succeeds();
    let (_scratch, app) = unpacked(&facts.world.result("demo-1.10"), "app");
    assert_eq!(app["user"], "100644 12345\n");
    facts.assert_clean();
}

#[test]
fn remaining_processes_get_sigterm_before_sigkill() {
    let facts = Facts::new();
    facts
        .run(&script(
            "bash -c 'trap \": > $FACTS/asked; exit\" TERM; touch $FACTS/ready; while :; do sleep 0.01; done' &\n\
             while [ ! -e $FACTS/ready ]; do sleep 0.01; done",
        ))
        .succeeds();
    assert!(facts.has("asked"));
}

#[test]
fn script_that_kills_its_parent_ends() {
    let facts = Facts::new();
    facts
        .run(&script(
            "trap '' TERM\nkill -9 $PPID\nwhile :; do sleep 0.01; done",
        ))
        .blames_the_machine();
    facts.assert_clean();
}

#[test]
fn directories_of_packages_are_readable_by_all_users() {
    let facts = Facts::new();
    facts
        .run(&script(
            "umask 077; for path in . .. ../.. $BOSH_INSTALL_TARGET/ @packages@ @packages@/../data/packages; do \
             stat -L -c %a $path; done > $FACTS/modes",
        ))
        .succeeds();
    assert_eq!(facts.lines("modes"), ["755"; 6]);
}

#[test]
fn script_that_exceeds_the_time_limit_is_reported() {
    let facts = Facts::new();
    let tarball = facts
        .world
        .release("release.tgz", &script(&format!("{STUBBORN}\nsleep 1000")));
    facts
        .agent()
        .args(&["--timeout", "1", "--grace", "1"])
        .arg(tarball)
        .run()
        .fails()
        .says("(it exceeded the time limit of 1.0s)")
        .says("Hint: raise the limit with --timeout");
    facts.assert_clean();
}

#[test]
fn hanging_processes_are_listed_before_they_are_stopped() {
    let facts = Facts::new();
    let tarball = facts.world.release(
        "release.tgz",
        &script("echo begins\n(exec -a 'quiet \"one\"' sleep 1000) | cat"),
    );
    let ran = facts
        .agent()
        .args(&["--silence-timeout", "1s", "--grace", "1s"])
        .arg(tarball)
        .run()
        .ends_with(1)
        .says("(it printed nothing for 1.0s, the limit of --silence-timeout)")
        .says(
            "Processes of the packaging script of app at the time limit, before they were stopped:",
        )
        .says("quiet \"one\" 1000 (state S, runs for ")
        .says("Hint: if the script is not stuck, raise the limit with --silence-timeout");
    // The parent is the script itself.
    let listed: Vec<&str> = ran
        .stderr
        .lines()
        .filter(|it| it.contains("(state "))
        .collect();
    assert!(listed[0].starts_with("  | ") && listed[0].contains("bash -x packaging"));
    assert!(listed[1].starts_with("  |   "), "{listed:?}");
    assert!(!ran.stderr.contains("sandbox-child"), "{}", ran.stderr);
    facts.assert_clean();
}

#[test]
fn script_has_no_terminal() {
    if !require_tools(&["script"]) {
        return;
    }
    let facts = Facts::new();
    let tarball = facts.world.release(
        "release.tgz",
        &script("if read answer < /dev/tty; then exit 1; fi; touch $FACTS/went-on"),
    );
    let call = format!(
        "{} compile --isolation none --stemcell ubuntu-noble/1.406 --base-directory {} --output-directory {} {}",
        env!("CARGO_BIN_EXE_bosh-agent"),
        facts.world.base().display(),
        facts.world.out().display(),
        tarball.display()
    );
    let status = std::process::Command::new("timeout")
        .args(["60", "script", "-qefc", &call, "/dev/null"])
        .env("FACTS", facts.world.path("facts"))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    assert!(facts.has("went-on"));
}

#[test]
fn files_outside_the_package_are_removed_after_a_kill() {
    let facts = Facts::new();
    let running = facts.start(&script(
        "mkdir @packages@/extra @base@/data/compile/extra; touch $FACTS/started; sleep 1000",
    ));
    running.signal(Signal::SIGKILL);
    running.end();
    facts.run(&ReleaseBuilder::demo()).succeeds();
    assert!(!facts.world.base().join("packages/extra").exists());
}
