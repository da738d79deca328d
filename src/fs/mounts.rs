//! Lists mounts, and unmounts file systems that a script mounted below our directories.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::found::mount_at;
use super::{Context, Result};

/// A mount in the mount namespace of this process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct MountPoint {
    /// The number of the mount, which may be reused after it is unmounted.
    pub id: u64,
    /// The path where it is mounted, without links.
    pub path: PathBuf,
}

/// A mount and its flags. A bind mount may have other flags than its file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Its number and path.
    pub point: MountPoint,
    /// `MS_RDONLY`, `MS_NOSUID`, `MS_NODEV`, `MS_NOEXEC` and the flags of access times, if set.
    pub flags: MsFlags,
}

/// All mounts. If several are mounted at one path, the oldest comes first.
///
/// # Errors
/// If `/proc` cannot be read.
pub(crate) fn mount_points() -> Result<Vec<MountPoint>> {
    Ok(mounts()?.into_iter().map(|mount| mount.point).collect())
}

/// All mounts with their flags. This does not block if a file system does not respond.
///
/// # Errors
/// If `/proc` cannot be read.
pub(crate) fn mounts() -> Result<Vec<Mount>> {
    // Read the table of this thread, because a thread may have its own mount namespace.
    let table = super::read("/proc/thread-self/mountinfo".as_ref())?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .collect())
}

/// What is mounted, for the mount with this number: the type, the source and the directory of the file system. This stays the same when
/// the file system is mounted again, also if it has no device with a number of its own, such as NFS or Btrfs. `None` if unknown, and for
/// file systems in memory, which are new after each mount. Also `None` for FUSE file systems whose source is the name of their program, as
/// with s3fs and fuse-overlayfs: all of them have the same source.
pub(super) fn volume(id: u64) -> Option<String> {
    let table = super::read("/proc/thread-self/mountinfo".as_ref()).ok()?;
    let table = String::from_utf8_lossy(&table);
    let is_it = |line: &&str| line.split(' ').next() == Some(id.to_string().as_str());
    volume_in(table.lines().find(is_it)?)
}

/// Parses the same line as [`parse`]. The fields that are used do not contain spaces.
fn volume_in(line: &str) -> Option<String> {
    let (mount, file_system) = line.split_once(" - ")?;
    let root = mount.split(' ').nth(3)?;
    let mut fields = file_system.split(' ');
    let (kind, source) = (fields.next()?, fields.next()?);
    let source = match kind {
        "tmpfs" | "ramfs" | "devtmpfs" | "hugetlbfs" => return None,
        fuse if fuse.starts_with("fuse") && !source.contains(['/', ':']) => return None,
        // All overlays have the same source.
        "overlay" => fields
            .next()?
            .split(',')
            .find(|it| it.starts_with("upperdir="))?,
        _ => source,
    };
    Some(format!("{kind}:{source}:{root}"))
}

/// Whether the path of a mount leads to that mount, and not to another one on top of it.
#[must_use]
pub(crate) fn is_mounted_at(mount: &MountPoint) -> bool {
    mount_at(&mount.path, false) == Some(mount.id)
}

/// Parses a line of `mountinfo`: number, parent, device, root, mount point, options of the mount, and fields that are not used.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let path = unescape(fields.nth(3)?);
    let options = fields.next()?.split(|byte| *byte == b',');
    Some(Mount {
        point: MountPoint {
            id,
            path: PathBuf::from(OsString::from_vec(path)),
        },
        flags: options.filter_map(flag).collect(),
    })
}

fn flag(option: &[u8]) -> Option<MsFlags> {
    Some(match option {
        b"ro" => MsFlags::MS_RDONLY,
        b"nosuid" => MsFlags::MS_NOSUID,
        b"nodev" => MsFlags::MS_NODEV,
        b"noexec" => MsFlags::MS_NOEXEC,
        b"noatime" => MsFlags::MS_NOATIME,
        b"nodiratime" => MsFlags::MS_NODIRATIME,
        b"relatime" => MsFlags::MS_RELATIME,
        _ => return None,
    })
}

/// Decodes backslashes with three octal digits. The kernel writes space, tab, newline and backslash in this form.
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

/// Unmounts a mount and all mounts below it. Processes that have open files there can still use
/// them.
///
/// If the mount is a bind mount of a shared mount, unmounting would also unmount mounts below it on
/// the host. The mount is made private first to prevent that.
///
/// # Errors
/// If this process may not unmount, or if nothing is mounted there.
pub(crate) fn unmount(path: &Path) -> Result<()> {
    unmount_at(path).at(super::UNMOUNT, path)
}

/// Like [`unmount`], but the error does not contain the path.
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
    fn volumes_are_named_by_type_source_and_root() {
        let start = "36 35 0:40 /sub/a\\040b /mnt rw,relatime shared:1";
        for (file_system, volume) in [
            ("nfs4 host:/x rw,addr=1", Some("nfs4:host:/x:/sub/a\\040b")),
            ("btrfs /dev/vdb rw", Some("btrfs:/dev/vdb:/sub/a\\040b")),
            ("tmpfs tmpfs rw,size=1k", None),
            ("fuse.s3fs s3fs rw", None),
            ("fuse.fuse-overlayfs fuse-overlayfs rw", None),
            (
                "fuse.sshfs me@host:/x rw",
                Some("fuse.sshfs:me@host:/x:/sub/a\\040b"),
            ),
            ("fuseblk /dev/vdc rw", Some("fuseblk:/dev/vdc:/sub/a\\040b")),
            (
                "overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w",
                Some("overlay:upperdir=/u:/sub/a\\040b"),
            ),
            ("overlay overlay ro,lowerdir=/l:/m", None),
        ] {
            let found = volume_in(&format!("{start} - {file_system}"));
            assert_eq!(found.as_deref(), volume, "{file_system}");
        }
        assert_eq!(volume_in(start), None);
        assert_eq!(volume(u64::MAX), None);
    }

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let line = b"36 35 98:0 /mnt1 /mnt\\0402/a\\134b rw,noatime master:1 - ext3 /dev/root rw";
        let expected = MountPoint {
            id: 36,
            path: PathBuf::from("/mnt 2/a\\b"),
        };
        let flags = MsFlags::MS_NOATIME;
        let expected = Mount {
            point: expected,
            flags,
        };
        assert_eq!(parse(line), Some(expected));
        let line = b"40 35 0:20 / /sys ro,nosuid,relatime - sysfs sysfs rw";
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_RELATIME;
        assert_eq!(parse(line).unwrap().flags, flags);
        assert_eq!(parse(b""), None);
        assert!(
            mount_points()
                .unwrap()
                .iter()
                .any(|mount| mount.path == Path::new("/proc"))
        );
    }
}
