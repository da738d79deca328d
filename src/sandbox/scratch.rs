//! Scratch directories: `BASE/data/NAME` for each direct dependency of a package and for the package itself. All scripts of a
//! run share them, and they are never part of a result. The golang packages of Cloud Foundry keep Go's build cache there.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::error::SandboxError;
use crate::fs::{self, Context, MadeDirectories};
use crate::release::Name;

/// Who shares scratch directories, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sharing {
    /// All scripts of a run. The directories are removed at its end.
    #[default]
    Run,
    /// All scripts of all runs that are given this directory. It holds one directory for each package name.
    Kept(PathBuf),
    /// Nobody: each package gets empty ones where that is possible.
    Off,
}

/// The scratch directories of one run.
#[derive(Debug, Default)]
pub struct Scratch {
    kept: Option<Kept>,
    is_off: bool,
}

/// A directory that outlives the run.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    /// Locked, shared, by every run that uses the directory: only the last one removes empty directories.
    lock: File,
    /// The directory and what was missing above it.
    made: MadeDirectories,
    is_separable: bool,
}

impl Scratch {
    /// Makes the directory that is kept, if there is one, with what is missing above it. Packages are kept from each other's
    /// directories in it unless one of the directories `in_use` lies there.
    ///
    /// # Errors
    /// When the directory cannot be made or written to.
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

    /// The directory that outlives the run, without links.
    pub(super) fn kept(&self) -> Option<&Path> {
        self.kept.as_ref().map(|kept| kept.path.as_path())
    }

    /// The same where packages can be kept from each other's directories in it.
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

/// Removes the empty directories of packages, in which no run would find anything, unless another run uses them.
impl Drop for Kept {
    fn drop(&mut self) {
        // A run that begins waits for the end of this.
        if self.lock.unlock().is_err() || self.lock.try_lock().is_err() {
            return;
        }
        for entry in fs::list(&self.path).unwrap_or_default() {
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_directory && is_name(&entry) {
                // One that has something in it stays.
                let _ = fs::remove_dir(&entry.path());
            }
        }
        // What is locked counts as in use.
        let _ = self.lock.unlock();
        self.made.remove_empty();
    }
}

fn is_name(entry: &std::fs::DirEntry) -> bool {
    let name = entry.file_name();
    name.to_str().is_some_and(|name| Name::parse(name).is_ok())
}

/// Makes a scratch directory, or takes the one that is there, which scripts must be able to write to.
pub(super) fn make(directory: &Path) -> Result<(), SandboxError> {
    let made = match fs::create_dir(directory) {
        Ok(()) => fs::set_mode(directory, 0o755),
        Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => {
            access(directory, AccessFlags::W_OK | AccessFlags::X_OK).at("write to", directory)
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

    #[test]
    fn empty_directories_go_with_the_last_run() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("a/b");
        let (first, second) = (kept(&directory), kept(&directory));
        make(&directory.join("empty")).unwrap();
        make(&directory.join("full")).unwrap();
        fs::write(&directory.join("full/file"), b"").unwrap();
        drop(first);
        assert!(directory.join("empty").exists());
        drop(second);
        assert!(!directory.join("empty").exists());
        assert!(directory.join("full/file").exists());
    }

    #[test]
    fn directory_with_nothing_in_it_is_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let scratch = kept(&temporary.path().join("a/b"));
        make(&temporary.path().join("a/b/empty")).unwrap();
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
    fn file_in_the_place_of_the_directory_is_named() {
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
