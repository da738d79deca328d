//! Finds lines in a script's output that show that `--protect-host` refused a write or a mount. No I/O.

use std::path::{Path, PathBuf};

use super::denials::absolute_paths;
use super::finding::Finding;
use super::printed::{Printed, PrintedLine};
use crate::sandbox::{Protection, View, Writes};

/// Findings about refused writes and mounts. If the script succeeded, only a refused write to a protected path is reported, because many
/// scripts try optional steps.
pub(super) fn refused(printed: &Printed, view: Option<&View>, is_success: bool) -> Vec<Finding> {
    let Some(view) = view.filter(|view| view.protection.is_some()) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let lines = || {
        printed
            .read_only
            .iter()
            .filter(|line| may_be_refused(line, view))
    };
    let with_path = lines().find_map(|line| Some((line, path_in(line, view)?)));
    let written = match with_path {
        Some((line, path)) => Some((line, Some(path))),
        None if is_success => None,
        None => lines().next().map(|line| (line, None)),
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

/// Whether the write that a line reports as an error of a read-only file system may be refused by the protection of the host.
pub(super) fn may_be_refused(line: &PrintedLine, view: &View) -> bool {
    let Some(protection) = &view.protection else {
        return false;
    };
    let paths = absolute_paths(&line.text);
    match paths.is_empty() {
        // If dependencies are read-only as well, the write may have been to a dependency.
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
