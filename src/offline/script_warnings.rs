//! Warnings about packaging scripts that succeeded.

use crate::release::Name;
use crate::sandbox::ScriptEnd;

/// Warnings about a script that succeeded.
pub(super) fn of(package: &Name, end: &ScriptEnd) -> Vec<String> {
    let count = |processes| match processes {
        1 => "a process".to_owned(),
        more => format!("{more} processes"),
    };
    let mut warnings = Vec::new();
    if end.left_behind > 0 {
        warnings.push(format!(
            "Warning: the packaging script of {package} left {} running, which bosh-agent stopped",
            count(end.left_behind)
        ));
    }
    if end.not_ended > 0 {
        warnings.push(format!(
            "Warning: could not stop {} of the packaging script of {package}, which belong{} to another user",
            count(end.not_ended),
            if end.not_ended == 1 { "s" } else { "" }
        ));
    }
    if let Some(failure) = &end.output.log_failure {
        warnings.push(format!(
            "Warning: the log of the packaging script of {package} is incomplete: {failure}"
        ));
    }
    warnings
}
