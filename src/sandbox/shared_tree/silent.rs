//! File systems that are mounted over the directories of the tree and do not respond, for example because the process behind a FUSE mount
//! has ended. A look at one of their files would fail or block the agent, so the table of mounts and the notes of a killed run decide.

use std::path::{Path, PathBuf};

use super::lock;
use super::notes::noted_inode;
use super::{MARKER, SET_ASIDE, TEMPORARY};
use crate::config::Vcap;
use crate::fs::{self, Glimpse};
use crate::sandbox::error::SandboxError;

/// How many mounts on top of each other to unmount, before the agent gives up.
const LIMIT: usize = 100;

/// Says whether the file system of a path responds.
pub(crate) type Responds<'a> = &'a dyn Fn(&Path) -> bool;

/// Unmounts what the script of a killed run has mounted over the tree's directories and does not respond. Returns the directories over
/// which other file systems are mounted that do not respond.
pub(super) fn unmount_left(
    vcap: &Vcap,
    responds: Responds<'_>,
) -> Result<Vec<PathBuf>, SandboxError> {
    let base = silent_among(&[vcap.base().to_owned()], responds);
    if !base.is_empty() {
        return Ok(base);
    }
    let outer = [vcap.data(), vcap.packages()];
    let silent = unmount_left_among(vcap, &outer, &[], responds)?;
    if silent.contains(&vcap.data()) {
        return Ok(silent);
    }
    let inner = [
        vcap.data_packages(),
        vcap.compile(),
        vcap.data().join(TEMPORARY),
    ];
    let inner = unmount_left_among(vcap, &inner, &silent, responds)?;
    Ok([silent, inner].concat())
}

/// The same for some directories. `others` do not respond either.
fn unmount_left_among(
    vcap: &Vcap,
    directories: &[PathBuf],
    others: &[PathBuf],
    responds: Responds<'_>,
) -> Result<Vec<PathBuf>, SandboxError> {
    let mut silent = silent_among(directories, responds);
    for _ in 0..LIMIT {
        let notes = notes(vcap, &[silent.as_slice(), others].concat());
        let mut is_any_left = false;
        for directory in &silent {
            if is_left(vcap, directory, &notes)? {
                let real = real(directory)?.unwrap_or_else(|| directory.clone());
                fs::unmount(&real)?;
                tracing::warn!(path = %directory.display(), "unmounted a file system without response that the packaging script of a killed run left mounted");
                is_any_left = true;
            }
        }
        if !is_any_left {
            break;
        }
        silent = silent_among(directories, responds);
    }
    Ok(silent)
}

/// Whether the script of a killed run has mounted what is mounted over a directory, according to the run's notes.
fn is_left(vcap: &Vcap, directory: &Path, notes: &str) -> Result<bool, SandboxError> {
    let Some(real) = real(directory)? else {
        return Ok(false);
    };
    // A link is not followed.
    if !fs::is_mount_point(&real)? {
        return Ok(false);
    }
    // Only the agent uses this directory.
    if directory == vcap.data().join(TEMPORARY) {
        return Ok(true);
    }
    let noted = [
        vcap.packages(),
        vcap.data_packages(),
        vcap.compile(),
        vcap.data(),
    ];
    let number = noted.iter().position(|it| it == directory);
    let Some(noted) = number.and_then(|number| noted_inode(notes, number)) else {
        return Ok(false);
    };
    Ok(Glimpse::of(&real)?.is_some_and(|found| found.id.1.to_string() != noted))
}

/// The notes in files whose directories respond.
fn notes(vcap: &Vcap, silent: &[PathBuf]) -> String {
    let files = [(vcap.data(), lock::LOCK), (vcap.packages(), MARKER)];
    let readable = files.iter().filter(|(above, _)| !silent.contains(above));
    let texts = readable.filter_map(|(above, name)| {
        let file = fs::open_regular_to_read(&above.join(name)).ok()??;
        fs::beginning(&file, lock::LIMIT).ok()
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// Those of some directories that are mounts, or links, and do not respond.
fn silent_among(directories: &[PathBuf], responds: Responds<'_>) -> Vec<PathBuf> {
    let mounts = fs::mount_points().unwrap_or_default();
    let mut silent = Vec::new();
    for directory in directories {
        // What this user cannot examine is for the tier that needs it to report.
        let mounted = real(directory).ok().flatten();
        let is_mounted = mounts
            .iter()
            .any(|mount| Some(&mount.path) == mounted.as_ref());
        let may_be_silent = is_mounted
            || fs::lookup(directory).is_ok_and(|it| it.is_some_and(|found| found.is_symlink()));
        // A directory without files may have its attributes in memory.
        if may_be_silent && !responds(&directory.join(SET_ASIDE)) {
            silent.push(directory.clone());
        }
    }
    silent
}

/// The path of a directory without links above it; `None` if there is nothing above it.
fn real(directory: &Path) -> Result<Option<PathBuf>, SandboxError> {
    let above = fs::if_there(fs::canonicalize(fs::parent(directory)).map(Some))?;
    Ok(above
        .flatten()
        .map(|above| above.join(fs::file_name(directory))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_examined_is_no_silent_mount() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        fs::write(&file, b"").unwrap();
        for base in [file.clone(), file.join("below")] {
            let silent = unmount_left(&Vcap::new(&base), &|_| false).unwrap();
            assert_eq!(silent, Vec::<PathBuf>::new());
        }
    }
}
