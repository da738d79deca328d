//! Removes whole directory trees, including what scripts may have left in them: mounts, immutable
//! files and directories without permissions.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::descent::{Descent, clear_flags_of};
use super::mounts::unmount_at;
use super::{Context, Error, Result, if_there};

/// The maximum number of times that directories are emptied again because processes create files in them.
const ROUNDS: usize = 100;

/// The maximum number of mounts at one path that are unmounted.
const MAX_MOUNTS: usize = 1000;

/// Removes a file, a link or a whole tree, if it exists. Links are not followed. File systems that are mounted on or below the tree are
/// unmounted; no file on another mount is removed.
///
/// The tree may have any depth. Immutable and append-only flags, which scripts may set, are cleared. Permissions that are missing in the
/// modes of directories are added.
///
/// # Errors
/// The error of the system, with the path of the entry. If a mount cannot be unmounted, the error has the path of the mount, and files
/// below the mount are not removed.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    let Some(name) = path.file_name() else {
        let no_name = io::ErrorKind::InvalidInput.into();
        return Err(Error::new("remove the tree", path, no_name));
    };
    let Some(above) = if_there(Descent::open_above(path))? else {
        return Ok(());
    };
    Removal {
        descent: above,
        rounds: 0,
    }
    .remove(name)
}

/// Removes an entry of an open directory like [`remove_tree`]. The open directory is used even if
/// it was moved and something else is at its old path. `path` is the entry's path for messages.
///
/// # Errors
/// As [`remove_tree`].
pub(crate) fn remove_tree_in(directory: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let Some(name) = path.file_name() else {
        let no_name = io::ErrorKind::InvalidInput.into();
        return Err(Error::new("remove the tree", path, no_name));
    };
    Removal {
        descent: Descent::open_at(directory, super::parent(path))?,
        rounds: 0,
    }
    .remove(name)
}

/// Removes several things with the same function. Continues after an error.
///
/// # Errors
/// The first error.
pub(crate) fn remove_each<T>(
    items: impl IntoIterator<Item = T>,
    remove: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    items.into_iter().map(remove).fold(Ok(()), Result::and)
}

/// Clears the immutable and the append-only flag of a file or directory, if it exists. Other kinds of files have no such flags.
///
/// # Errors
/// If the file has a flag that cannot be cleared.
pub(crate) fn clear_flags(path: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match super::lookup(path)? {
        Some(metadata) if metadata.is_file() || metadata.is_dir() => {}
        _ => return Ok(()),
    }
    // The flags are unknown if the file cannot be opened.
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else {
        return Ok(());
    };
    clear_flags_of(file.as_fd())
        .map(|_| ())
        .map_err(io::Error::from)
        .at(super::CLEAR_FLAGS, path)
}

struct Removal {
    descent: Descent,
    rounds: usize,
}

impl Removal {
    /// Removes an entry of the directory where the descent starts.
    fn remove(mut self, name: &OsStr) -> Result<()> {
        // For each directory on the current path, `levels` has the names of its subdirectories that
        // still have to be removed.
        let mut levels = vec![Vec::new()];
        if self.unlink(name)? {
            levels = vec![vec![name.to_owned()]];
        }
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.pop() {
                if self.enter(&name)? {
                    levels.push(self.unlink_all()?);
                }
                continue;
            }
            levels.pop();
            if levels.is_empty() {
                break;
            }
            let Some(name) = self.descent.leave()? else {
                break;
            };
            if !self.remove_directory(&name)?
                && let Some(level) = levels.last_mut()
            {
                level.push(name);
            }
        }
        Ok(())
    }

    /// Enters a directory. Returns `false` if it no longer exists or is not a directory.
    fn enter(&mut self, name: &OsStr) -> Result<bool> {
        for _ in 0..MAX_MOUNTS {
            match self.descent.enter(name, false) {
                Ok(Some(_)) => return Ok(true),
                Ok(None) => self.unmount(name)?,
                Err(error) if error.is_not_found() => return Ok(false),
                Err(error) if error.source.kind() == io::ErrorKind::NotADirectory => {
                    self.unlink(name)?;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Err(self
            .descent
            .failed(super::UNMOUNT, name, Errno::BUSY.into()))
    }

    /// Removes everything except directories from the current directory. Returns the names of the directories.
    fn unlink_all(&mut self) -> Result<Vec<OsString>> {
        let mut directories = Vec::new();
        for (name, kind) in self.descent.entries()? {
            if kind == FileType::Directory || self.unlink(&name)? {
                directories.push(name);
            }
        }
        Ok(directories)
    }

    /// Removes an entry. Returns `true` if it is a directory, which is not removed.
    fn unlink(&self, name: &OsStr) -> Result<bool> {
        let removed = self.retrying(name, || {
            rustix::fs::unlinkat(self.descent.directory(), name, AtFlags::empty())
        })?;
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(false),
            Err(Errno::ISDIR) => Ok(true),
            Err(error) => Err(self.descent.failed("remove", name, error.into())),
        }
    }

    /// Removes an emptied directory. Returns `false` if it is not empty.
    fn remove_directory(&mut self, name: &OsStr) -> Result<bool> {
        let removed = self.retrying(name, || {
            rustix::fs::unlinkat(self.descent.directory(), name, AtFlags::REMOVEDIR)
        })?;
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            // A process has created a file in the directory, or the file system skipped entries
            // while others were removed.
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.rounds < ROUNDS => {
                self.rounds += 1;
                Ok(false)
            }
            Err(error) => Err(self
                .descent
                .failed("remove the directory", name, error.into())),
        }
    }

    /// Calls `remove`, which removes the entry `name`. If that fails, removes the cause (a flag, a
    /// missing permission or a mount) and calls `remove` again.
    fn retrying(
        &self,
        name: &OsStr,
        remove: impl Fn() -> rustix::io::Result<()>,
    ) -> Result<rustix::io::Result<()>> {
        for _ in 0..MAX_MOUNTS {
            let error = match remove() {
                Err(error @ (Errno::BUSY | Errno::PERM | Errno::ACCESS)) => error,
                removed => return Ok(removed),
            };
            let is_cause_removed = match error {
                Errno::BUSY => self.unmount_if_mounted(name)?,
                // A flag of the parent directory prevents the removal, too.
                Errno::PERM => {
                    let parent_was_flagged = self.descent.clear_flags(OsStr::new(""))?;
                    self.descent.clear_flags(name)? || parent_was_flagged
                }
                _ => self.add_permissions()?,
            };
            if !is_cause_removed {
                return Ok(Err(error));
            }
        }
        Ok(Err(Errno::BUSY))
    }

    /// Adds the permissions that are needed to change the current directory. Returns `false` if
    /// none is missing or the mode cannot be changed.
    fn add_permissions(&self) -> Result<bool> {
        let mode = self.descent.look(OsStr::new(""))?.permissions();
        let wanted = mode | Mode::RWXU;
        Ok(mode != wanted && rustix::fs::fchmod(self.descent.directory(), wanted).is_ok())
    }

    /// Unmounts what is mounted at an entry. Returns `false` if nothing is mounted there.
    fn unmount_if_mounted(&self, name: &OsStr) -> Result<bool> {
        match self.unmount(name) {
            Ok(()) => Ok(true),
            Err(error) if error.source.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn unmount(&self, name: &OsStr) -> Result<()> {
        let path = self.descent.path_of(name);
        unmount_at(&self.descent.path_by_descriptor(name)).at(super::UNMOUNT, &path)?;
        tracing::warn!(path = %path.display(), "unmounted a file system that a packaging script left mounted");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::fs;

    #[test]
    fn deep_trees_are_removed() {
        let scratch = fs::scratch_for_deep_trees();
        let tree = scratch.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::make_deep(&tree, 15_000);
        remove_tree(&tree).unwrap();
        remove_tree(&tree).unwrap();
        remove_tree(&tree.join("nothing")).unwrap();
        assert!(fs::list(scratch.path()).unwrap().is_empty());
    }

    #[test]
    fn other_things_are_removed_after_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| scratch.path().join(name));
        fs::write(&paths[1], b"").unwrap();
        let removed = remove_each(&paths, |path| fs::remove_file(path));
        assert_eq!(removed.unwrap_err().path, paths[0]);
        assert!(!paths[1].exists());
    }

    #[test]
    fn links_are_removed_and_their_targets_stay() {
        let scratch = tempfile::tempdir().unwrap();
        let (kept, tree) = (scratch.path().join("kept"), scratch.path().join("tree"));
        fs::create_dir(&kept).unwrap();
        fs::write(&kept.join("file"), b"kept").unwrap();
        fs::create_dir(&tree).unwrap();
        symlink(&kept, tree.join("link")).unwrap();
        remove_tree(&tree).unwrap();
        symlink(&kept, &tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(kept.join("file").exists() && fs::lookup(&tree).unwrap().is_none());
    }

    #[test]
    fn tree_is_removed_from_a_directory_that_was_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        for name in ["own/tree/a", "theirs/tree/a"] {
            fs::create_dir_all(&path(name)).unwrap();
        }
        let own = fs::open(&path("own")).unwrap();
        fs::rename(&path("own"), &path("moved")).unwrap();
        symlink(path("theirs"), path("own")).unwrap();
        remove_tree_in(own.as_fd(), &path("own/tree")).unwrap();
        assert!(path("theirs/tree/a").exists());
        assert!(fs::list(&path("moved")).unwrap().is_empty());
    }

    #[test]
    fn mount_is_removed_from_a_directory_that_was_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        for name in ["own/tree", "theirs/tree"] {
            fs::create_dir_all(&path(name)).unwrap();
            if !fs::mount_memory(&path(name)) {
                return;
            }
        }
        let own = fs::open(&path("own")).unwrap();
        fs::rename(&path("own"), &path("moved")).unwrap();
        fs::rename(&path("theirs"), &path("own")).unwrap();
        let removed = remove_tree_in(own.as_fd(), &path("own/tree"));
        let is_left = fs::is_mount_point(&path("own/tree")).unwrap();
        fs::unmount(&path("own/tree")).unwrap();
        removed.unwrap();
        assert!(is_left);
        assert!(fs::list(&path("moved")).unwrap().is_empty());
    }

    #[test]
    fn protected_directories_and_immutable_files_are_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let tree = scratch.path().join("tree");
        fs::create_dir_all(&tree.join("a/b")).unwrap();
        fs::write(&tree.join("a/b/file"), b"").unwrap();
        fs::flag(&tree.join("a/b/file"));
        fs::set_mode(&tree.join("a/b"), 0).unwrap();
        fs::flag(&tree.join("a/b"));
        fs::flag(&tree.join("a"));
        fs::flag(&tree);
        fs::flag(scratch.path());
        remove_tree(&tree).unwrap();
        assert!(fs::lookup(&tree).unwrap().is_none());
    }
}
