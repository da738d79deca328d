//! The documented ways to run the agent.

use super::*;

#[test]
fn documented_command_gives_a_working_release() {
    let Some(inputs) = inputs::require() else {
        return;
    };
    let output = in_a_default_container(inputs);
    check(&output, inputs);
    smoke_test(&output, "example-release");
}

#[test]
fn mount_privilege_gives_namespaces_and_the_same_packages() {
    let options = [
        "--cap-add",
        "SYS_ADMIN",
        "--security-opt",
        "apparmor=unconfined",
    ];
    same_packages_with("sys-admin", &options, &["namespace\n"]);
}

#[test]
fn no_filter_gives_user_namespaces_and_the_same_packages() {
    let options = [
        "--security-opt",
        "seccomp=unconfined",
        "--security-opt",
        "apparmor=unconfined",
    ];
    same_packages_with(
        "unconfined",
        &options,
        &["userns, without a process namespace\n"],
    );
}

#[test]
fn unmasked_proc_gives_process_namespaces_too() {
    let options = [
        "--security-opt",
        "seccomp=unconfined",
        "--security-opt",
        "apparmor=unconfined",
        "--security-opt",
        "systempaths=unconfined",
    ];
    same_packages_with("systempaths", &options, &["userns\n"]);
}

#[test]
fn privileged_container_has_namespaces_and_the_same_package() {
    if inputs::require().is_none() {
        return;
    }
    same_packages_with("privileged", privileged(), &["namespace\n"]);
}

/// The id of a user who has no account outside the test.
const USER: u32 = 4243;

#[test]
fn root_and_ordinary_user_get_the_same_packages() {
    let Some(inputs) = a_release() else {
        return;
    };
    if !nix::unistd::geteuid().is_root() || !Path::new("/usr/bin/newuidmap").exists() {
        skip("this needs root and newuidmap");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(&inputs.dist, path("bosh-agent")).unwrap();
    fs::copy(&inputs.release, path("X.tgz")).unwrap();
    // Files that are mounted over the system's, as the test changes no accounts.
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let account = format!("bosh-agent-test:x:{USER}:{USER}::/:/bin/sh\n");
    fs::write(path("passwd"), accounts + &account).unwrap();
    for file in ["subuid", "subgid"] {
        fs::write(path(file), "bosh-agent-test:2000000:65536\n").unwrap();
    }
    let as_user = format!(
        "for file in passwd subuid subgid; do mount --bind $file /etc/$file || exit 9; done; \
         exec setpriv --reuid={USER} --regid={USER} --clear-groups \"$@\""
    );
    let mut outputs = Vec::new();
    for (name, before, isolation) in [
        ("first", "exec \"$@\"", "namespace"),
        ("second", as_user.as_str(), "userns"),
    ] {
        let own = path(name);
        fs::create_dir(&own).unwrap();
        if name == "second" {
            std::os::unix::fs::chown(&own, Some(USER), Some(USER)).unwrap();
        }
        let outcome = run(
            Command::new("unshare")
                .args(["--mount", "sh", "-c", before, "sh"])
                .args(["./bosh-agent", "compile", "--stemcell", SLUG])
                .arg("--output-directory")
                .arg(own.join("out"))
                .arg("--work-dir")
                .arg(own.join("work"))
                .arg("--logs-dir")
                .arg(own.join("logs"))
                .arg("X.tgz")
                .env("HOME", &own)
                .current_dir(place.path()),
            LONG,
        );
        outcome.expect_code(0, name);
        takes(&outcome, &[isolation]);
        let output = own.join("out").join(&inputs.compiled_name);
        check(&output, &inputs);
        outputs.push(output);
    }
    same_contents("machine", &outputs[0], &outputs[1]);
}

/// Compiles with these options, and compares the result with that of the documented command.
#[track_caller]
fn same_packages_with(label: &str, options: &[&str], isolations: &[&str]) {
    let Some(inputs) = a_release() else {
        return;
    };
    let compiled = compile_with(&inputs, label, options, isolations);
    check(&compiled.output, &inputs);
    same_contents(label, &in_a_default_container(&inputs), &compiled.output);
}

#[test]
fn glob_that_matches_its_own_output_changes_nothing() {
    let Some(inputs) = a_release() else {
        return;
    };
    let first = in_a_default_container(&inputs);
    let releases = releases_with(&inputs.release, "X.tgz");
    // The shell's pattern matches the compiled release, too.
    fs::copy(&first, releases.path().join(&inputs.compiled_name)).unwrap();
    let line = format!("{AGENT} compile --output-directory=/releases /releases/*.tgz");
    let mount = volume(releases.path(), "/releases");
    let outcome = Container::new("glob").run(
        &["--rm", "-v", &mount],
        AGENT_IMAGE,
        &["bash", "-c", &line],
        LONG,
    );
    outcome.expect_code(0, "compile over a glob");
    let output = only_new_file(releases.path(), &["X.tgz"], &inputs, &outcome);
    check(&output, &inputs);
    same_contents("glob", &first, &output);
}

#[test]
fn concourse_task_has_one_output_and_the_same_packages() {
    let Some(inputs) = a_release() else {
        return;
    };
    if let Some(reason) = concourse::is_missing() {
        skip(&reason);
        return;
    }
    let build = tempfile::tempdir().unwrap();
    let (release, compiled) = (
        build.path().join("release"),
        build.path().join("compiled-release"),
    );
    fs::create_dir(&release).unwrap();
    fs::create_dir(&compiled).unwrap();
    fs::copy(&inputs.release, release.join("example-1.tgz")).unwrap();
    let script =
        format!("set -eu\n{AGENT} compile --output-directory compiled-release release/*.tgz");
    let outcome = concourse::run_task("concourse", AGENT_IMAGE, build.path(), &script, LONG);
    outcome.expect_code(0, "the task");
    takes(&outcome, &["landlock; "]);
    assert_eq!(
        names(&release),
        ["example-1.tgz"],
        "the input directory: {outcome}"
    );
    let output = only_new_file(&compiled, &[], &inputs, &outcome);
    check(&output, &inputs);
    same_contents("concourse", &in_a_default_container(&inputs), &output);
}

#[test]
fn version_is_printed_without_other_output() {
    if inputs::require().is_none() {
        return;
    }
    let outcome = Container::new("version").run(&["--rm"], AGENT_IMAGE, &[AGENT, "-v"], SHORT);
    outcome.expect_code(0, "-v");
    assert_eq!(outcome.stderr, "", "-v says more than the version");
    assert_eq!(outcome.stdout.lines().count(), 1, "{outcome}");
    assert!(
        outcome
            .stdout
            .contains(|character: char| character.is_ascii_digit()),
        "{outcome}"
    );
}
