//! Walks through all files of a tree, in a fixed order.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::descent::{Descent, READ, WRITE};
use super::found::Found;
use super::{Error, Result};

/// A walk through a tree. A directory precedes its entries, which are in the byte order of their names.
///
/// Neither the depth of the tree nor the length of its paths is limited, and only a few directories
/// are open at a time. If the mode of a directory denies access to its owner, the mode is changed
/// while the walk is in the directory. Links are not followed, except for the root.
#[derive(Debug)]
pub(crate) struct Walk {
    descent: Descent,
    /// For each directory on the path: the names that are still to be visited, in reverse order,
    /// and the directory's metadata when it was entered.
    levels: Vec<(Vec<OsString>, Found)>,
    position: Position,
    mounts: Mounts,
}

/// What a walk does at mounts below the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounts {
    /// The walk enters them.
    Cross,
    /// The walk fails with the path of the mount.
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Start,
    Inside,
    Leaving,
}

/// A step of a walk.
#[derive(Debug)]
pub(crate) enum WalkStep {
    /// A directory, before its entries. It is the current directory until its [`Leave`](WalkStep::Leave).
    Enter(Found),
    /// An entry of the current directory that is not a directory.
    Entry(OsString, Found),
    /// A directory, after its entries. The metadata is that of its [`Enter`](WalkStep::Enter).
    Leave(Found),
}

impl Walk {
    /// A walk for reading.
    ///
    /// # Errors
    /// If the root is not a directory, or cannot be opened.
    pub(crate) fn to_read(root: &Path, mounts: Mounts) -> Result<Self> {
        Ok(Self::new(Descent::open(root, READ)?, mounts))
    }

    /// A walk for creating and removing entries.
    pub(crate) fn to_change(root: &Path, mounts: Mounts) -> Result<Self> {
        Ok(Self::new(Descent::open(root, WRITE)?, mounts))
    }

    fn new(descent: Descent, mounts: Mounts) -> Self {
        Self {
            descent,
            levels: Vec::new(),
            position: Position::Start,
            mounts,
        }
    }

    /// Returns the next step; `None` at the end. After an error, the walk skips the part that could
    /// not be reached and continues.
    ///
    /// # Errors
    /// The error of the system, with the path. An entry that was removed meanwhile is an error.
    pub(crate) fn next_step(&mut self) -> Result<Option<WalkStep>> {
        match self.position {
            Position::Start => {
                let root = *self.descent.root();
                return self.start(root).map(Some);
            }
            Position::Leaving => {
                self.levels.pop();
                match self.descent.leave() {
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok(None),
                    Err(error) => {
                        // Without this directory, the remaining ones cannot be reached.
                        self.levels.clear();
                        self.position = Position::Inside;
                        return Err(error);
                    }
                }
            }
            Position::Inside => {}
        }
        self.position = Position::Inside;
        let Some((names, directory)) = self.levels.last_mut() else {
            return Ok(None);
        };
        let Some(name) = names.pop() else {
            self.position = Position::Leaving;
            return Ok(Some(WalkStep::Leave(*directory)));
        };
        let found = self.descent.look(&name)?;
        if self.mounts == Mounts::Refuse && self.descent.is_mount(&found) {
            return Err(self.mount(&name));
        }
        if !found.is_dir() {
            return Ok(Some(WalkStep::Entry(name, found)));
        }
        match self.descent.enter(&name, self.mounts == Mounts::Cross)? {
            Some(_) => self.start(found).map(Some),
            None => Err(self.mount(&name)),
        }
    }

    fn start(&mut self, directory: Found) -> Result<WalkStep> {
        self.position = Position::Inside;
        let (mut names, failure) = match self.descent.entries() {
            Ok(entries) => (entries.into_iter().map(|(name, _)| name).collect(), None),
            Err(error) => (Vec::new(), Some(error)),
        };
        names.sort_unstable_by(|a, b| b.cmp(a));
        self.levels.push((names, directory));
        failure.map_or(Ok(WalkStep::Enter(directory)), Err)
    }

    fn mount(&self, name: &OsStr) -> Error {
        self.descent
            .failed(super::CROSS_MOUNT, name, Errno::XDEV.into())
    }

    /// The path of the current directory, which may be too long for the kernel.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        self.descent.path()
    }

    /// The path of an entry of the current directory. An empty name means the directory itself.
    #[must_use]
    pub(crate) fn path_of(&self, name: &OsStr) -> PathBuf {
        self.descent.path_of(name)
    }

    /// Opens a file of the current directory for reading, even if the file's mode denies reading to
    /// its owner. A link is not followed.
    ///
    /// # Errors
    /// As `std::fs::File::open`.
    pub(crate) fn open(&self, name: &OsStr) -> Result<File> {
        self.descent.open_file(name)
    }

    /// Reads the target of a link in the current directory.
    ///
    /// # Errors
    /// As `std::fs::read_link`.
    pub(crate) fn read_link(&self, name: &OsStr) -> Result<Vec<u8>> {
        rustix::fs::readlinkat(self.descent.directory(), name, Vec::new())
            .map(std::ffi::CString::into_bytes)
            .map_err(|error| self.failed("read the link", name, error.into()))
    }

    pub(super) fn descent(&self) -> &Descent {
        &self.descent
    }

    /// The current directory.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.descent.directory()
    }

    /// A path to an entry of the current directory that is not too long for the kernel.
    pub(crate) fn usable_path_of(&self, name: &OsStr) -> PathBuf {
        self.descent.usable_path_of(name)
    }

    /// Clears the flags of an entry that prevent even root from changing it; see [`Found::is_flagged`].
    pub(crate) fn clear_flags(&self, name: &OsStr) -> Result<bool> {
        self.descent.clear_flags(name)
    }

    /// Adds the path of an entry to an error.
    pub(crate) fn failed(&self, action: &'static str, name: &OsStr, source: io::Error) -> Error {
        self.descent.failed(action, name, source)
    }
}
