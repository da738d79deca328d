//! Containers with little memory, a full disk or closed streams, and Ctrl-C on a terminal.

use super::*;
use crate::common::{Agent, wait_until};

/// A script that reads into memory until a process is killed.
const HUNGRY: &str = "echo so far so good\ntail /dev/zero\n";

#[test]
fn memory_limit_of_a_container_is_named_as_the_cause() {
    let Some((outcome, out)) = compile(
        "memory",
        HUNGRY,
        &["-m", "256m", "--cpus", "1"],
        &[
            AGENT,
            "compile",
            "--output-directory=/out",
            "/releases/r.tgz",
        ],
    ) else {
        return;
    };
    outcome.expect_code(4, "a script that needs too much memory");
    said(
        &outcome,
        &[
            "  | so far so good\n",
            "Full log: /out/r-1.failed/app.log\n",
            "out of memory: the kernel killed 1 process",
            "Hint: give the machine or the container more memory",
        ],
    );
    assert_eq!(names(out.path()), ["r-1.failed"], "{outcome}");
}

#[test]
fn memory_limit_of_a_container_reduces_the_jobs() {
    let options = ["-m", "1500m", "--cpus", "2"];
    let command = [
        AGENT,
        "compile",
        "--output-directory=/out",
        "/releases/r.tgz",
    ];
    let Some((outcome, _out)) = compile("jobs", "true\n", &options, &command) else {
        return;
    };
    outcome.expect_code(0, "a small package");
    assert!(
        !outcome.stderr.contains("Compiling up to 2 packages"),
        "{outcome}"
    );
}

#[test]
fn full_disks_of_a_container_are_named() {
    let fat = "dd if=/dev/urandom of=$BOSH_INSTALL_TARGET/fat bs=1M count=60\n";
    let command = |out: &'static str| [AGENT, "compile", out, "/releases/r.tgz"];
    let small = ["--tmpfs", "/var/vcap/data:size=30m,exec"];
    let Some((outcome, _)) = compile("data", fat, &small, &command("--output-directory=/out"))
    else {
        return;
    };
    outcome.expect_code(4, "a small volume for data");
    said(
        &outcome,
        &[
            "No space left on device\n",
            "no space left on the device of `/var/vcap/data",
            "Hint: ",
        ],
    );
    let small = ["--tmpfs", "/small:size=5m"];
    let Some((outcome, _)) = compile("output", fat, &small, &command("--output-directory=/small"))
    else {
        return;
    };
    outcome.expect_code(4, "a small volume for results");
    said(
        &outcome,
        &[
            "Error: failed to write the compiled release `/small/r-1-ubuntu-noble-1.406.tgz`",
            ": not enough space for a file of about 60",
            "No space left on device",
            "--output-directory",
        ],
    );
}

#[test]
fn closed_streams_do_not_stop_a_compilation() {
    let compile_with = |closed: &str| {
        let script =
            format!("exec {AGENT} compile --output-directory=/out /releases/r.tgz {closed}");
        compile("closed", "true\n", &[], &["bash", "-c", &script])
    };
    for (closed, shows_path, shows_messages) in [
        (">&-", false, true),
        ("2>&-", true, false),
        (">&- 2>&-", false, false),
        // The reader is gone.
        ("2> >(exec true)", true, false),
    ] {
        let Some((outcome, out)) = compile_with(closed) else {
            return;
        };
        outcome.expect_code(0, closed);
        let result = "r-1-ubuntu-noble-1.406.tgz";
        assert_eq!(names(out.path()), [result], "{closed}: {outcome}");
        let path = format!("/out/{result}\n");
        assert_eq!(outcome.stdout == path, shows_path, "{closed}: {outcome}");
        let last = format!("Finished archiving compiled tarball {path}");
        assert_eq!(
            outcome.stderr.ends_with(&last),
            shows_messages,
            "{closed}: {outcome}"
        );
    }
}

#[test]
fn second_ctrl_c_in_a_container_kills_the_script() {
    if inputs::require().is_none() {
        return;
    }
    let releases = tempfile::tempdir().unwrap();
    let script = "trap '' TERM INT\necho ready\nwhile :; do sleep 1; done\n";
    release::write(releases.path(), "r", "app", script);
    let container = Container::new("ctrl-c");
    let mount = volume(releases.path(), "/releases");
    // Docker gives the output of a terminal to its stdout.
    let through = [
        "sh",
        "-c",
        "exec \"$@\" >&2",
        "sh",
        "docker",
        "run",
        "-it",
        "--rm",
        "--name",
    ];
    let options = [container.name(), "-v", &mount, AGENT_IMAGE, AGENT];
    let words = through.iter().chain(&options).map(AsRef::as_ref);
    let mut terminal = Agent::through(releases.path(), words)
        .without_report()
        .args(&[
            "compile",
            "--verbose",
            "--grace",
            "100s",
            "--output-directory=/releases/out",
        ])
        .arg("/releases/r.tgz")
        .start_on_terminal();
    terminal.shows("app | ready");
    terminal.keys("\x03");
    terminal.shows("Stopping");
    // Signals shortly after the first one belong to it.
    wait_until("the second signal", || {
        terminal.keys("\x03");
        terminal
            .screen()
            .contains("Killing all processes after a second SIGINT")
    });
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(130), "{screen}");
    let out = releases.path().join("out");
    let is_temporary = |name: &String| name.starts_with(".bosh-agent-");
    assert!(
        !out.exists() || names(&out).iter().all(is_temporary),
        "{screen}"
    );
}

/// Asserts that these texts are in stderr.
#[track_caller]
fn said(outcome: &Outcome, parts: &[&str]) {
    for part in parts {
        assert!(outcome.stderr.contains(part), "no {part:?}: {outcome}");
    }
}

/// Compiles a release of one package in a container. `None` if there is no Docker.
fn compile(
    label: &str,
    script: &str,
    options: &[&str],
    command: &[&str],
) -> Option<(Outcome, TempDir)> {
    inputs::require()?;
    let (releases, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    release::write(releases.path(), "r", "app", script);
    let (input, output) = (
        volume(releases.path(), "/releases"),
        volume(out.path(), "/out"),
    );
    let options = [&["--rm", "-v", &input, "-v", &output], options].concat();
    let outcome = Container::new(label).run(&options, AGENT_IMAGE, command, SHORT);
    Some((outcome, out))
}
