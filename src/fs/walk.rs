//! Every file of a tree, in a fixed order, whatever the depth of the tree.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::descent::{Descent, READ, WRITE};
use super::found::Found;
use super::{Error, Result};

/// A walk through a tree: a directory comes before its entries, and these come in the byte order of their names.
///
/// Neither the depth of the tree nor the length of its paths is limited, and few directories are open at a time. Directories
/// that their owner may not read are opened up for as long as the walk is in them. No link is followed but the root.
#[derive(Debug)]
pub struct Walk {
    descent: Descent,
    /// For each directory on the way down: the names that are to come, the last first, and what the directory was when it was
    /// entered.
    levels: Vec<(Vec<OsString>, Found)>,
    state: State,
    mounts: Mounts,
}

/// What a walk does about another mount below the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounts {
    /// It goes into it.
    Cross,
    /// It fails and names it.
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Inside,
    Leaving,
}

/// Where a walk is.
#[derive(Debug)]
pub enum Step {
    /// In a directory, before its entries. It is the walk's current one until its [`Leave`](Step::Leave).
    Enter(Found),
    /// At an entry of the current directory that is none itself.
    Entry(OsString, Found),
    /// In a directory, after its entries. What is found is what it was before them.
    Leave(Found),
}

impl Walk {
    /// A walk that only reads.
    ///
    /// # Errors
    /// When the root is not a directory, or cannot be opened.
    pub fn to_read(root: &Path, mounts: Mounts) -> Result<Self> {
        Ok(Self::new(Descent::open(root, READ)?, mounts))
    }

    /// A walk by somebody who changes what is in the directories.
    pub(crate) fn to_change(root: &Path, mounts: Mounts) -> Result<Self> {
        Ok(Self::new(Descent::open(root, WRITE)?, mounts))
    }

    fn new(descent: Descent, mounts: Mounts) -> Self {
        Self {
            descent,
            levels: Vec::new(),
            state: State::Fresh,
            mounts,
        }
    }

    /// Goes one step further; `None` at the end. After an error it leaves out what could not be reached and goes on with the rest.
    ///
    /// # Errors
    /// What the system answered, with the path. An entry that is no longer there is one.
    pub fn next_step(&mut self) -> Result<Option<Step>> {
        match self.state {
            State::Fresh => {
                let root = *self.descent.root();
                return self.start(root).map(Some);
            }
            State::Leaving => {
                self.levels.pop();
                match self.descent.leave() {
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok(None),
                    Err(error) => {
                        // Nothing leads to what is left.
                        self.levels.clear();
                        self.state = State::Inside;
                        return Err(error);
                    }
                }
            }
            State::Inside => {}
        }
        self.state = State::Inside;
        let Some((names, directory)) = self.levels.last_mut() else {
            return Ok(None);
        };
        let Some(name) = names.pop() else {
            self.state = State::Leaving;
            return Ok(Some(Step::Leave(*directory)));
        };
        let found = self.descent.look(&name)?;
        if self.mounts == Mounts::Refuse && self.descent.is_mount(&found) {
            return Err(self.mount(&name));
        }
        if !found.is_dir() {
            return Ok(Some(Step::Entry(name, found)));
        }
        match self.descent.enter(&name, self.mounts == Mounts::Cross)? {
            Some(_) => self.start(found).map(Some),
            None => Err(self.mount(&name)),
        }
    }

    fn start(&mut self, directory: Found) -> Result<Step> {
        self.state = State::Inside;
        let (mut names, failure) = match self.descent.entries() {
            Ok(entries) => (entries.into_iter().map(|(name, _)| name).collect(), None),
            Err(error) => (Vec::new(), Some(error)),
        };
        names.sort_unstable_by(|a, b| b.cmp(a));
        self.levels.push((names, directory));
        failure.map_or(Ok(Step::Enter(directory)), Err)
    }

    fn mount(&self, name: &OsStr) -> Error {
        self.descent
            .failed(super::CROSS_MOUNT, name, Errno::XDEV.into())
    }

    /// The path of the current directory, which may be too long to be used.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.descent.path()
    }

    /// The path of an entry of the current directory; of the directory itself for the empty name.
    #[must_use]
    pub fn path_of(&self, name: &OsStr) -> PathBuf {
        self.descent.path_of(name)
    }

    /// Opens a file of the current directory for reading, also where its owner may not read it. A link is not followed.
    ///
    /// # Errors
    /// As `std::fs::File::open`.
    pub fn open(&self, name: &OsStr) -> Result<File> {
        self.descent.open_file(name)
    }

    /// What a link of the current directory says.
    ///
    /// # Errors
    /// As `std::fs::read_link`.
    pub fn read_link(&self, name: &OsStr) -> Result<Vec<u8>> {
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

    /// A path that leads to an entry of the current directory, however long its real one is.
    pub(crate) fn usable_path_of(&self, name: &OsStr) -> PathBuf {
        self.descent.usable_path_of(name)
    }

    /// Clears the flags of an entry that keep even root from changing it; see [`Found::is_flagged`].
    pub(crate) fn clear_flags(&self, name: &OsStr) -> Result<bool> {
        self.descent.clear_flags(name)
    }

    /// Adds the path of an entry to an error.
    pub(crate) fn failed(&self, action: &'static str, name: &OsStr, source: io::Error) -> Error {
        self.descent.failed(action, name, source)
    }
}
