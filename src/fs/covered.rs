//! Finds the directory that lies below a mount and is hidden by it.

use std::path::Path;

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::thread::{CapabilitySet, capabilities};

use super::glimpse::id_in;
use super::{file_name, parent};

/// The result of looking below a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Covered {
    /// The device number and inode of the hidden directory.
    Directory((u64, u64)),
    /// This process lacks the privilege to mount, which is needed to look below a mount.
    NotAllowed,
    /// The system does not support looking below a mount, for example Linux before 5.2.
    Unknown,
}

/// Looks below all mounts at `path`. The mounted file systems themselves are not accessed.
pub(crate) fn covered(path: &Path) -> Covered {
    // Clone the mount that contains the directory. The clone does not include the mounts on top of
    // it.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let found = open_tree(CWD, parent(path), flags)
        .and_then(|above| id_in(&above, file_name(path).as_ref(), AtFlags::SYMLINK_NOFOLLOW));
    match found {
        Ok(id) => Covered::Directory(id),
        Err(Errno::PERM) if !may_mount() => Covered::NotAllowed,
        Err(_) => Covered::Unknown,
    }
}

/// Whether this process has the privilege to mount. It is tested separately because a system call
/// filter may refuse one call and allow others.
fn may_mount() -> bool {
    let own = capabilities(None);
    own.map_or(true, |own| own.effective.contains(CapabilitySet::SYS_ADMIN))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::fs;

    #[test]
    fn directory_below_mounts_is_found() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("directory");
        fs::create_dir(&directory).unwrap();
        let found = fs::metadata(&directory).unwrap();
        for _ in 0..2 {
            if !fs::mount_memory(&directory) {
                return;
            }
        }
        let covered = covered(&directory);
        for _ in 0..2 {
            fs::unmount(&directory).unwrap();
        }
        assert_eq!(covered, Covered::Directory((found.dev(), found.ino())));
    }
}
