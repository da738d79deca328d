//! Free space and properties of file systems.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{
    BPF_FS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC, FUSE_SUPER_MAGIC, FsType,
    OVERLAYFS_SUPER_MAGIC, PROC_SUPER_MAGIC, SECURITYFS_MAGIC, SYSFS_MAGIC, TMPFS_MAGIC,
    TRACEFS_MAGIC, statfs,
};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::{Context, Result, nearest_existing};
use crate::diag::Bytes;

/// The space of a file system that is available to the current user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free bytes; `u64::MAX` if the file system does not report them.
    pub free: u64,
    /// Total bytes; 0 if the file system does not report them.
    pub total: u64,
    /// Free and total inodes; `None` if the file system has no limit.
    pub inodes: Option<(u64, u64)>,
    /// The device number, which identifies the file system.
    pub device: u64,
}

/// A file system with fewer free bytes is too full for a compiler.
const FEW_BYTES: u64 = 1 << 20;

/// A file system with fewer free inodes is too full for a compiler.
const FEW_INODES: u64 = 256;

impl Space {
    /// Whether there is too little space for a compiler.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        self.free < FEW_BYTES || self.few_inodes().is_some()
    }

    fn few_inodes(&self) -> Option<(u64, u64)> {
        self.inodes.filter(|(free, _)| *free < FEW_INODES)
    }
}

impl std::fmt::Display for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.total {
            0 => f.write_str("its file system does not report its size"),
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

/// The space of the file system of `path`, which may be missing.
///
/// # Errors
/// The error of the system.
pub fn space(path: &Path) -> Result<Space> {
    let existing = nearest_existing(path);
    let stat = statvfs(&existing).at("measure the free space of", &existing)?;
    Ok(Space {
        total: stat.blocks().saturating_mul(stat.fragment_size()),
        // Some file systems do not report their size.
        free: match stat.blocks() {
            0 => u64::MAX,
            _ => stat.blocks_available().saturating_mul(stat.fragment_size()),
        },
        inodes: match stat.files() {
            0 => None,
            files => Some((stat.files_available(), files)),
        },
        device: super::metadata(&existing)?.dev(),
    })
}

/// Whether `path`, which may be missing, is on an overlay, on a FUSE file system or in memory.
///
/// The root of a container is usually an overlay. Such a directory cannot be the upper directory of
/// another overlay, and it is removed with the container.
///
/// # Errors
/// The error of the system.
pub(crate) fn is_volatile_or_overlay(path: &Path) -> Result<bool> {
    const NOT_A_DISK: [FsType; 3] = [OVERLAYFS_SUPER_MAGIC, FUSE_SUPER_MAGIC, TMPFS_MAGIC];
    let existing = nearest_existing(path);
    Ok(NOT_A_DISK.contains(&kind_of(&existing)?))
}

/// Whether the kernel generates the contents of files at `path` when they are read, as in `/proc`. Reading such a file may never end or
/// may block.
#[must_use]
pub(crate) fn is_of_kernel(path: &Path) -> bool {
    const OF_KERNEL: [FsType; 8] = [
        BPF_FS_MAGIC,
        CGROUP_SUPER_MAGIC,
        CGROUP2_SUPER_MAGIC,
        DEBUGFS_MAGIC,
        PROC_SUPER_MAGIC,
        SECURITYFS_MAGIC,
        SYSFS_MAGIC,
        TRACEFS_MAGIC,
    ];
    kind_of(path).is_ok_and(|kind| OF_KERNEL.contains(&kind))
}

fn kind_of(path: &Path) -> Result<FsType> {
    let found = statfs(path).at("examine the file system of", path)?;
    Ok(found.filesystem_type())
}

/// The mount point of the file system of `path`, if it is mounted with `noexec`. `None` if programs
/// can be run there.
///
/// # Errors
/// The error of the system.
pub(crate) fn noexec(path: &Path) -> Result<Option<PathBuf>> {
    let existing = nearest_existing(path);
    let device = super::metadata(&existing)?.dev();
    let mut found = None;
    for directory in existing.ancestors().filter(|it| *it != Path::new("")) {
        let stat = statvfs(directory).at("examine the file system of", directory)?;
        if !stat.flags().contains(FsFlags::ST_NOEXEC) || super::metadata(directory)?.dev() != device
        {
            break;
        }
        found = Some(directory.to_owned());
    }
    Ok(found)
}

/// The disk space that a tree uses, in bytes. A file with several hard links is counted once. Entries that cannot be read are not counted.
#[must_use]
pub(crate) fn disk_usage(tree: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    let mut directories = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in super::list(&directory).unwrap_or_default() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                directories.push(entry.path());
            }
            if metadata.nlink() < 2 || seen.insert((metadata.dev(), metadata.ino())) {
                bytes += metadata.blocks() * 512;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scarce_inodes_are_shown() {
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
