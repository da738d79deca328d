//! Free space, and what kind of file system a directory is on.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FUSE_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::{Context, Result, nearest_existing};
use crate::diag::Bytes;

/// The space of a file system, for whom the current user is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this user can still write; `u64::MAX` where the file system does not count.
    pub free: u64,
    /// Bytes that there are in all; 0 where the file system does not count.
    pub total: u64,
    /// How many more files can be made, and how many there can be in all; `None` where the file system has no such limit.
    pub inodes: Option<(u64, u64)>,
    /// Names the file system: equal for two directories on the same one.
    pub device: u64,
}

/// A file system with less than this, in bytes, is full for a compiler.
const FEW_BYTES: u64 = 1 << 20;

/// A file system on which fewer files than this can be made is full for a compiler.
const FEW_INODES: u64 = 256;

impl Space {
    /// Whether there is too little for a compiler.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.free < FEW_BYTES || self.few_inodes().is_some()
    }

    fn few_inodes(&self) -> Option<(u64, u64)> {
        self.inodes.filter(|(free, _)| *free < FEW_INODES)
    }
}

impl std::fmt::Display for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.total {
            0 => f.write_str("its file system does not tell how much"),
            total => {
                write!(f, "{} of {}", Bytes(self.free), Bytes(total))?;
                if let Some((free, total)) = self.few_inodes() {
                    write!(f, " and {free} of {total} inodes")?;
                }
                f.write_str(" free")
            }
        }
    }
}

/// Free space where `path` is, or would be made.
///
/// # Errors
/// What the system answered.
pub fn space(path: &Path) -> Result<Space> {
    let there = nearest_existing(path);
    let stat = statvfs(&there).at("measure the free space of", &there)?;
    Ok(Space {
        total: stat.blocks().saturating_mul(stat.fragment_size()),
        // Some file systems do not count.
        free: match stat.blocks() {
            0 => u64::MAX,
            _ => stat.blocks_available().saturating_mul(stat.fragment_size()),
        },
        inodes: match stat.files() {
            0 => None,
            files => Some((stat.files_available(), files)),
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

/// The highest directory at or above `path` from which on programs cannot be run, for the file system is mounted so. `None`
/// where they can.
///
/// # Errors
/// What the system answered.
pub fn noexec(path: &Path) -> Result<Option<PathBuf>> {
    let there = nearest_existing(path);
    let device = super::metadata(&there)?.dev();
    let mut found = None;
    for directory in there.ancestors().filter(|it| *it != Path::new("")) {
        let stat = statvfs(directory).at("examine the file system of", directory)?;
        if !stat.flags().contains(FsFlags::ST_NOEXEC) || super::metadata(directory)?.dev() != device
        {
            break;
        }
        found = Some(directory.to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_is_told() {
        let space = |free, inodes| Space {
            free,
            total: 4 << 20,
            inodes,
            device: 0,
        };
        let roomy = space(3 << 20, Some((1000, 1024)));
        assert_eq!(roomy.to_string(), "3.0 MiB of 4.0 MiB free");
        assert!(!roomy.is_full() && !space(3 << 20, None).is_full());
        assert!(space(1000, None).is_full());
        let short = space(3 << 20, Some((0, 128)));
        assert_eq!(
            short.to_string(),
            "3.0 MiB of 4.0 MiB and 0 of 128 inodes free"
        );
        assert!(short.is_full());
    }
}
