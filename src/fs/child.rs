//! Examines directories that scripts can replace at any time, without waiting for a file system
//! that a script may have mounted there.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Dir, Mode, OFlags, openat};
use rustix::io::Errno;

use super::found::mount_of;
use super::{Context, Result};

/// The flags for opening an entry without reading it or following a link. Such an `open` does not
/// involve the entry's file system.
const ENTRY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory, identified by an open parent directory and a name. It may be missing. A script may
/// put a link in its place or mount a file system over it. If that file system does not respond, a
/// thread that examines it blocks, and the process cannot exit.
#[derive(Debug)]
pub(crate) struct ChildDirectory {
    parent: OwnedFd,
    name: OsString,
}

impl ChildDirectory {
    /// Identifies the directory `name` in the open directory `parent`. The open directory is used
    /// even if it is moved or covered by a mount later. If `name` is a longer relative path, only
    /// its last component may be a link.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn new(parent: BorrowedFd<'_>, name: impl Into<OsString>) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let name = name.into();
        let parent = openat(parent, ".", flags, Mode::empty())
            .map_err(io::Error::from)
            .at("open the directory above", Path::new(&name))?;
        Ok(Self { parent, name })
    }

    /// Whether the directory has entries. A missing directory has none. `None` means unknown, for
    /// example because a mount or a link is there, which is not examined.
    pub(crate) fn has_entries(&self) -> Option<bool> {
        let entry = match openat(&self.parent, &self.name, ENTRY, Mode::empty()) {
            Ok(entry) => entry,
            Err(Errno::NOENT) => return Some(false),
            Err(_) => return None,
        };
        if mount_of(entry.as_fd())? != mount_of(self.parent.as_fd())? {
            return None;
        }
        // A file system that is mounted over the directory after this point is not entered.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(&entry, ".", flags, Mode::empty()).ok()?;
        for found in Dir::new(directory).ok()? {
            if !matches!(found.ok()?.file_name().to_bytes(), b"." | b"..") {
                return Some(true);
            }
        }
        Some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs;

    #[test]
    fn only_directories_themselves_are_examined() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        fs::create_dir(&path("empty")).unwrap();
        fs::create_dir_all(&path("full/entry")).unwrap();
        fs::symlink("full".as_ref(), &path("link")).unwrap();
        fs::write(&path("file"), b"").unwrap();
        let parent = fs::open(scratch.path()).unwrap();
        let has_entries = |name: &str| {
            let child = ChildDirectory::new(parent.as_fd(), name).unwrap();
            child.has_entries()
        };
        assert_eq!(has_entries("missing"), Some(false));
        assert_eq!(has_entries("empty"), Some(false));
        assert_eq!(has_entries("full"), Some(true));
        assert_eq!(has_entries("link"), None);
        assert_eq!(has_entries("file"), None);
    }

    #[test]
    fn mounts_are_not_entered() {
        let root = fs::open("/".as_ref()).unwrap();
        let proc = ChildDirectory::new(root.as_fd(), "proc").unwrap();
        assert_eq!(proc.has_entries(), None);
    }
}
