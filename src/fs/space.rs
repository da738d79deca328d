//! Free space, and what kind of file system a directory is on.

use std::path::Path;

use nix::sys::statfs::{FUSE_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, statfs};

use super::{Context, Result, nearest_existing};
use crate::diag::Bytes;

/// The space of a file system, for whom the current user is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this user can still write; `u64::MAX` where the file system does not count.
    pub free: u64,
    /// Bytes that there are in all; 0 where the file system does not count.
    pub total: u64,
    /// Names the file system: equal for two directories on the same one.
    pub device: u64,
}

impl std::fmt::Display for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.total {
            0 => f.write_str("its file system does not tell how much"),
            total => write!(f, "{} of {} free", Bytes(self.free), Bytes(total)),
        }
    }
}

/// Free space where `path` is, or would be made.
///
/// # Errors
/// What the system answered.
pub fn space(path: &Path) -> Result<Space> {
    use std::os::unix::fs::MetadataExt;
    let there = nearest_existing(path);
    let stat = nix::sys::statvfs::statvfs(&there).at("measure the free space of", &there)?;
    Ok(Space {
        total: stat.blocks().saturating_mul(stat.fragment_size()),
        // Some file systems do not count.
        free: match stat.blocks() {
            0 => u64::MAX,
            _ => stat.blocks_available().saturating_mul(stat.fragment_size()),
        },
        device: super::metadata(&there)?.dev(),
    })
}

/// Whether `path` is (or would be made) on an overlay, a FUSE file system or in memory, rather than on a disk.
///
/// A container's own layer is an overlay: it can be no overlay's upper directory, and it goes with the container.
///
/// # Errors
/// What the system answered.
pub fn is_volatile_or_overlay(path: &Path) -> Result<bool> {
    const NOT_A_DISK: [FsType; 3] = [OVERLAYFS_SUPER_MAGIC, FUSE_SUPER_MAGIC, TMPFS_MAGIC];
    let there = nearest_existing(path);
    let kind = statfs(&there)
        .at("examine the file system of", &there)?
        .filesystem_type();
    Ok(NOT_A_DISK.contains(&kind))
}
