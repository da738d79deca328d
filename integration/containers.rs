//! The agent in unprivileged containers of a stemcell image. See `integration/README.md` for the requirements.

mod failures;
mod go_release;
mod hostile_scripts;
mod one_package;
mod pipelines;
mod resources;
mod restricted;
mod roots;
mod stemcell_image;
mod ways;

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
/// The time limit of the whole example release on a busy machine.
const LONG: Duration = Duration::from_secs(900);
const SHORT: Duration = Duration::from_secs(120);

/// The options of a privileged container. Docker grants all capabilities, and fails if this machine lacks one. Then all but that one are
/// enough.
fn privileged() -> &'static [&'static str] {
    let all = &["--privileged"];
    let most = &[
        "--cap-add=ALL",
        "--cap-drop=SYS_RESOURCE",
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        "--security-opt=systempaths=unconfined",
    ];
    let attempt = Container::new("try").run(&["--rm", all[0]], STEMCELL_IMAGE, &["true"], SHORT);
    if attempt.code == Some(0) { all } else { most }
}

/// Compiles a release with the documented command, once for all tests.
pub(crate) fn in_a_default_container(inputs: &Inputs) -> PathBuf {
    let label = format!("documented-{}", inputs.compiled_name);
    let made = once(&label, |directory| {
        let compiled = compile_with(inputs, "documented", &[], &["landlock; "]);
        fs::copy(&compiled.output, directory.join(&inputs.compiled_name)).unwrap();
    });
    made.join(&inputs.compiled_name)
}

/// The release of tests about settings of containers: one small package, or the example release with `BOSH_AGENT_SOAK`.
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

/// Compiles a release in a container with these options. `auto` must choose one of these isolation tiers.
#[track_caller]
fn compile_with(inputs: &Inputs, label: &str, options: &[&str], isolations: &[&str]) -> Compiled {
    let releases = releases_with(&inputs.release, "X.tgz");
    let mount = volume(releases.path(), "/releases");
    let reports = tempfile::tempdir().unwrap();
    let report = volume(reports.path(), "/report");
    let outcome = Container::new(label).run(
        &[&["--rm", "-v", &mount, "-v", &report], options].concat(),
        AGENT_IMAGE,
        &[
            AGENT,
            "compile",
            "--report=/report/report.json",
            "--output-directory=/releases",
            "/releases/X.tgz",
        ],
        LONG,
    );
    outcome.expect_code(0, label);
    takes(&outcome, isolations);
    check_report(reports.path(), releases.path(), &outcome);
    let output = only_new_file(releases.path(), &["X.tgz"], inputs, &outcome);
    Compiled {
        _releases: releases,
        output,
        outcome,
    }
}

/// Checks the report of a compilation whose releases are in `releases`, which the container sees at `/releases`.
#[track_caller]
fn check_report(reports: &Path, releases: &Path, outcome: &Outcome) {
    let path = reports.join("report.json");
    let text = fs::read_to_string(&path).unwrap();
    let inside = outcome.stdout.replace("/releases/", "./");
    fs::write(&path, text.replace("\"/releases/", "\"./")).unwrap();
    crate::common::report::checked(&path, releases, 0, Some(&inside));
}

#[track_caller]
fn takes(outcome: &Outcome, isolations: &[&str]) {
    let taken = isolations
        .iter()
        .any(|name| outcome.stderr.contains(&format!("Isolation: {name}")));
    assert!(taken, "not one of {isolations:?}: {outcome}");
    let is_best = outcome.stderr.contains("Isolation: namespace")
        || outcome.stderr.contains("Isolation: userns");
    let has_advice = outcome.stderr.contains("for stronger isolation, ");
    assert_eq!(has_advice, !is_best, "{outcome}");
    assert!(!outcome.stderr.contains("second run"), "{outcome}");
}

fn releases_with(release: &Path, name: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(release, directory.path().join(name)).unwrap();
    directory
}

fn volume(path: &Path, inside: &str) -> String {
    format!("{}:{inside}", path.display())
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The compiled release, which must be the only new file, counting hidden ones.
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

/// Runs the independent checkers, which are written in three other languages.
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

/// Unpacks the compiled packages at their paths in a new container without this agent, and runs the `smoke.sh` of the release there.
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

/// Compares two compiled releases: names, types, modes, owners, link targets and contents of all compiled packages, but not times. Runs as
/// root in a container, so that owners are those of the archives, also if the tests run as another user.
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

/// A compiled release.
struct Compiled {
    _releases: TempDir,
    output: PathBuf,
    outcome: Outcome,
}
