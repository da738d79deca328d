//! Finds lines in a script's output that show that `--protect-host` refused a write or a mount. No I/O.

use std::path::{Path, PathBuf};

use super::denials::absolute_paths;
use super::finding::Finding;
use super::printed::{Printed, PrintedLine};
use crate::sandbox::{Protection, View, Writes};

/// Findings about refused writes and mounts. If the script succeeded, only a line with a protected path counts, because many scripts try
/// optional steps.
pub(super) fn refused(printed: &Printed, view: Option<&View>, is_success: bool) -> Vec<Finding> {
    let Some(view) = view.filter(|view| view.protection.is_some()) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let lines = || {
        printed
            .read_only
            .iter()
            .filter(|line| is_caused(line, view))
    };
    let named = lines().find_map(|line| Some((line, path_in(line, view)?)));
    let unnamed = || lines().next().map(|line| (line, None));
    let written = match named {
        Some((line, path)) => Some((line, Some(path))),
        None if is_success => None,
        None => unnamed(),
    };
    findings.extend(written.map(|(line, path)| Finding::ProtectedHost {
        line: line.clone(),
        path,
    }));
    if !is_success {
        let mut denied = printed.denied.iter();
        let mounting = denied.find(|line| line.text.contains("mount"));
        findings.extend(mounting.map(|line| Finding::NoMounts { line: line.clone() }));
    }
    findings
}

/// Whether a line that reports a read-only file is due to the protection of the host.
pub(super) fn is_caused(line: &PrintedLine, view: &View) -> bool {
    let Some(protection) = &view.protection else {
        return false;
    };
    let paths = absolute_paths(&line.text);
    match paths.is_empty() {
        // The path may belong to a dependency, which can be read-only without this protection.
        true => view.writes != Writes::Refused,
        false => first_protected(&paths, protection).is_some(),
    }
}

fn path_in(line: &PrintedLine, view: &View) -> Option<PathBuf> {
    first_protected(&absolute_paths(&line.text), view.protection.as_ref()?)
}

fn first_protected(paths: &[&str], protection: &Protection) -> Option<PathBuf> {
    let mut paths = paths.iter().map(Path::new);
    paths
        .find(|path| !protection.leaves_writable(path))
        .map(Path::to_owned)
}
