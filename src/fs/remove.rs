//! Removing whole trees, and nothing but the tree.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::descent::{Descent, clear_flags_of};
use super::mounts::unmount_at;
use super::{Context, Error, Result};

/// How often a directory that was emptied may be found filled again before somebody is taken to fill it for ever.
const ROUNDS: usize = 100;

/// How many mounts may lie on top of each other.
const STACKED: usize = 1000;

/// Removes a file, a link or a whole tree; that there is nothing is fine. No link is followed, and nothing is removed that lies
/// on another mount than the tree's directory: what is mounted on or below the tree is unmounted first.
///
/// The tree may be as deep as it likes. Immutable and append-only flags are cleared, and directories that their owner may not
/// change are opened up, so that whatever a script leaves can be removed.
///
/// # Errors
/// What the system answered, with the path of the entry. Where something is mounted that may not be unmounted, this is named,
/// and what lies below it stays as it is.
pub fn remove_tree(path: &Path) -> Result<()> {
    let Some(name) = path.file_name() else {
        let no_name = io::ErrorKind::InvalidInput.into();
        return Err(Error::new("remove the tree", path, no_name));
    };
    let above = match Descent::open_above(path) {
        Err(error) if error.is_not_found() => return Ok(()),
        other => other?,
    };
    Removal {
        descent: above,
        rounds: 0,
    }
    .remove(name)
}

/// Clears the immutable and the append-only flag of a file or directory, as far as it is there and has one. Files of other
/// kinds have none.
///
/// # Errors
/// When it has one that may not be cleared.
pub fn clear_flags(path: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match super::lookup(path)? {
        Some(metadata) if metadata.is_file() || metadata.is_dir() => {}
        _ => return Ok(()),
    }
    // What may not be read has no flags that are known.
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
    /// Removes an entry of the directory that the descent starts in.
    fn remove(mut self, name: &OsStr) -> Result<()> {
        // For each directory on the way down, the directories that are still in it.
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

    /// Goes into a directory. `false` when it is not there any more, or is none.
    fn enter(&mut self, name: &OsStr) -> Result<bool> {
        for _ in 0..STACKED {
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

    /// Removes everything from the current directory but directories, whose names it gives.
    fn unlink_all(&mut self) -> Result<Vec<OsString>> {
        let mut directories = Vec::new();
        for (name, kind) in self.descent.entries()? {
            if kind == FileType::Directory || self.unlink(&name)? {
                directories.push(name);
            }
        }
        Ok(directories)
    }

    /// Removes something that should not be a directory. `true` when it is one.
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

    /// Removes a directory that was emptied. `false` when it is not empty.
    fn remove_directory(&mut self, name: &OsStr) -> Result<bool> {
        let removed = self.retrying(name, || {
            rustix::fs::unlinkat(self.descent.directory(), name, AtFlags::REMOVEDIR)
        })?;
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            // Somebody wrote to it meanwhile, or the file system lost its place while entries went.
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.rounds < ROUNDS => {
                self.rounds += 1;
                Ok(false)
            }
            Err(error) => Err(self
                .descent
                .failed("remove the directory", name, error.into())),
        }
    }

    /// Removes an entry, and again as long as something that stands in the way can be taken away.
    fn retrying(
        &self,
        name: &OsStr,
        remove: impl Fn() -> rustix::io::Result<()>,
    ) -> Result<rustix::io::Result<()>> {
        for _ in 0..STACKED {
            let error = match remove() {
                Err(error @ (Errno::BUSY | Errno::PERM | Errno::ACCESS)) => error,
                removed => return Ok(removed),
            };
            let helped = match error {
                Errno::BUSY => self.unmount_if_mounted(name)?,
                // The flags of the directory matter as much as the entry's own.
                Errno::PERM => {
                    let of_directory = self.descent.clear_flags(OsStr::new(""))?;
                    self.descent.clear_flags(name)? || of_directory
                }
                _ => self.open_up()?,
            };
            if !helped {
                return Ok(Err(error));
            }
        }
        Ok(Err(Errno::BUSY))
    }

    /// Gives the owner the permission to change the current directory. `false` where that is there or cannot be had.
    fn open_up(&self) -> Result<bool> {
        let mode = self.descent.look(OsStr::new(""))?.permissions();
        let wanted = mode | Mode::RWXU;
        Ok(mode != wanted && rustix::fs::fchmod(self.descent.directory(), wanted).is_ok())
    }

    /// `false` when nothing is mounted there.
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
        unmount_at(&self.descent.usable_path_of(name)).at(super::UNMOUNT, &path)?;
        tracing::warn!(path = %path.display(), "unmounted what a packaging script left mounted");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::fs;

    #[test]
    fn trees_of_any_depth_are_removed() {
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
