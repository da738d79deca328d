//! Formats the report of a failed run: what failed, why, and what to do.

use std::fmt::Write;
use std::path::Path;

use super::annotations::Annotations;
use super::command::Command;
use super::damage_hint::{blob_hint, file_hint};
use super::error::{Incomplete, InputProblem, InputProblemKind, OfflineError, StemcellFailures};
use super::failure::{FailureCause, PackageFailure};
use super::failure_kind::is_of_the_system;
use super::image_hint::{image_hint, several_hint};
use super::script_report::{error_line, processes, remote_hint, remote_output};
use super::second_run;
use super::selection::UnknownName;
use crate::archive::PackError;
use crate::compile::{Cause, CompileError, Finding, ScriptFailure};
use crate::diag::{Chain, Elapsed, printable};
use crate::fs;
use crate::package_job::ScriptUser;
use crate::process::Unkillable;
use crate::release::{Name, Slug};

/// The hint for packages that differ when they are rebuilt.
const DIFFERENT: &str = "common causes are the current time, random numbers and the order in which parallel jobs end; a package can also \
                         differ because a dependency does";

/// The hint for packages that may not be stored on a server.
const ONLY_TAKE: &str =
    "without --remote-store, packages are taken from the server, but not stored there";

/// The hint for files of the run that another program changed.
const CHANGED_FILES: &str = "another program changed files of this run: exclude its work directory from temporary-file cleaners, or choose \
                     another one with --work-dir";

/// The lines that report a failure of a command.
#[must_use]
pub fn report(error: &OfflineError, annotations: Annotations, command: Command) -> String {
    if let OfflineError::Stemcells(stemcells) = error {
        return of_stemcells(stemcells, annotations, command);
    }
    let mut text = annotations.plain(&rest(error, command)).into_owned();
    let failures = error.failures();
    let mut before = String::new();
    for failure in failures {
        let OfflineError::Package(failure) = failure else {
            continue;
        };
        let mut own = String::new();
        if let Some(script) = failure.source.script() {
            let found = failure.error_line.as_ref();
            error_line(&mut own, &script.package, &script.tail.lines, found);
            output(&mut own, script);
        } else if let Some(reported) = failure.source.reported() {
            remote_output(&mut own, failure, reported);
        } else {
            continue;
        }
        let title = format!("Output of package {}", failure.package.0);
        before.push_str(&annotations.group(&title, &own));
    }
    text.insert_str(0, &before);
    for failure in failures {
        if let OfflineError::Package(failure) = failure {
            text.push_str(&annotation(annotations, failure));
        }
    }
    text
}

/// The report of a run with several stemcell images.
fn of_stemcells(
    stemcells: &StemcellFailures,
    annotations: Annotations,
    command: Command,
) -> String {
    let mut text = String::new();
    for (stemcell, error) in &stemcells.failed {
        if matches!(error, OfflineError::Stopped) {
            continue;
        }
        let _ = writeln!(text, "Failed with stemcell {stemcell}:");
        text.push_str(&report(error, annotations, command));
    }
    if !stemcells.not_started.is_empty() && !stemcells.is_stopped() {
        let names: Vec<String> = stemcells.not_started.iter().map(Slug::to_string).collect();
        let _ = writeln!(
            text,
            "Not compiled because of the failure: stemcell {}",
            names.join(", ")
        );
    }
    text
}

/// The annotation that reports a failed package to the CI system.
fn annotation(annotations: Annotations, failure: &PackageFailure) -> String {
    let mut message = cause(&failure.source);
    if let Some(line) = &failure.error_line {
        let _ = write!(message, "\n{}", line.text);
    }
    annotations.error(&failure.to_string(), &message)
}

/// The report without the output of scripts.
fn rest(error: &OfflineError, command: Command) -> String {
    let mut text = String::new();
    let failures = error.failures();
    for failure in failures {
        match failure {
            OfflineError::Input(problems) => inputs(&mut text, problems),
            OfflineError::NotReproducible(found) => {
                for package in &found.packages {
                    let _ = writeln!(text, "{}", package.lines());
                }
            }
            OfflineError::Package(failure) => {
                if failure.source.script().is_none()
                    && failure.source.reported().is_none()
                    && let Some(log) = &failure.log
                {
                    let _ = writeln!(text, "Full log: {}", log.display());
                }
            }
            _ => {}
        }
    }
    if let OfflineError::Incomplete(incomplete) = error {
        releases(&mut text, incomplete);
    }
    let mut hints = Vec::new();
    for failure in failures {
        let _ = match failure {
            OfflineError::Package(failure) => writeln!(text, "{}", headline(failure)),
            other => writeln!(text, "Error: {}", Chain(other)),
        };
        for hint in hints_of(failure, command) {
            if !hints.contains(&hint) {
                hints.push(hint);
            }
        }
    }
    for hint in hints {
        let _ = writeln!(text, "Hint: {hint}");
    }
    text
}

fn inputs(text: &mut String, problems: &[InputProblem]) {
    let mut last: Option<&Path> = None;
    for problem in problems {
        if last != Some(&problem.path) {
            let _ = writeln!(text, "{}:", problem.path.display());
            last = Some(&problem.path);
        }
        let _ = writeln!(text, "  - {}", Chain(&problem.kind));
    }
}

fn headline(failure: &PackageFailure) -> String {
    let mut line = format!("Error: {failure}: {}", cause(&failure.source));
    let script = failure.source.script();
    let reported = failure.source.reported();
    let is_unexplained = script.is_some_and(|script| script.cause.is_none())
        || reported.is_some_and(|it| it.exit_code.is_some());
    if is_unexplained && let Some(error) = &failure.error_line {
        let _ = write!(line, ": {}", error.text.trim());
    }
    line
}

pub(super) fn cause(cause: &FailureCause) -> String {
    match cause {
        FailureCause::Local(error) => local_cause(error),
        FailureCause::Remote(failure) => Chain(failure).to_string(),
    }
}

fn local_cause(error: &CompileError) -> String {
    match error {
        CompileError::Script(script) => {
            let cause = script.cause.as_ref();
            let cause = cause.map_or_else(String::new, |cause| format!(" ({cause})"));
            format!(
                "the packaging script {} after {}{cause}",
                script.status,
                Elapsed(script.elapsed)
            )
        }
        // The texts of these errors repeat the headline, so print only their sources.
        CompileError::Files { source, .. } => Chain(source).to_string(),
        CompileError::Sandbox { source, .. } => Chain(source).to_string(),
        CompileError::Task { source, .. } => Chain(source).to_string(),
        CompileError::NoSpace { source, .. } => format!("{error}: {}", local_cause(source)),
        other => Chain(other).to_string(),
    }
}

/// Adds the packages that did not fail. All packages of a release with a failed package are named; the release is named, too, if several
/// releases have failed packages.
fn releases(text: &mut String, incomplete: &Incomplete) {
    let (failed, others): (Vec<_>, Vec<_>) = incomplete
        .releases
        .iter()
        .partition(|release| !release.dependents.is_empty());
    for release in &failed {
        let prefix = match failed.as_slice() {
            [_] => String::new(),
            _ => format!("Release {}/{}: ", release.release.0, release.release.1),
        };
        let mut add = |what: &str, names: &[Name]| {
            if !names.is_empty() {
                let _ = writeln!(text, "{prefix}{what}: {}", list(names));
            }
        };
        add(
            "Compiled, but discarded because the release is incomplete",
            &release.compiled,
        );
        for (package, dependents) in &release.dependents {
            add(
                &format!("Not compiled because they depend on {package}"),
                dependents,
            );
        }
        add("Stopped because of the failure", &release.stopped);
        add("Not started", &release.not_begun);
    }
    for release in others {
        let (name, version) = &release.release;
        let all = release.compiled.len() + release.stopped.len() + release.not_begun.len();
        let _ = writeln!(
            text,
            "Not written because of the failure: {name}/{version} ({} of {all} packages were compiled)",
            release.compiled.len()
        );
    }
}

fn output(text: &mut String, script: &ScriptFailure) {
    second_run::tail(text, &script.package, &script.tail);
    processes(text, script);
    second_run::denied_paths(text, script.denials.as_deref().unwrap_or_default());
    second_run::undeclared(text, &script.package, &script.undeclared);
    let _ = writeln!(text, "Full log: {}", script.log.display());
    if let Some(log) = &script.first_log {
        let _ = writeln!(
            text,
            "The second run, without Landlock's restrictions, failed as well. Full log of the first run: {}",
            log.display()
        );
    }
    if let Some(failure) = &script.log_failure {
        let _ = writeln!(text, "The log is incomplete: {failure}");
    }
}

fn unkillable(processes: &[Unkillable], left: Option<&Path>) -> String {
    let left = left.map_or_else(String::new, |left| {
        format!(
            "; the package's directories are left in `{}`",
            left.display()
        )
    });
    let mut frozen = processes.iter().filter_map(|it| it.frozen_by.as_ref());
    if let Some(groups) = frozen.next() {
        let first = match groups.first() {
            Some(group) => format!(
                "the control group `{group}` is frozen, for example by `docker pause`: thaw it (write `THAWED` to its `freezer.state`)"
            ),
            None => {
                "a control group of the process is frozen, for example by `docker pause`: thaw it"
                    .to_owned()
            }
        };
        return format!("{first}{left}");
    }
    format!(
        "the process waits in the kernel for a file system or a disk that does not respond: {CHECK_DISKS}{left}"
    )
}

/// What to do about a file system that does not respond.
const CHECK_DISKS: &str = "check the machine's network file systems, FUSE mounts and disks";

fn cause_hint(failure: &PackageFailure, command: Command) -> Option<String> {
    let error = match &failure.source {
        FailureCause::Local(error) => error,
        FailureCause::Remote(failure) => return remote_hint(failure),
    };
    let CompileError::Script(script) = error else {
        return match error {
            CompileError::Sandbox { source, .. } => source.hint(),
            CompileError::Files { source, .. }
            | CompileError::Pack {
                source: PackError::File(source),
                ..
            } => source.hint(),
            CompileError::Mounted { mount, .. } => Some(format!(
                "let the script unmount `{}` before it ends, or copy the files that the package needs to $BOSH_INSTALL_TARGET",
                mount.display()
            )),
            CompileError::Unkillable {
                processes, left, ..
            } => Some(unkillable(processes, left.as_deref())),
            CompileError::NoResponse { processes, .. } => Some(unkillable(processes, None)),
            CompileError::TimedOut { .. } => Some(CHECK_DISKS.to_owned()),
            CompileError::Changed { changed, .. } | CompileError::ChangedInUse { changed, .. }
                if changed.suspects.0.is_empty() =>
            {
                Some(CHANGED_FILES.to_owned())
            }
            CompileError::Changed { changed, .. } | CompileError::ChangedInUse { changed, .. } => {
                Some(format!("since its last check, {}", changed.suspects))
            }
            CompileError::InstallTarget { .. } => Some(
                "$BOSH_INSTALL_TARGET must be a directory when the packaging script ends"
                    .to_owned(),
            ),
            CompileError::Source { source, .. } | CompileError::Compiled { source, .. }
                if !is_of_the_system(source) =>
            {
                Some(match failure.releases.is_empty() {
                    false => blob_hint(&failure.blob, source),
                    true => file_hint(&failure.blob, source),
                })
            }
            _ => None,
        };
    };
    let Some(cause) = &script.cause else {
        let is_restricted = script.denials.is_some() && script.status.signal().is_none();
        return is_restricted.then(|| {
            "the script was restricted by Landlock: --second-run=always reruns it without restrictions"
                .to_owned()
        });
    };
    Some(hint_for(cause, command))
}

/// What to do about the cause of a failure.
fn hint_for(cause: &Cause, command: Command) -> String {
    match cause {
        Cause::OutOfMemory { .. } => {
            "give the machine or the container more memory; a script that starts a process for each CPU needs less with \
             fewer CPUs"
                .to_owned()
        }
        Cause::TimeLimit { .. } => "raise the limit with --timeout".to_owned(),
        Cause::Silence { .. } => {
            "if the script is not stuck, raise the limit with --silence-timeout, or let the script print its progress"
                .to_owned()
        }
        Cause::Scratch { .. } => {
            "use `mkdir -p` in the script and empty the directory instead of removing it, or pass --no-shared-scratch"
                .to_owned()
        }
        Cause::NoSpace { .. } => format!("free disk space, or {}", command.larger_disk()),
    }
}

/// Hints from the findings about a script and its output.
fn script_hints(script: &ScriptFailure) -> Vec<String> {
    let package = &script.package;
    // Do not blame concurrent scripts for a hang or a full disk, unless the output says so.
    let is_explained = matches!(
        script.cause,
        Some(Cause::TimeLimit { .. } | Cause::Silence { .. } | Cause::NoSpace { .. })
    );
    let is_guess = |finding: &&Finding| matches!(finding, Finding::RanConcurrently { line: None });
    let findings = script.findings.iter();
    let findings = findings.filter(|it| !(is_explained && is_guess(it)));
    let mut hints: Vec<String> = findings
        .map(|it| format!("package {package}: {it}"))
        .collect();
    let undeclared = script.undeclared.iter();
    hints.extend(undeclared.map(|name| second_run::declare(name, package)));
    hints
}

/// The hint that says how to run scripts as a user.
fn other_user(user: ScriptUser) -> &'static str {
    match user {
        ScriptUser::Root => "run bosh-agent as root, or with the isolation tier `userns`",
        ScriptUser::Ordinary => {
            "run bosh-agent as an ordinary user, with the isolation tier `landlock` or `none`"
        }
    }
}

fn list(names: &[Name]) -> String {
    let names: Vec<&str> = names.iter().map(Name::as_str).collect();
    names.join(", ")
}

/// What to do about inputs.
fn input_hints(problems: &[InputProblem], command: Command) -> Vec<String> {
    let mut hints = Vec::new();
    let has = |wanted: fn(&InputProblemKind) -> bool| {
        problems.iter().any(|problem| wanted(&problem.kind))
    };
    if has(|kind| matches!(kind, InputProblemKind::SameOutput { .. })) {
        hints.push("compile them in two runs with different output directories".to_owned());
    }
    if has(|kind| matches!(kind, InputProblemKind::OutputDirectory(_))) {
        hints.push("pass a writable --output-directory".to_owned());
    }
    if has(|kind| matches!(kind, InputProblemKind::NoSpace { .. })) {
        hints.push(format!(
            "free disk space there, or {}",
            command.larger_disk()
        ));
    }
    hints
}

/// What to do about an error.
pub(super) fn hints_of(error: &OfflineError, command: Command) -> Vec<String> {
    let mut hints = Vec::new();
    match error {
        OfflineError::Stemcell(unknown) => hints.push(unknown.hint()),
        OfflineError::Image(error) => hints.extend(image_hint(error)),
        OfflineError::Sandbox(sandbox) => hints.extend(sandbox.hint()),
        OfflineError::Input(problems) => hints.extend(input_hints(problems, command)),
        OfflineError::Unknown(names) => hints.extend(names.iter().map(UnknownName::hint)),
        OfflineError::Package(failure) => {
            if let Some(script) = failure.source.script() {
                hints.extend(script_hints(script));
            }
            if let Some(reported) = failure.source.reported() {
                hints.extend(reported.hints.iter().map(|hint| printable(hint)));
            }
            hints.extend(cause_hint(failure, command));
        }
        OfflineError::ScriptUser { wanted } => hints.push(other_user(*wanted).to_owned()),
        OfflineError::InEmptied { .. } => {
            hints.push("choose a path elsewhere, or do not pass --force".to_owned());
        }
        OfflineError::Assemble { source, .. } | OfflineError::Place { source, .. }
            if source.is_of_changed_files() =>
        {
            hints.push(CHANGED_FILES.to_owned());
        }
        OfflineError::SameStemcell { .. }
        | OfflineError::OneDocument { .. }
        | OfflineError::SameDocument { .. } => {
            hints.extend(several_hint(error));
        }
        OfflineError::NotReproducible(_) => hints.push(DIFFERENT.to_owned()),
        OfflineError::StoreRefused { .. } => hints.push(ONLY_TAKE.to_owned()),
        OfflineError::KeptInUse { .. } => hints.push("leave the other shell first".to_owned()),
        OfflineError::Spool { .. }
        | OfflineError::Files(_)
        | OfflineError::Incomplete(_)
        | OfflineError::Stemcells(_)
        | OfflineError::Assemble { .. }
        | OfflineError::PackageInput { .. }
        | OfflineError::OverInput { .. }
        | OfflineError::SamePlace { .. }
        | OfflineError::Place { .. }
        | OfflineError::NoDigest { .. }
        | OfflineError::Enter { .. }
        | OfflineError::Compare { .. }
        | OfflineError::Remote { .. }
        | OfflineError::Task(_)
        | OfflineError::Stopped => {}
    }
    if error.is_no_space() {
        hints.push(format!("free disk space, or {}", command.larger_disk()));
    }
    if fs::is_read_only_behind(error) {
        hints.push(command.writable_directory().to_owned());
    }
    hints
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::compile::Finding;
    use crate::offline::failure::UnfinishedRelease;
    use crate::process::{LastLines, Status};
    use crate::release::Version;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    fn failure(package: &str, releases: &[&str], code: i32) -> OfflineError {
        OfflineError::Package(Box::new(PackageFailure {
            releases: releases
                .iter()
                .map(|release| (name(release), version("1.10")))
                .collect(),
            package: (name(package), version("abc")),
            blob: (PathBuf::from("packages/app.tgz"), 1),
            log: None,
            error_line: None,
            source: FailureCause::Local(CompileError::Script(Box::new(ScriptFailure {
                package: name(package),
                status: Status::Exited(code),
                elapsed: Duration::from_secs(61),
                cause: (code == 137).then_some(Cause::OutOfMemory { killed: 1 }),
                processes: Vec::new(),
                tail: LastLines {
                    lines: vec!["Killed".to_owned()],
                    is_printed: true,
                    command: None,
                },
                undeclared: vec![name("zlib")],
                findings: vec![Finding::RanConcurrently { line: None }],
                denials: None,
                first_log: None,
                endings: Vec::new(),
                log: PathBuf::from(format!("/logs/{package}.log")),
                log_failure: None,
            }))),
        }))
    }

    #[test]
    fn every_failure_is_reported_and_every_hint_once() {
        let unfinished = |text, dependents: Vec<(Name, Vec<Name>)>| UnfinishedRelease {
            release: (name(text), version("1.10")),
            compiled: vec![name("lib")],
            dependents,
            stopped: vec![name("slow")],
            not_begun: Vec::new(),
        };
        let error = OfflineError::Incomplete(Box::new(Incomplete {
            failures: vec![
                failure("a", &["one", "two"], 137),
                failure("b", &["two"], 137),
            ],
            releases: vec![
                unfinished("one", vec![(name("a"), vec![])]),
                unfinished(
                    "two",
                    vec![(name("a"), vec![]), (name("b"), vec![name("c")])],
                ),
                unfinished("three", vec![]),
            ],
        }));
        let headline = |package: &str, releases: &str| {
            format!(
                "Error: failed to compile package {package}/abc of release {releases}: the packaging script exited with 137 (a command \
                 in it was killed by SIGKILL) after 1m01s (out of memory: the kernel killed 1 process while the script ran)\n"
            )
        };
        let text = report(&error, Annotations::None, Command::Compile);
        let (_, rest) = text.split_once("/logs/b.log\n").unwrap();
        assert_eq!(
            rest,
            format!(
                "Release one/1.10: Compiled, but discarded because the release is incomplete: lib\n\
                 Release one/1.10: Stopped because of the failure: slow\n\
                 Release two/1.10: Compiled, but discarded because the release is incomplete: lib\n\
                 Release two/1.10: Not compiled because they depend on b: c\n\
                 Release two/1.10: Stopped because of the failure: slow\n\
                 Not written because of the failure: three/1.10 (1 of 2 packages were compiled)\n\
                 {}{}Hint: package a: other packaging scripts ran at the same time. If it passes with `--jobs 1`, they conflict with it\n\
                 Hint: add zlib to the dependencies in the spec of package a, or do not use it\n\
                 Hint: give the machine or the container more memory; a script that starts a process for each CPU needs less with fewer CPUs\n\
                 Hint: package b: other packaging scripts ran at the same time. If it passes with `--jobs 1`, they conflict with it\n\
                 Hint: add zlib to the dependencies in the spec of package b, or do not use it\n",
                headline("a", "one/1.10 and two/1.10"),
                headline("b", "two/1.10")
            )
        );
    }

    #[test]
    fn failed_script_is_reported_with_log_and_hints() {
        let error = OfflineError::Incomplete(Box::new(Incomplete {
            failures: vec![failure("app", &["demo"], 137)],
            releases: vec![UnfinishedRelease {
                release: (name("demo"), version("1.10")),
                compiled: vec![name("lib")],
                dependents: vec![(name("app"), vec![name("web"), name("top")])],
                stopped: Vec::new(),
                not_begun: vec![name("other")],
            }],
        }));
        assert_eq!(
            report(&error, Annotations::None, Command::Compile),
            "Last lines of the packaging script of app:\n\
             \x20 | Killed\n\
             Its output mentions package zlib, which app does not declare as a dependency\n\
             Full log: /logs/app.log\n\
             Compiled, but discarded because the release is incomplete: lib\n\
             Not compiled because they depend on app: web, top\n\
             Not started: other\n\
             Error: failed to compile package app/abc of release demo/1.10: the packaging script exited with 137 (a command in \
             it was killed by SIGKILL) after 1m01s (out of memory: the kernel killed 1 process while the script ran)\n\
             Hint: package app: other packaging scripts ran at the same time. If it passes with `--jobs 1`, they conflict with it\n\
             Hint: add zlib to the dependencies in the spec of package app, or do not use it\n\
             Hint: give the machine or the container more memory; a script that starts a process for each CPU needs less with fewer CPUs\n"
        );
    }

    #[test]
    fn problems_are_listed_under_their_tarballs() {
        let problem = |path: &str, output: &str| InputProblem {
            path: PathBuf::from(path),
            kind: InputProblemKind::OverDirectory {
                output: PathBuf::from(output),
            },
        };
        let error = OfflineError::Input(vec![
            problem("a.tgz", "/out/1"),
            problem("a.tgz", "/out/2"),
            problem("b.tgz", "/out/3"),
        ]);
        assert_eq!(
            report(&error, Annotations::None, Command::Compile),
            "a.tgz:\n\
             \x20 - its result cannot be written to `/out/1`, which is a directory\n\
             \x20 - its result cannot be written to `/out/2`, which is a directory\n\
             b.tgz:\n\
             \x20 - its result cannot be written to `/out/3`, which is a directory\n\
             Error: nothing was compiled: 3 problems found\n"
        );
    }
}
