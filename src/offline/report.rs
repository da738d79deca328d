//! What a person is told when a call failed: what failed, why, what to do.

use std::fmt::Write;
use std::path::Path;

use super::error::{InputProblem, InputProblemKind, OfflineError};
use super::releases::ReleaseFailure;
use crate::compile::{Cause, CompileError, ScriptFailure};
use crate::diag::{Chain, Elapsed};
use crate::fs;
use crate::release::Name;

/// What to do where a disk is too small.
const ELSEWHERE: &str =
    "choose a larger disk by --work-dir, --output-directory or --base-directory";

/// Everything that a failure is told with, in lines.
#[must_use]
pub fn report(error: &OfflineError) -> String {
    let mut text = String::new();
    match error {
        OfflineError::Input(problems) => inputs(&mut text, problems),
        OfflineError::Release(failure) => release(&mut text, failure),
        OfflineError::Stemcell(_)
        | OfflineError::Files(_)
        | OfflineError::Sandbox(_)
        | OfflineError::Assemble { .. }
        | OfflineError::Task(_)
        | OfflineError::Stopped => {}
    }
    let _ = match error {
        // Said in full above.
        OfflineError::Release(failure) => writeln!(text, "{}", headline(failure)),
        other => writeln!(text, "Error: {}", Chain(other)),
    };
    for hint in hints(error) {
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

fn headline(failure: &ReleaseFailure) -> String {
    let cause = match &failure.source {
        CompileError::Script(script) => {
            let cause = script.cause.as_ref();
            let cause = cause.map_or_else(String::new, |cause| format!(" ({cause})"));
            format!(
                "the packaging script {} after {}{cause}",
                script.status,
                Elapsed(script.elapsed)
            )
        }
        // These say no more than the headline does: what lies behind them counts.
        CompileError::Files { source, .. } => Chain(source).to_string(),
        CompileError::Sandbox { source, .. } => Chain(source).to_string(),
        CompileError::Task { source, .. } => Chain(source).to_string(),
        other => Chain(other).to_string(),
    };
    format!("Error: {failure}: {cause}")
}

fn release(text: &mut String, failure: &ReleaseFailure) {
    if let CompileError::Script(script) = &failure.source {
        output(text, script);
    }
    let compiled = failure.compiled.len();
    if compiled > 0 {
        let _ = writeln!(
            text,
            "Compiled before it, and dropped with it: {}",
            list(&failure.compiled)
        );
    }
    if !failure.dependents.is_empty() {
        let _ = writeln!(
            text,
            "Not compiled because they depend on {}: {}",
            failure.package.0,
            list(&failure.dependents)
        );
    }
    if !failure.not_begun.is_empty() {
        let _ = writeln!(text, "Not begun: {}", list(&failure.not_begun));
    }
}

fn output(text: &mut String, script: &ScriptFailure) {
    if script.tail.is_empty() {
        let _ = writeln!(
            text,
            "The packaging script of {} printed nothing",
            script.package
        );
    } else {
        let _ = writeln!(
            text,
            "The last lines that the packaging script of {} printed:",
            script.package
        );
        for line in &script.tail {
            let _ = writeln!(text, "  | {line}");
        }
    }
    for name in &script.undeclared {
        let _ = writeln!(
            text,
            "It speaks of package {name}, which is no declared dependency of {}",
            script.package
        );
    }
    let _ = writeln!(text, "Everything that it printed: {}", script.log.display());
    if let Some(failure) = &script.log_failure {
        let _ = writeln!(text, "That log is not complete: {failure}");
    }
}

fn cause_hint(failure: &ReleaseFailure) -> Option<String> {
    let CompileError::Script(script) = &failure.source else {
        return match &failure.source {
            CompileError::Sandbox { source, .. } => source.hint(),
            _ => None,
        };
    };
    match script.cause.as_ref()? {
        Cause::OutOfMemory { .. } => {
            Some("give the machine or the container more memory, or fewer processors".to_owned())
        }
        Cause::TimeLimit { .. } => Some("give it more by --timeout".to_owned()),
        Cause::NoSpace { .. } => Some(format!("make room, or {ELSEWHERE}")),
    }
}

fn list(names: &[Name]) -> String {
    let names: Vec<&str> = names.iter().map(Name::as_str).collect();
    names.join(", ")
}

fn hints(error: &OfflineError) -> Vec<String> {
    let mut hints = Vec::new();
    match error {
        OfflineError::Stemcell(unknown) => hints.push(unknown.hint()),
        OfflineError::Sandbox(sandbox) => hints.extend(sandbox.hint()),
        OfflineError::Input(problems) => {
            let has = |wanted: fn(&InputProblemKind) -> bool| {
                problems.iter().any(|problem| wanted(&problem.kind))
            };
            if has(|kind| matches!(kind, InputProblemKind::SameOutput { .. })) {
                hints.push(
                    "compile them in two calls, with another --output-directory each".to_owned(),
                );
            }
            if has(|kind| matches!(kind, InputProblemKind::OutputDirectory(_))) {
                hints.push("pass an --output-directory that can be written to".to_owned());
            }
            if has(|kind| matches!(kind, InputProblemKind::NoSpace { .. })) {
                hints.push(format!("make room there, or {ELSEWHERE}"));
            }
        }
        OfflineError::Release(failure) => hints.extend(cause_hint(failure)),
        OfflineError::Files(_)
        | OfflineError::Assemble { .. }
        | OfflineError::Task(_)
        | OfflineError::Stopped => {}
    }
    if fs::is_no_space_behind(error) {
        hints.push(format!("make room, or {ELSEWHERE}"));
    }
    hints
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::process::Status;
    use crate::release::Version;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn a_failed_script_is_told_with_all_that_helps() {
        let version = |text| Version::parse(text).unwrap();
        let error = OfflineError::Release(Box::new(ReleaseFailure {
            release: (name("demo"), version("1.10")),
            package: (name("app"), version("abc")),
            source: CompileError::Script(Box::new(ScriptFailure {
                package: name("app"),
                status: Status::Exited(137),
                elapsed: Duration::from_secs(61),
                cause: Some(Cause::OutOfMemory { killed: 1 }),
                tail: vec!["+ make".to_owned(), "Killed".to_owned()],
                undeclared: vec![name("zlib")],
                log: PathBuf::from("/logs/app.log"),
                log_failure: None,
            })),
            compiled: vec![name("lib")],
            dependents: vec![name("web"), name("top")],
            not_begun: vec![name("other")],
        }));
        assert_eq!(
            report(&error),
            "The last lines that the packaging script of app printed:\n\
             \x20 | + make\n\
             \x20 | Killed\n\
             It speaks of package zlib, which is no declared dependency of app\n\
             Everything that it printed: /logs/app.log\n\
             Compiled before it, and dropped with it: lib\n\
             Not compiled because they depend on app: web, top\n\
             Not begun: other\n\
             Error: failed to compile package app/abc of release demo/1.10: the packaging script exited with 137 (a command in \
             it was killed by SIGKILL) after 1m01s (out of memory: the kernel killed 1 process while the script ran)\n\
             Hint: give the machine or the container more memory, or fewer processors\n"
        );
    }

    #[test]
    fn all_problems_are_listed_under_their_tarballs() {
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
            report(&error),
            "a.tgz:\n\
             \x20 - it would be written to `/out/1`, which is a directory\n\
             \x20 - it would be written to `/out/2`, which is a directory\n\
             b.tgz:\n\
             \x20 - it would be written to `/out/3`, which is a directory\n\
             Error: nothing was compiled: 3 problems found in what was given\n"
        );
    }
}
