//! Compares the report of a result with what was sent and received, and limits its texts. Pure.

use super::action::{self, Inputs};
use super::error::RemoteFailure;
use crate::diag::{printable, printable_lines};
use crate::package_job::{Blob, PackageReport, PackageResult};
use crate::reapi::Digest;

/// The maximum length of a line or text, in characters. The rest is cut off.
const LONGEST_LINE: usize = 1000;

/// The maximum number of texts of one kind in a report.
const MOST_TEXTS: usize = 100;

/// Checks a result against the inputs of its action. The report may be `None` if the program failed.
pub(super) fn check(
    exit_code: i32,
    package: Option<&Digest>,
    report: Option<&PackageReport>,
    inputs: &Inputs,
) -> Result<(), RemoteFailure> {
    let is_compiled = exit_code == 0;
    let report = match report {
        Some(report) => report,
        None if is_compiled => {
            return Err(RemoteFailure::Incomplete {
                file: action::REPORT,
            });
        }
        None => return Ok(()),
    };
    let contradicts = |what| Err(RemoteFailure::Contradiction { what });
    if report.name != inputs.name.as_str() || report.version != inputs.version.to_string() {
        return contradicts("it is about another package");
    }
    // Exit code 3 means that an input is damaged.
    if !has_inputs(report, inputs, exit_code == 3) {
        return contradicts("the machine has read other files than were sent");
    }
    if is_compiled != (report.result == PackageResult::Compiled) {
        return contradicts("the exit code says otherwise");
    }
    if !is_compiled {
        return Ok(());
    }
    let Some(package) = package else {
        return Err(RemoteFailure::Incomplete {
            file: action::PACKAGE,
        });
    };
    let compiled = report.compiled.as_ref();
    match compiled.is_some_and(|it| it.sha256 == package.sha256 && it.size == package.size) {
        true => Ok(()),
        false => contradicts("it is about another compiled package"),
    }
}

/// Whether the digests in the report are those of the files that were sent. The program reports the digest of a file only if it has read the
/// whole file. With `all`, it must have read all files: this machine has read them before, so a machine that cannot is to blame.
fn has_inputs(report: &PackageReport, inputs: &Inputs, all: bool) -> bool {
    let is = |blob: &Option<Blob>, sent: &Digest| {
        let sha256 = blob.as_ref().and_then(|it| it.sha256.as_deref());
        sha256.map_or(!all, |it| it == sent.sha256)
    };
    if all && report.dependencies.len() != inputs.dependencies.len() {
        return false;
    }
    let mut dependencies = report.dependencies.iter();
    is(&report.source, &inputs.source)
        && dependencies.all(|reported| {
            let mut sent = inputs.dependencies.iter();
            let sent = sent.find(|(name, ..)| name.as_str() == reported.name);
            sent.is_some_and(|(.., digest)| is(&reported.blob, digest))
        })
}

/// Limits the texts of a report, which another machine wrote: keeps the last `log_lines` lines of a script, and escapes control characters
/// in messages.
pub(super) fn limit(report: &mut PackageReport, log_lines: usize) {
    limit_texts(&mut report.errors);
    limit_texts(&mut report.warnings);
    limit_lines(&mut report.last_lines, log_lines);
    if let Some(failure) = &mut report.failure {
        failure.message = printable(&failure.message);
        limit_texts(&mut failure.hints);
        limit_lines(&mut failure.last_lines, log_lines);
        if let Some(line) = &mut failure.error_line {
            line.text = printable(&line.text);
        }
    }
}

fn limit_texts(texts: &mut Vec<String>) {
    texts.truncate(MOST_TEXTS);
    for text in texts {
        let shortened: String = text.chars().take(LONGEST_LINE).collect();
        *text = printable_lines(&shortened).into_owned();
    }
}

fn limit_lines(lines: &mut Vec<String>, most: usize) {
    lines.drain(..lines.len().saturating_sub(most));
    for line in lines {
        if let Some((end, _)) = line.char_indices().nth(LONGEST_LINE) {
            line.truncate(end);
        }
    }
}
