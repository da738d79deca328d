//! Determines whose file system is mounted over a directory of the tree: one that a killed run's script has mounted over the run's files,
//! or one of the machine.

use std::path::Path;

use super::notes::NotedDirectory;
use crate::fs::{self, Covered, Glimpse, MountPoint};

/// A file system that is mounted over a directory of the tree, by its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// None, or the one that was mounted there when the killed run noted the directory.
    Nothing,
    /// A file system that covers the noted directory: the script of the killed run has mounted it.
    OfScript,
    /// Another file system of the machine, such as a new one in memory after the restart of a container: the noted directory no longer
    /// exists at this path. The killed run has left no files in it.
    OfMachine,
}

impl Over {
    /// Determines whose file system has been mounted over a directory since notes identified it. The directory's path must have no links.
    /// Does not wait for a file system that does not respond.
    pub(super) fn of(
        directory: &Path,
        noted: NotedDirectory<'_>,
        mounts: &[MountPoint],
    ) -> fs::Result<Self> {
        let count = mounts.iter().filter(|it| it.path == directory).count();
        let is_noted = || -> fs::Result<bool> {
            Ok(Glimpse::of(directory)?.is_some_and(|found| noted.is_at(&found)))
        };
        if count == 0 || is_noted()? {
            return Ok(Self::Nothing);
        }
        if count > 1 {
            return Ok(Self::OfScript);
        }
        Ok(match fs::covered(directory) {
            Covered::Directory(id) if !noted.has(id) => Self::OfMachine,
            // This process may not mount. Scripts have the same privileges, so no script has mounted the file system.
            Covered::NotAllowed => Self::OfMachine,
            Covered::Directory(_) | Covered::Unknown => Self::OfScript,
        })
    }
}
