//! The metadata of a file, including the mount through which the file was reached.
//!
//! `statx` returns the mount since Linux 5.8. If the kernel or a system call filter does not
//! support `statx`, the mount is read from `/proc/self/fdinfo`. Without `/proc`, files on different
//! devices count as files on different mounts.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxAttributes, StatxFlags, openat};
use rustix::io::Errno;

/// The metadata of a file; a link is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The type and permissions.
    pub mode: u32,
    /// The number of the device that contains the file.
    pub device: u64,
    /// The number of the file on its device.
    pub inode: u64,
    /// The number of names of the file.
    pub links: u64,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The length in bytes.
    pub size: u64,
    /// The space on the disk, in units of 512 bytes.
    pub blocks: u64,
    /// The device number of a device node.
    pub(crate) node_device: u64,
    /// The time of the last modification: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// The time of the last access.
    pub(crate) atime: (i64, u32),
    /// The time of the last change of contents or metadata. Programs cannot set it except by
    /// setting the clock.
    pub ctime: (i64, u32),
    /// Whether the file may be immutable or append-only.
    pub(crate) is_flagged: bool,
    /// The mount that the file was reached through, if known.
    mount: Option<u64>,
}

impl Found {
    /// The kind of the file.
    #[must_use]
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// Whether the file is a directory.
    #[must_use]
    pub(crate) fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// The permission bits, including setuid, setgid and sticky.
    #[must_use]
    pub(crate) fn permissions(&self) -> Mode {
        Mode::from_raw_mode(self.mode & 0o7777)
    }

    /// Device and inode, which are the same for all names of a file.
    #[must_use]
    pub fn id(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether the file was reached through another mount than `root`.
    pub(super) fn is_on_other_mount(&self, root: &Self) -> bool {
        match (root.mount, self.mount) {
            (Some(own), Some(other)) => own != other,
            // On an overlay, files may have other device numbers than directories, so only
            // directories are compared.
            _ => self.is_dir() && self.device != root.device,
        }
    }

    /// Examines `name` in an open directory. An empty name means the directory itself.
    pub(super) fn of(directory: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        match rustix::fs::statx(directory, name, flags, wanted) {
            Ok(found) if found.stx_mask & StatxFlags::MNT_ID.bits() != 0 => Ok(Self {
                mode: found.stx_mode.into(),
                device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
                inode: found.stx_ino,
                links: found.stx_nlink.into(),
                uid: found.stx_uid,
                gid: found.stx_gid,
                size: found.stx_size,
                blocks: found.stx_blocks,
                node_device: rustix::fs::makedev(found.stx_rdev_major, found.stx_rdev_minor),
                mtime: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
                atime: (found.stx_atime.tv_sec, found.stx_atime.tv_nsec),
                ctime: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
                is_flagged: found
                    .stx_attributes
                    .intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND),
                mount: Some(found.stx_mnt_id),
            }),
            // An older kernel, or a system call filter that does not allow `statx`.
            Ok(_) | Err(Errno::NOSYS | Errno::PERM) => Self::without_statx(directory, name),
            Err(error) => Err(error),
        }
    }

    /// Examines `name` without `statx`, for older kernels.
    fn without_statx(directory: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let found = rustix::fs::statat(directory, name, flags)?;
        let mount = if name.is_empty() {
            mount_of(directory)
        } else {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = openat(directory, name, flags, Mode::empty())?;
            mount_of(file.as_fd())
        };
        let kind = FileType::from_raw_mode(found.st_mode);
        #[expect(
            clippy::useless_conversion,
            clippy::cast_possible_truncation,
            reason = "the fields have other types on other architectures; nanoseconds are below 2^30"
        )]
        Ok(Self {
            mode: found.st_mode,
            device: found.st_dev,
            inode: found.st_ino,
            links: found.st_nlink.into(),
            uid: found.st_uid,
            gid: found.st_gid,
            size: found.st_size.unsigned_abs(),
            blocks: found.st_blocks.unsigned_abs(),
            node_device: found.st_rdev,
            mtime: (found.st_mtime, found.st_mtime_nsec as u32),
            atime: (found.st_atime, found.st_atime_nsec as u32),
            ctime: (found.st_ctime, found.st_ctime_nsec as u32),
            is_flagged: matches!(kind, FileType::RegularFile | FileType::Directory),
            mount,
        })
    }
}

/// The mount that contains a path. A link is followed only if `follow` is true. The call does not
/// block on a file system that does not respond.
pub(super) fn mount_at(path: &Path, follow: bool) -> Option<u64> {
    let flags = match follow {
        true => OFlags::PATH | OFlags::CLOEXEC,
        false => OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW,
    };
    let file = openat(CWD, path, flags, Mode::empty()).ok()?;
    mount_of(file.as_fd())
}

/// The mount that an open file was reached through, from `/proc`.
pub(super) fn mount_of(file: BorrowedFd<'_>) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
    let info = super::read_lossy(path.as_ref()).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_the_same_without_statx() {
        let scratch = tempfile::tempdir().unwrap();
        crate::fs::write(&scratch.path().join("file"), b"text").unwrap();
        let directory = crate::fs::open(scratch.path()).unwrap();
        let root = Found::of(directory.as_fd(), OsStr::new("")).unwrap();
        for name in ["file", ""] {
            let name = OsStr::new(name);
            let mut old = Found::without_statx(directory.as_fd(), name).unwrap();
            assert!(old.is_flagged, "it may have flags");
            old.is_flagged = false;
            assert_eq!(old, Found::of(directory.as_fd(), name).unwrap());
            assert!(old.mount.is_some() && !old.is_on_other_mount(&root));
        }
        let directory = crate::fs::open("/".as_ref()).unwrap();
        let root = Found::of(directory.as_fd(), OsStr::new("")).unwrap();
        let proc = Found::without_statx(directory.as_fd(), OsStr::new("proc")).unwrap();
        assert!(proc.is_on_other_mount(&root));
        let unknown = Found {
            mount: None,
            ..proc
        };
        assert!(unknown.is_on_other_mount(&root), "the device is different");
    }
}
