//! Reads file attributes that the kernel has cached, without accessing the file system, which may
//! not respond.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, makedev, statx};
use rustix::io::Errno;

use super::found::{mount_at, mount_of};
use super::mounts::volume;
use super::{Context, Result, parent};

/// Cached attributes of a file. They may be out of date on a network file system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Glimpse {
    /// The device number and the inode.
    pub(crate) id: (u64, u64),
    /// The creation time: seconds since 1970 and nanoseconds. Programs cannot set it except by
    /// setting the clock. `None` if the file system does not record it.
    pub(crate) born: Option<(i64, u32)>,
    /// The time of the last change of contents or metadata.
    pub(crate) changed: (i64, u32),
    /// The mount that the file was reached through, if known.
    mount: Option<u64>,
}

impl Glimpse {
    /// Examines the file or the topmost mount at a path. Returns `None` if nothing exists there. A
    /// link is not followed.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn of(path: &Path) -> Result<Option<Self>> {
        super::if_there(Self::at(path, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Like [`Self::of`], but follows links, including links to open files in `/proc`.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn behind(path: &Path) -> Result<Option<Self>> {
        super::if_there(Self::at(path, AtFlags::empty()))
    }

    /// Whether the file was certainly created before `time`. Without a creation time, the time of
    /// the last change is used.
    pub(crate) fn is_older_than(&self, time: (i64, u32)) -> bool {
        self.born.unwrap_or(self.changed) < time
    }

    /// The file system that the file was reached through, as [`volume`] describes it.
    pub(crate) fn volume(&self) -> Option<String> {
        volume(self.mount?)
    }

    fn at(path: &Path, flags: AtFlags) -> Result<Self> {
        match look(CWD, path, flags) {
            Ok(found) => {
                let mut found = Self::from(found);
                // Linux before 5.8 does not return the mount.
                found.mount = found.mount.or_else(|| mount_at(path, follows(flags)));
                Ok(found)
            }
            Err(Errno::NOSYS | Errno::PERM) => Self::without_statx(path, flags),
            Err(error) => Err(io::Error::from(error)).at("examine", path),
        }
    }

    /// Examines a path without `statx`, for older kernels. This may wait for the file system.
    fn without_statx(path: &Path, flags: AtFlags) -> Result<Self> {
        let found = match follows(flags) {
            false => super::lookup(path)?,
            true => Some(super::metadata(path)?),
        };
        let found = found
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            .at("examine", path)?;
        Ok(Self {
            id: (found.dev(), found.ino()),
            born: None,
            changed: (found.ctime(), nanoseconds(found.ctime_nsec())),
            mount: mount_at(path, follows(flags)),
        })
    }
}

impl From<Statx> for Glimpse {
    fn from(found: Statx) -> Self {
        let has = |field: StatxFlags| found.stx_mask & field.bits() != 0;
        Self {
            id: (
                makedev(found.stx_dev_major, found.stx_dev_minor),
                found.stx_ino,
            ),
            born: has(StatxFlags::BTIME)
                .then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec)),
            changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
            mount: has(StatxFlags::MNT_ID).then_some(found.stx_mnt_id),
        }
    }
}

fn follows(flags: AtFlags) -> bool {
    !flags.contains(AtFlags::SYMLINK_NOFOLLOW)
}

fn nanoseconds(number: i64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

fn look(directory: BorrowedFd<'_>, path: &Path, flags: AtFlags) -> rustix::io::Result<Statx> {
    let flags = flags | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    statx(directory, path, flags, wanted)
}

/// The device number and inode of the entry `name` in an open directory.
pub(super) fn id_in(
    directory: impl AsFd,
    name: &Path,
    flags: AtFlags,
) -> rustix::io::Result<(u64, u64)> {
    look(directory.as_fd(), name, flags).map(|found| Glimpse::from(found).id)
}

/// Whether something is mounted at a path. `false` if that is unknown.
///
/// # Errors
/// The error of the system.
pub(crate) fn is_mount_point(path: &Path) -> Result<bool> {
    let mount = Glimpse::of(path)?.and_then(|found| found.mount);
    is_other_mount(mount, path)
}

/// Whether an open file was reached through a mount at its path.
pub(super) fn is_mounted(file: &File, path: &Path) -> Result<bool> {
    let mount = match look(file.as_fd(), Path::new(""), AtFlags::EMPTY_PATH) {
        Ok(found) => Glimpse::from(found).mount,
        Err(_) => None,
    };
    let mount = mount.or_else(|| mount_of(file.as_fd()));
    is_other_mount(mount, path)
}

/// Whether `mount` differs from the mount that contains the parent directory of `path`.
fn is_other_mount(mount: Option<u64>, path: &Path) -> Result<bool> {
    let above = Glimpse::behind(parent(path))?.and_then(|found| found.mount);
    Ok(mount.is_some() && above.is_some() && mount != above)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs;

    #[test]
    fn creation_time_survives_other_times() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        fs::write(&file, b"").unwrap();
        let before = Glimpse::of(&file).unwrap().unwrap();
        let opened = fs::open(&file).unwrap();
        opened
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        let after = Glimpse::of(&file).unwrap().unwrap();
        assert_eq!((before.id, before.born), (after.id, after.born));
        assert!(!after.is_older_than((0, 0)));
        assert!(after.is_older_than((i64::MAX, 0)));
        assert!(Glimpse::of(&scratch.path().join("none")).unwrap().is_none());
        let old = Glimpse::without_statx(&file, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        assert_eq!((old.id, old.mount), (after.id, after.mount));
    }

    #[test]
    fn mounts_are_distinguished_from_directories() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(!is_mount_point(scratch.path()).unwrap());
        assert!(!is_mount_point(&scratch.path().join("none")).unwrap());
        assert!(is_mount_point("/proc".as_ref()).unwrap());
        let file = fs::open("/proc".as_ref()).unwrap();
        assert!(is_mounted(&file, "/proc".as_ref()).unwrap());
    }
}
