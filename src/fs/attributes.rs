//! Sets owner, mode and times of files. In all functions here, an empty name means the directory or
//! the open file itself.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::Result;
use super::descent::Descent;
use super::found::Found;

/// Copies owner, mode and times from `found` to an entry of the current directory of `target`.
pub(super) fn copy_attributes(target: &Descent, name: &OsStr, found: &Found) -> Result<()> {
    copy_attributes_to(target.directory(), name, found)
        .map_err(|(action, error)| target.failed(action, name, error.into()))
}

/// Copies owner, mode and times from `found` to an entry of an open directory. The owner is set
/// first, because a change of the owner clears the setuid bit. The error names the step that
/// failed.
pub(super) fn copy_attributes_to(
    target: BorrowedFd<'_>,
    name: &OsStr,
    found: &Found,
) -> std::result::Result<(), (&'static str, Errno)> {
    set_owner_if_allowed_at(target, name, found.uid, found.gid)
        .map_err(|error| ("set the owner of", error))?;
    if found.kind() != FileType::Symlink {
        set_mode_at(target, name, found.permissions())
            .map_err(|error| ("set the mode of", error))?;
    }
    let times = Timestamps {
        last_access: timespec(found.atime),
        last_modification: timespec(found.mtime),
    };
    set_times_at(target, name, &times).map_err(|error| ("set the times of", error))
}

fn timespec((seconds, nanoseconds): (i64, u32)) -> Timespec {
    Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    }
}

/// Sets the owner of an entry if this process may do that; see [`super::set_owner_if_allowed`].
pub(crate) fn set_owner_if_allowed_at(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    uid: u32,
    gid: u32,
) -> rustix::io::Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    match rustix::fs::chownat(directory, name, Some(uid), Some(gid), flags) {
        Err(Errno::PERM | Errno::ACCESS | Errno::INVAL) => Ok(()),
        other => other,
    }
}

/// Sets the mode of an entry that is not a link.
pub(crate) fn set_mode_at(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    mode: Mode,
) -> rustix::io::Result<()> {
    if name.is_empty() {
        rustix::fs::fchmod(directory, mode)
    } else {
        rustix::fs::chmodat(directory, name, mode, AtFlags::empty())
    }
}

/// Sets the times of an entry. A link is not followed.
pub(crate) fn set_times_at(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    times: &Timestamps,
) -> rustix::io::Result<()> {
    if name.is_empty() {
        rustix::fs::futimens(directory, times)
    } else {
        rustix::fs::utimensat(directory, name, times, AtFlags::SYMLINK_NOFOLLOW)
    }
}
