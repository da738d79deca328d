//! The agent where its users run it: in unprivileged containers of a stemcell image. See `integration/README.md` for what must be there.

mod go_release;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{is_soak, once, skip};
use crate::support::concourse;
use crate::support::docker::{Container, Outcome, docker, run};
use crate::support::inputs::{self, AGENT_IMAGE, Inputs, SLUG, STEMCELL_IMAGE};
use crate::support::release;
use tempfile::TempDir;

const AGENT: &str = "/var/vcap/bosh/bin/bosh-agent";
/// For a compile of the whole example release, on a machine with other things to do.
const LONG: Duration = Duration::from_secs(900);
const SHORT: Duration = Duration::from_secs(120);

// ---------------------------------------------------------------- the documented ways to call it

#[test]
fn the_documented_line_gives_a_release_that_works() {
    let Some(inputs) = inputs::require() else {
        return;
    };
    let output = in_a_default_container(inputs);
    check(&output, inputs);
    smoke_test(&output, "example-release");
}

/// Compiles a release as the documented line does, once for all tests.
pub(crate) fn in_a_default_container(inputs: &Inputs) -> PathBuf {
    let label = format!("documented-{}", inputs.compiled_name);
    let made = once(&label, |directory| {
        let compiled = compile_with(inputs, "documented", &[], &["landlock ("]);
        fs::copy(&compiled.output, directory.join(&inputs.compiled_name)).unwrap();
    });
    made.join(&inputs.compiled_name)
}

/// What tests compile that are about a container's settings or about what is around the agent: a release of one small package, and
/// with `BOSH_AGENT_SOAK` the example release.
pub(crate) fn a_release() -> Option<Inputs> {
    const SCRIPT: &str = "set -eu\n\
        echo 'int main(void) { return 7; }' >seven.c\n\
        cc -o seven seven.c\n\
        ./seven || [ $? = 7 ]\n\
        mkdir $BOSH_INSTALL_TARGET/bin\n\
        mv seven $BOSH_INSTALL_TARGET/bin/\n\
        ln -s bin/seven $BOSH_INSTALL_TARGET/link\n";
    let inputs = inputs::require()?;
    let release = if is_soak() {
        inputs.release.clone()
    } else {
        let small = once("small-release", |directory| {
            release::write(directory, "small", "seven", SCRIPT);
        });
        small.join("small.tgz")
    };
    Some(Inputs::new(inputs.dist.clone(), release))
}

/// A compiled release.
struct Compiled {
    _releases: TempDir,
    output: PathBuf,
    outcome: Outcome,
}

/// Compiles a release in a container with these options. `auto` must take one of the given isolations.
#[track_caller]
fn compile_with(inputs: &Inputs, label: &str, options: &[&str], isolations: &[&str]) -> Compiled {
    let releases = releases_with(&inputs.release, "X.tgz");
    let mount = volume(releases.path(), "/releases");
    let outcome = Container::new(label).run(
        &[&["--rm", "-v", &mount], options].concat(),
        AGENT_IMAGE,
        &[
            AGENT,
            "compile",
            "--output-directory=/releases",
            "/releases/X.tgz",
        ],
        LONG,
    );
    outcome.expect_code(0, label);
    takes(&outcome, isolations);
    let output = only_new_file(releases.path(), &["X.tgz"], inputs, &outcome);
    Compiled {
        _releases: releases,
        output,
        outcome,
    }
}

#[track_caller]
fn takes(outcome: &Outcome, isolations: &[&str]) {
    let taken = isolations
        .iter()
        .any(|name| outcome.stderr.contains(&format!("Isolation: {name}")));
    assert!(taken, "not one of {isolations:?}: {outcome}");
    let is_best = outcome.stderr.contains("Isolation: namespace")
        || outcome.stderr.contains("Isolation: userns");
    assert_eq!(outcome.stderr.contains("Hint: "), !is_best, "{outcome}");
    assert!(!outcome.stderr.contains("is tried once more"), "{outcome}");
}

#[test]
fn with_the_right_to_mount_there_are_namespaces_and_the_same_packages() {
    let options = [
        "--cap-add",
        "SYS_ADMIN",
        "--security-opt",
        "apparmor=unconfined",
    ];
    same_packages_with("sys-admin", &options, &["namespace\n"]);
}

#[test]
fn without_a_filter_there_are_user_namespaces_and_the_same_packages() {
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
fn without_a_filter_and_with_all_of_proc_there_are_process_namespaces_too() {
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
fn a_privileged_container_has_namespaces_and_the_same_package() {
    // Docker gives all capabilities, and cannot where this machine has not all. Then all but that one are as good.
    let all = ["--privileged"];
    let most = [
        "--cap-add=ALL",
        "--cap-drop=SYS_RESOURCE",
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        "--security-opt=systempaths=unconfined",
    ];
    if inputs::require().is_none() {
        return;
    }
    let attempt =
        Container::new("try").run(&["--rm", "--privileged"], STEMCELL_IMAGE, &["true"], SHORT);
    let options: &[&str] = if attempt.code == Some(0) { &all } else { &most };
    same_packages_with("privileged", options, &["namespace\n"]);
}

/// The number of a user who has no account outside the test.
const USER: u32 = 4243;

#[test]
fn on_a_plain_machine_root_and_an_ordinary_user_get_the_same_packages() {
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
    // Files that are mounted over the system's: the test changes no accounts.
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

/// Compiles with these options, and compares with what the documented line gives.
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
fn a_glob_over_its_own_output_changes_nothing() {
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
fn a_concourse_task_finds_one_file_in_its_output_and_the_same_packages() {
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
    takes(&outcome, &["landlock ("]);
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
fn it_prints_its_version_alone() {
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

// ---------------------------------------------------------------- when it goes wrong

#[test]
fn a_failing_script_is_explained() {
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
    assert!(
        names(&releases.path().join("out")).is_empty(),
        "something was left in the output: {outcome}"
    );
}

#[test]
fn another_user_than_root_gets_a_result_or_a_reason() {
    let Some(inputs) = inputs::require() else {
        return;
    };
    let releases = tempfile::tempdir().unwrap();
    release::write(
        releases.path(),
        "small",
        "one",
        "echo done >\"$BOSH_INSTALL_TARGET/one\"\n",
    );
    // A stemcell's /var/vcap/bosh is for root alone, so the binary is brought in from outside.
    let binary = format!("{}:/usr/local/bin/bosh-agent:ro", inputs.dist.display());
    open_to_all(releases.path());
    let out = releases.path().join("out");
    fs::create_dir(&out).unwrap();
    open_to_all(&out);
    let outcome = Container::new("user").run(
        &[
            "--rm",
            "--user",
            "1000",
            "-v",
            &binary,
            "-v",
            &volume(releases.path(), "/releases"),
        ],
        STEMCELL_IMAGE,
        &[
            "/usr/local/bin/bosh-agent",
            "compile",
            "--output-directory",
            "/releases/out",
            "/releases/small.tgz",
        ],
        SHORT,
    );
    match outcome.code {
        Some(0) => assert_eq!(names(&out).len(), 1, "{outcome}"),
        Some(1) => {
            assert!(
                outcome.stderr.contains("/var/vcap") || outcome.stderr.contains("/releases"),
                "no path: {outcome}"
            );
            assert!(
                names(&out).is_empty(),
                "something was left in the output: {outcome}"
            );
        }
        other => panic!("exit code {other:?}: {outcome}"),
    }
}

#[test]
fn as_the_first_process_it_ends_on_sigterm() {
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

// ---------------------------------------------------------------- parts of the tests

fn releases_with(release: &Path, name: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(release, directory.path().join(name)).unwrap();
    directory
}

fn volume(path: &Path, inside: &str) -> String {
    format!("{}:{inside}", path.display())
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

/// Compiles one of the releases in a directory to its subdirectory `out`, which is there before. The agent is the container's first
/// process.
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

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The compiled release, which must be the only file beside those that were there before (hidden ones count).
#[track_caller]
fn only_new_file(directory: &Path, before: &[&str], inputs: &Inputs, outcome: &Outcome) -> PathBuf {
    let mut found = names(directory);
    found.retain(|name| !before.contains(&name.as_str()));
    assert_eq!(
        found,
        [inputs.compiled_name.as_str()],
        "new files in the output directory: {outcome}"
    );
    directory.join(&inputs.compiled_name)
}

/// The independent checkers, in three other languages.
#[track_caller]
fn check(output: &Path, inputs: &Inputs) {
    let checker = inputs::repository().join("integration/checker");
    let mut ruby = Command::new("ruby");
    ruby.arg(checker.join("check_release.rb"))
        .arg(output)
        .arg("--source")
        .arg(&inputs.release)
        .args(["--stemcell", SLUG]);
    let outcome = run(&mut ruby, SHORT);
    outcome.expect_code(0, "check_release.rb");
    assert!(
        outcome
            .stdout
            .contains(&format!("ok: {} packages", inputs.packages)),
        "{outcome}"
    );
    run(
        Command::new(checker.join("read_everywhere")).arg(output),
        SHORT,
    )
    .expect_code(0, "read_everywhere");
    run(
        Command::new("python3")
            .arg(checker.join("read_release.py"))
            .arg(output),
        SHORT,
    )
    .expect_code(0, "read_release.py");
}

/// Unpacks the compiled packages where an agent would, in a fresh container without this agent, and runs the `smoke.sh` of the
/// release there.
#[track_caller]
fn smoke_test(output: &Path, scripts_of: &str) {
    const SCRIPT: &str = r#"
        set -euo pipefail
        mkdir -p /tmp/release /var/vcap/packages
        tar -C /tmp/release -xf /release.tgz
        for blob in /tmp/release/compiled_packages/*.tgz; do
            package=/var/vcap/packages/$(basename "$blob" .tgz)
            mkdir "$package"
            tar -C "$package" --no-same-owner -xf "$blob"
        done
        bash "/scripts/$1/smoke.sh"
    "#;
    let scripts = inputs::repository().join("packaging-scripts");
    let outcome = Container::new("smoke").run(
        &[
            "--rm",
            "-v",
            &volume(output, "/release.tgz:ro"),
            "-v",
            &volume(&scripts, "/scripts:ro"),
        ],
        STEMCELL_IMAGE,
        &["bash", "-c", SCRIPT, "bash", scripts_of],
        SHORT,
    );
    outcome.expect_code(0, "smoke.sh in a fresh stemcell");
}

/// Compares two compiled releases: names, kinds, modes, owners, link targets and contents of all compiled packages, but not times.
/// Done as root in a container, so that owners are what the archives say whoever runs the tests.
#[track_caller]
fn same_contents(label: &str, first: &Path, second: &Path) {
    const SCRIPT: &str = r#"
        set -euo pipefail
        for run in first second; do
            mkdir -p "/tmp/$run/release"
            tar -C "/tmp/$run/release" -xf "/kept/$run.tgz"
            for blob in "/tmp/$run/release/compiled_packages"/*.tgz; do
                package=/tmp/$run/packages/$(basename "$blob" .tgz)
                mkdir -p "$package"
                tar -C "$package" --same-owner --numeric-owner -xpf "$blob"
            done
            cd "/tmp/$run/packages"
            find . -printf '%y %m %U:%G %n links %p -> %l\n' | sort >"/tmp/$run/tree"
            find . -type f -print0 | sort -z | xargs -0r sha256sum >"/tmp/$run/sums"
        done
        test -s /tmp/first/sums
        diff /tmp/first/tree /tmp/second/tree
        diff /tmp/first/sums /tmp/second/sums
    "#;
    let outcome = Container::new(&format!("compare-{label}")).run(
        &[
            "--rm",
            "-v",
            &volume(first, "/kept/first.tgz:ro"),
            "-v",
            &volume(second, "/kept/second.tgz:ro"),
        ],
        STEMCELL_IMAGE,
        &["bash", "-c", SCRIPT],
        SHORT,
    );
    outcome.expect_code(0, "the two runs' packages differ");
}
