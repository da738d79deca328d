//! What is mounted, and taking away what a script has mounted below our directories.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use rustix::fs::CWD;

use super::{Context, Found, Result};

/// A mount of this process's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MountPoint {
    /// Its number, as long as it is mounted.
    pub id: u64,
    /// Where it is mounted, without links.
    pub path: PathBuf,
}

/// Everything that is mounted, the oldest of a place first.
///
/// # Errors
/// When `/proc` does not tell.
pub fn mount_points() -> Result<Vec<MountPoint>> {
    Ok(read_table()?.into_iter().map(|(mount, _)| mount).collect())
}

/// Everything that is mounted and not read-only, whatever the file system itself is.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn writable_mounts() -> Result<Vec<MountPoint>> {
    let writable = read_table()?
        .into_iter()
        .filter(|(_, access)| *access == Access::Writable);
    Ok(writable.map(|(mount, _)| mount).collect())
}

/// Whether a mount is the one that its path leads to: nothing covers it.
#[must_use]
pub fn is_mounted_at(mount: &MountPoint) -> bool {
    Found::of(CWD, mount.path.as_os_str()).is_ok_and(|found| found.mount() == Some(mount.id))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Writable,
    ReadOnly,
}

fn read_table() -> Result<Vec<(MountPoint, Access)>> {
    // A thread may be in a mount namespace of its own.
    let table = super::read("/proc/thread-self/mountinfo".as_ref())?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .collect())
}

/// One line of `mountinfo`: number, number above, device, root, mount point, options of the mount, and more that is not needed.
fn parse(line: &[u8]) -> Option<(MountPoint, Access)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let path = unescape(fields.nth(3)?);
    let mut options = fields.next()?.split(|byte| *byte == b',');
    let mount = MountPoint {
        id,
        path: PathBuf::from(OsString::from_vec(path)),
    };
    let is_read_only = options.any(|option| option == b"ro");
    Some((
        mount,
        if is_read_only {
            Access::ReadOnly
        } else {
            Access::Writable
        },
    ))
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let byte = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = byte {
            text.push(byte);
            rest = &after[3..];
        } else {
            text.push(*first);
            rest = after;
        }
    }
    text
}

/// Takes a mount away, with what is mounted below it. What is busy in it keeps it to itself.
///
/// The mount is made private first: a bind mount of a shared one is its peer, and what goes from below the one would go from
/// below the other, which is the host's.
///
/// # Errors
/// When it is not allowed, or when nothing is mounted there.
pub fn unmount(path: &Path) -> Result<()> {
    unmount_at(path).at(super::UNMOUNT, path)
}

/// The same for a path that only leads to the mount.
pub(super) fn unmount_at(path: &Path) -> io::Result<()> {
    const NOTHING: Option<&str> = None;
    mount(
        NOTHING,
        path,
        NOTHING,
        MsFlags::MS_PRIVATE | MsFlags::MS_REC,
        NOTHING,
    )?;
    Ok(umount2(
        path,
        MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let line = b"36 35 98:0 /mnt1 /mnt\\0402/a\\134b rw,noatime master:1 - ext3 /dev/root rw";
        let expected = MountPoint {
            id: 36,
            path: PathBuf::from("/mnt 2/a\\b"),
        };
        assert_eq!(parse(line), Some((expected, Access::Writable)));
        let line = b"40 35 0:20 / /sys ro,nosuid - sysfs sysfs rw";
        assert!(parse(line).is_some_and(|(_, access)| access == Access::ReadOnly));
        assert_eq!(parse(b""), None);
        assert!(
            mount_points()
                .unwrap()
                .iter()
                .any(|mount| mount.path == Path::new("/proc"))
        );
    }
}
