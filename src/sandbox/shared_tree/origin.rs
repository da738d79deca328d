//! Whose file system is mounted over a directory of the tree: that of a killed run's script, which covers what the run used, or one of
//! the machine.

use std::path::Path;

use super::notes::NotedDirectory;
use crate::fs::{self, Covered, Glimpse, MountPoint};

/// What is mounted over a directory of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// Nothing, or what was mounted there when the killed run noted the directory.
    Nothing,
    /// A file system that covers the noted directory: the script of the killed run has mounted it.
    OfScript,
    /// Another file system of the machine: the noted directory no longer exists at this path. An example is a new file system in memory after
    /// the restart of a container. The killed run has left nothing in it.
    OfMachine,
}

impl Over {
    /// What is mounted over a directory, whose path has no links, since notes identified it. Asks no file system that may not respond.
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
            // A script has the same privileges, so it could not have mounted anything either.
            Covered::NotAllowed => Self::OfMachine,
            Covered::Directory(_) | Covered::Unknown => Self::OfScript,
        })
    }
}
