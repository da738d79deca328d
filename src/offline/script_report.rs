//! Texts of the failure report about the output of scripts, and about failures on other machines.

use std::fmt::Write;

use super::failure::PackageFailure;
use crate::cluster::RemoteFailure;
use crate::compile::{PrintedLine, ScriptFailure};
use crate::diag::printable;
use crate::package_job::PackageFailureReport;
use crate::release::Name;

/// Adds the error line of a script's output, unless it is among the last lines, which are printed after it.
pub(super) fn error_line(
    text: &mut String,
    package: &Name,
    tail: &[String],
    found: Option<&PrintedLine>,
) {
    let is_shown = |line: &PrintedLine| tail.iter().any(|it| it.trim_end() == line.text);
    if let Some(line) = found.filter(|line| !is_shown(line)) {
        let _ = writeln!(
            text,
            "Error in the output of the packaging script of {}, line {}:\n  | {}",
            package, line.number, line.text
        );
    }
}

/// Adds the output of a script that failed on another machine.
pub(super) fn remote_output(
    text: &mut String,
    failure: &PackageFailure,
    reported: &PackageFailureReport,
) {
    let package = &failure.package.0;
    let tail = &reported.last_lines;
    error_line(text, package, tail, failure.error_line.as_ref());
    if !tail.is_empty() {
        let _ = writeln!(text, "Last lines of the packaging script of {package}:");
    }
    for line in tail {
        let _ = writeln!(text, "  | {}", printable(line));
    }
    if let Some(log) = &failure.log {
        let _ = writeln!(text, "Full log: {}", log.display());
    }
}

/// Adds the processes of a script that reached a time limit.
pub(super) fn processes(text: &mut String, script: &ScriptFailure) {
    if script.processes.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "Processes of the packaging script of {} at the time limit, before they were stopped:",
        script.package
    );
    for process in &script.processes {
        let _ = writeln!(text, "  | {process}");
    }
}

/// What to do about a failure on another machine. The report of that machine has more hints.
pub(super) fn remote_hint(failure: &RemoteFailure) -> Option<String> {
    match failure {
        RemoteFailure::Arguments { .. } | RemoteFailure::NoReport { .. } => Some(
            "--remote-agent names the program for the other machines: it must be of this version and able to start there"
                .to_owned(),
        ),
        _ => None,
    }
}
