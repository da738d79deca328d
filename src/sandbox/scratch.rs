//! Scratch directories: `BASE/data/NAME` for each direct dependency of a package and for the package itself. All scripts of a run
//! share them, and they are never part of a compiled package. The golang packages of Cloud Foundry keep Go's build cache there.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::unistd::{AccessFlags, access};

use super::error::SandboxError;
use crate::fs::{self, ChildDirectory, Context, MadeDirectories};
use crate::release::Name;

/// Who shares scratch directories, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sharing {
    /// All scripts of a run. The directories are removed at its end.
    #[default]
    Run,
    /// All scripts of all runs with this directory. It contains one directory for each package name.
    Kept(PathBuf),
    /// Packages share none: each creates its own, if possible.
    Off,
}

/// The scratch directories of one run.
#[derive(Debug, Default)]
pub struct Scratch {
    kept: Option<Kept>,
    is_off: bool,
}

/// A directory that is kept for later runs.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    /// Every run that uses the directory holds a shared lock: a run removes empty directories only if it is the only one.
    lock: File,
    /// The directory and what was missing above it.
    made: MadeDirectories,
    /// The directories of packages that this run created.
    packages: Mutex<BTreeSet<PathBuf>>,
    is_separable: bool,
}

impl Scratch {
    /// Creates the directory that is kept, if any. Scripts can be isolated from each other in it unless one of the directories `in_use`
    /// is below it.
    ///
    /// # Errors
    /// The directory cannot be created or written to.
    pub fn open(sharing: &Sharing, in_use: &[&Path]) -> Result<Self, SandboxError> {
        let kept = match sharing {
            Sharing::Kept(path) => Some(Kept::open(path, in_use).map_err(|source| {
                let directory = path.clone();
                SandboxError::Scratch { directory, source }
            })?),
            Sharing::Run | Sharing::Off => None,
        };
        Ok(Self {
            kept,
            is_off: *sharing == Sharing::Off,
        })
    }

    /// Whether packages share scratch directories.
    pub(super) fn is_shared(&self) -> bool {
        !self.is_off
    }

    /// The directory that is kept, without links.
    pub(super) fn kept(&self) -> Option<&Path> {
        self.kept.as_ref().map(|kept| kept.path.as_path())
    }

    /// Creates the directory of a package in the directory that is kept. `None` if none is kept.
    pub(super) fn make_kept(&self, name: &Name) -> Result<Option<PathBuf>, SandboxError> {
        let Some(kept) = &self.kept else {
            return Ok(None);
        };
        let directory = kept.path.join(name.as_str());
        if make(&directory)? {
            let mut packages = kept.packages.lock().unwrap_or_else(PoisonError::into_inner);
            packages.insert(directory.clone());
        }
        Ok(Some(directory))
    }

    /// The directory of a package in the directory that is kept. `None` if none is kept.
    pub(super) fn in_kept(&self, name: &Name) -> Option<fs::Result<ChildDirectory>> {
        let kept = self.kept.as_ref()?;
        Some(ChildDirectory::new(kept.lock.as_fd(), name.as_str()))
    }

    /// Removes the directories of packages in the directory that is kept. Returns `false` if there was no content to remove.
    pub(super) fn discard_kept(&self) -> fs::Result<bool> {
        self.kept().map_or(Ok(false), discard)
    }

    /// The directory that is kept, if scripts can be isolated from each other in it.
    pub(super) fn separable(&self) -> Option<&Path> {
        let kept = self.kept.as_ref().filter(|kept| kept.is_separable);
        kept.map(|kept| kept.path.as_path())
    }
}

impl Kept {
    fn open(path: &Path, in_use: &[&Path]) -> fs::Result<Self> {
        let mut made = MadeDirectories::default();
        let opened = Self::lock(path, &mut made);
        let (path, lock) = opened.inspect_err(|_| made.remove_empty())?;
        let is_separable = in_use.iter().all(|used| {
            let real = fs::canonicalize(used).unwrap_or_else(|_| (*used).to_owned());
            !real.starts_with(&path)
        });
        Ok(Self {
            path,
            lock,
            made,
            packages: Mutex::default(),
            is_separable,
        })
    }

    fn lock(path: &Path, made: &mut MadeDirectories) -> fs::Result<(PathBuf, File)> {
        made.make(path)?;
        let path = fs::canonicalize(path)?;
        let lock = fs::open(&path)?;
        lock.lock_shared().at("lock", &path)?;
        fs::check_writable(&path)?;
        Ok((path, lock))
    }
}

/// Removes the directories of packages that are still empty, unless another run may use them.
impl Drop for Kept {
    fn drop(&mut self) {
        // A run that starts now waits until this lock is released.
        if self.lock.unlock().is_err() || self.lock.try_lock().is_err() {
            return;
        }
        let packages = self.packages.get_mut();
        for directory in packages.unwrap_or_else(PoisonError::into_inner).iter() {
            // Fails if it is not empty.
            let _ = fs::remove_dir(directory);
        }
        // Unlock it first: a locked directory counts as in use.
        let _ = self.lock.unlock();
        self.made.remove_empty();
    }
}

/// Removes the directories of packages in a directory. Returns `false` if all of them were empty.
pub(super) fn discard(directory: &Path) -> fs::Result<bool> {
    let mut found = false;
    for entry in fs::list(directory)? {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        found |= !fs::list(&entry.path())?.is_empty();
        fs::remove_tree(&entry.path())?;
    }
    Ok(found)
}

/// Creates a scratch directory, or checks that scripts can write to the existing one. Returns whether it was created.
pub(super) fn make(directory: &Path) -> Result<bool, SandboxError> {
    let made = match fs::create_dir(directory) {
        Ok(()) => fs::set_mode(directory, 0o755).map(|()| true),
        Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => {
            let writable = AccessFlags::W_OK | AccessFlags::X_OK;
            access(directory, writable)
                .at("write to", directory)
                .map(|()| false)
        }
        Err(error) => Err(error),
    };
    made.map_err(|source| SandboxError::Scratch {
        directory: directory.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(directory: &Path) -> Scratch {
        Scratch::open(&Sharing::Kept(directory.to_owned()), &[]).unwrap()
    }

    fn make_kept(scratch: &Scratch, name: &str) -> PathBuf {
        let name = Name::parse(name).unwrap();
        scratch.make_kept(&name).unwrap().unwrap()
    }

    #[test]
    fn empty_directories_of_the_run_are_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let scratch = kept(&temporary.path().join("a/b"));
        let full = make_kept(&scratch, "full");
        fs::write(&full.join("file"), b"").unwrap();
        make_kept(&scratch, "empty");
        let theirs = temporary.path().join("a/b/theirs");
        fs::create_dir(&theirs).unwrap();
        assert_eq!(make_kept(&scratch, "theirs"), theirs);
        drop(scratch);
        assert!(full.join("file").exists() && theirs.exists());
        assert!(!temporary.path().join("a/b/empty").exists());
    }

    #[test]
    fn empty_directories_stay_while_another_run_is_there() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("a/b");
        let (first, second) = (kept(&directory), kept(&directory));
        let made = make_kept(&first, "x");
        assert_eq!(make_kept(&second, "x"), made);
        drop(first);
        assert!(made.exists());
    }

    #[test]
    fn empty_directory_is_removed_with_its_parents() {
        let temporary = tempfile::tempdir().unwrap();
        let scratch = kept(&temporary.path().join("a/b"));
        make_kept(&scratch, "empty");
        drop(scratch);
        assert!(!temporary.path().join("a").exists());
    }

    #[test]
    fn directory_that_holds_one_in_use_is_not_separable() {
        let temporary = tempfile::tempdir().unwrap();
        let home = temporary.path().join("cache/home");
        fs::create_dir_all(&home).unwrap();
        let sharing = Sharing::Kept(temporary.path().join("cache"));
        let scratch = Scratch::open(&sharing, &[&home]).unwrap();
        assert_eq!(scratch.separable(), None);
        assert!(scratch.kept().is_some());
    }

    #[test]
    fn error_names_a_file_in_place_of_the_directory() {
        let temporary = tempfile::tempdir().unwrap();
        let file = temporary.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = Scratch::open(&Sharing::Kept(file.clone()), &[]).unwrap_err();
        assert!(
            error.to_string().contains(&file.display().to_string()),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("--scratch-dir"));
    }
}
