//! Failures.

use super::*;

#[test]
fn failing_script_is_explained() {
    if inputs::require().is_none() {
        return;
    }
    let releases = tempfile::tempdir().unwrap();
    let script = "echo so far so good\necho the reason is this >&2\nexit 42\n";
    release::write(releases.path(), "broken", "rotten", script);
    let outcome = compile_to_out(
        &Container::new("broken"),
        &releases,
        "broken.tgz",
        &["--rm"],
    );
    outcome.expect_code(1, "a failing script");
    for part in ["rotten", "42", "so far so good", "the reason is this"] {
        assert!(
            outcome.stderr.contains(part),
            "stderr does not say {part:?}: {outcome}"
        );
    }
    let names_a_log = outcome
        .stderr
        .split_whitespace()
        .any(|word| word.contains('/') && word.contains(".log"));
    assert!(names_a_log, "stderr names no log file: {outcome}");
    // It outlives the container.
    let out = releases.path().join("out");
    assert_eq!(names(&out), ["broken-1.failed"], "{outcome}");
    let log = fs::read_to_string(out.join("broken-1.failed/rotten.log")).unwrap();
    assert!(log.contains("the reason is this\n"), "{log}");
}

#[test]
fn first_process_of_a_container_ends_on_sigterm() {
    if inputs::require().is_none() {
        return;
    }
    let releases = tempfile::tempdir().unwrap();
    release::write(releases.path(), "slow", "sleeper", "sleep 3333\n");
    let container = Container::new("sigterm");
    compile_to_out(&container, &releases, "slow.tgz", &["--detach"])
        .expect_code(0, "docker run --detach");
    let logs = || docker(&["logs", container.name()], SHORT);

    let start = Instant::now();
    while !docker(&["top", container.name()], SHORT)
        .stdout
        .contains("sleep 3333")
    {
        assert!(
            start.elapsed() < SHORT,
            "the script was never started: {}",
            logs()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    docker(&["kill", "--signal", "TERM", container.name()], SHORT).expect_code(0, "docker kill");
    let waited = docker(&["wait", container.name()], SHORT);
    assert_eq!(
        waited.stdout.trim(),
        "143",
        "exit code of the container: {}",
        logs()
    );
    assert!(
        names(&releases.path().join("out")).is_empty(),
        "something was left in the output: {}",
        logs()
    );
}

/// Compiles one of the releases in a directory to its subdirectory `out`, which exists. The agent is the container's first process.
fn compile_to_out(
    container: &Container,
    releases: &TempDir,
    name: &str,
    options: &[&str],
) -> Outcome {
    fs::create_dir(releases.path().join("out")).unwrap();
    let mount = volume(releases.path(), "/releases");
    let options = [options, &["-v", &mount]].concat();
    let input = format!("/releases/{name}");
    let command = [
        AGENT,
        "compile",
        "--output-directory",
        "/releases/out",
        &input,
    ];
    if options.contains(&"--detach") {
        let arguments = [
            &["run", "--name", container.name()],
            options.as_slice(),
            &[AGENT_IMAGE],
            &command,
        ]
        .concat();
        return docker(&arguments, SHORT);
    }
    container.run(&options, AGENT_IMAGE, &command, SHORT)
}
