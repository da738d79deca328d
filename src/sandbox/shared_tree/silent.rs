//! Detects file systems that are mounted over the directories of the tree and do not respond, for example because the process behind a FUSE
//! mount has ended. Examining their files would fail or block the agent. The table of mounts and the notes of a killed run show whether its
//! script has mounted them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::lock;
use super::notes::noted_directories;
use super::origin::Over;
use super::{MARKER, TEMPORARY};
use crate::config::Vcap;
use crate::fs;
use crate::sandbox::error::SandboxError;
use crate::sandbox::path_lookup::Response;

/// The maximum number of mounts on top of each other that are unmounted.
const LIMIT: usize = 100;

/// Returns for each directory whether its file system responds.
pub(crate) type Responses<'a> = &'a dyn Fn(&[PathBuf]) -> Vec<Response>;

/// A directory over which a file system is mounted that does not respond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SilentMount {
    pub(super) directory: PathBuf,
    /// How long the agent has waited. `None` if the file system's server has ended.
    limit: Option<Duration>,
}

impl From<SilentMount> for SandboxError {
    fn from(silent: SilentMount) -> Self {
        Self::SilentMount {
            directory: silent.directory,
            limit: silent.limit,
        }
    }
}

/// Whether one of these mounts is over this directory.
pub(super) fn has(silent: &[SilentMount], directory: &Path) -> bool {
    silent.iter().any(|it| it.directory == directory)
}

/// Unmounts file systems that do not respond and that the script of a killed run has mounted over the tree's directories. Returns the other
/// mounts over these directories that do not respond.
pub(super) fn unmount_left(
    vcap: &Vcap,
    responses: Responses<'_>,
) -> Result<Vec<SilentMount>, SandboxError> {
    let base = silent_among(&[vcap.base().to_owned()], responses);
    if !base.is_empty() {
        return Ok(base);
    }
    let outer = [vcap.data(), vcap.packages()];
    let silent = unmount_left_among(vcap, &outer, &[], responses)?;
    if has(&silent, &vcap.data()) {
        return Ok(silent);
    }
    let inner = [
        vcap.data_packages(),
        vcap.compile(),
        vcap.data().join(TEMPORARY),
    ];
    let inner = unmount_left_among(vcap, &inner, &silent, responses)?;
    Ok([silent, inner].concat())
}

/// Like [`unmount_left`], for some of the tree's directories. `others` are mounts that are known not to respond.
fn unmount_left_among(
    vcap: &Vcap,
    directories: &[PathBuf],
    others: &[SilentMount],
    responses: Responses<'_>,
) -> Result<Vec<SilentMount>, SandboxError> {
    let mut silent = silent_among(directories, responses);
    for _ in 0..LIMIT {
        let notes = notes(vcap, &[silent.as_slice(), others].concat());
        let mut is_any_left = false;
        for SilentMount { directory, .. } in &silent {
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
        silent = silent_among(directories, responses);
    }
    Ok(silent)
}

/// Whether the script of a killed run has mounted the file system over a directory, according to the run's notes.
fn is_left(vcap: &Vcap, directory: &Path, notes: &str) -> Result<bool, SandboxError> {
    let Some(real) = real(directory)? else {
        return Ok(false);
    };
    // Do not follow a link.
    if !fs::is_mount_point(&real)? {
        return Ok(false);
    }
    // Only this agent uses this directory, so only a script can have mounted a file system there.
    if directory == vcap.data().join(TEMPORARY) {
        return Ok(true);
    }
    let Some(noted) = noted_directories(notes, fs::boot().as_deref()) else {
        return Ok(false);
    };
    let own = [
        vcap.packages(),
        vcap.data_packages(),
        vcap.compile(),
        vcap.data(),
    ];
    let mounts = fs::mount_points().unwrap_or_default();
    let mut noted = own.iter().zip(noted).filter(|(own, _)| *own == directory);
    match noted.next() {
        Some((_, noted)) => Ok(Over::of(&real, noted, &mounts)? == Over::OfScript),
        None => Ok(false),
    }
}

/// The notes in the lock file and the marker, if their directories respond.
fn notes(vcap: &Vcap, silent: &[SilentMount]) -> String {
    let files = [(vcap.data(), lock::LOCK), (vcap.packages(), MARKER)];
    let readable = files.iter().filter(|(above, _)| !has(silent, above));
    let texts = readable.filter_map(|(above, name)| {
        let file = fs::open_regular_to_read(&above.join(name)).ok()??;
        fs::beginning(&file, lock::LIMIT).ok()
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// Those of the directories that are mounts or links and do not respond. All directories above them must respond.
fn silent_among(directories: &[PathBuf], responses: Responses<'_>) -> Vec<SilentMount> {
    let mounts = fs::mount_points().unwrap_or_default();
    let may_be_silent = |directory: &&PathBuf| {
        // Ignore a directory that this user cannot examine: a tier that needs it reports it.
        let mounted = real(directory).ok().flatten();
        let is_mounted = mounts
            .iter()
            .any(|mount| Some(&mount.path) == mounted.as_ref());
        is_mounted
            || fs::lookup(directory).is_ok_and(|it| it.is_some_and(|found| found.is_symlink()))
    };
    let asked: Vec<PathBuf> = directories.iter().filter(may_be_silent).cloned().collect();
    let responses = responses(&asked);
    let silent = asked.into_iter().zip(responses);
    let silent = silent.filter_map(|(directory, response)| {
        let limit = match response {
            Response::Responds => return None,
            Response::Gone => None,
            Response::Late(limit) => Some(limit),
        };
        Some(SilentMount { directory, limit })
    });
    silent.collect()
}

/// Finds the outermost mount over some directories that does not respond.
pub(super) fn first_among(
    directories: &[PathBuf],
    responses: Responses<'_>,
) -> Option<SilentMount> {
    let depth = |directory: &PathBuf| directory.components().count();
    let mut directories = directories.to_vec();
    // Outermost first: examining a directory below a silent mount would block this process.
    directories.sort_by_key(|it| (depth(it), it.clone()));
    directories.dedup();
    let mut levels = directories.chunk_by(|one, other| depth(one) == depth(other));
    levels.find_map(|level| silent_among(level, responses).into_iter().next())
}

/// The path of a directory with the links above it resolved. `None` if the directory above it does not exist.
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
    fn directory_that_cannot_be_examined_is_not_a_silent_mount() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        fs::write(&file, b"").unwrap();
        for base in [file.clone(), file.join("below")] {
            let all_silent: Responses<'_> = &|asked| vec![Response::Gone; asked.len()];
            let silent = unmount_left(&Vcap::new(&base), all_silent).unwrap();
            assert_eq!(silent, []);
        }
    }

    #[test]
    fn nothing_below_a_silent_directory_is_asked() {
        let scratch = tempfile::tempdir().unwrap();
        let [outer, other] = ["outer", "other"].map(|name| scratch.path().join(name));
        for link in [&outer, &other] {
            fs::symlink(Path::new("nowhere"), link).unwrap();
        }
        let asked = std::cell::RefCell::new(Vec::new());
        let silent = first_among(
            &[
                outer.join("a/b"),
                other.clone(),
                outer.join("c"),
                outer.clone(),
            ],
            &|level| {
                asked.borrow_mut().extend(level.to_vec());
                vec![Response::Late(Duration::ZERO); level.len()]
            },
        );
        assert_eq!(silent.unwrap().directory, other);
        assert_eq!(*asked.borrow(), [other, outer]);
    }
}
