//! What mounts cover.

use std::path::Path;

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::thread::{CapabilitySet, capabilities};

use super::glimpse::id_in;
use super::{file_name, parent};

/// The directory below a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Covered {
    /// The numbers of its device and of itself.
    Directory((u64, u64)),
    /// Only a process that may mount can look there.
    NotAllowed,
    /// The system cannot look there: Linux before 5.2, for example.
    Unknown,
}

/// The directory that mounts at a path cover. Asks none of the mounted file systems.
pub(crate) fn covered(path: &Path) -> Covered {
    // A copy of the mount that contains the directory, without the mounts in it.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let found = open_tree(CWD, parent(path), flags)
        .and_then(|above| id_in(&above, file_name(path).as_ref(), AtFlags::SYMLINK_NOFOLLOW));
    match found {
        Ok(id) => Covered::Directory(id),
        Err(Errno::PERM) if !may_mount() => Covered::NotAllowed,
        Err(_) => Covered::Unknown,
    }
}

/// Whether this process may mount. A system call filter may refuse one call and allow others.
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
