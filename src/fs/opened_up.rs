//! Temporarily changes the modes of files and directories that deny access to their owner, so that
//! a walk can read them.
//!
//! Several walks may read one tree at the same time, for example when a package is packed while it
//! is copied for a dependent. Each walk must see the original modes, and a directory must stay
//! accessible until the last walk has left it, so the changes of all walks are registered here.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::{Errno, Result};

use super::found::Found;

/// Device and inode of a directory.
type DirectoryId = (u64, u64);

/// All directories with changed modes. The lock is taken for reading to examine a mode, and for
/// writing to change one.
static OPENED_UP: RwLock<BTreeMap<DirectoryId, Original>> = RwLock::new(BTreeMap::new());

/// The original mode of a directory.
#[derive(Debug)]
struct Original {
    mode: Mode,
    /// The number of walks that are in the directory.
    visits: usize,
}

/// Represents a walk's stay in a directory with a changed mode.
#[derive(Debug)]
pub(super) struct Visit(DirectoryId);

impl Visit {
    /// Ends the visit, and restores the mode if no other walk is in the directory. Restoring fails
    /// only for a directory that is about to be removed or has another owner.
    pub(super) fn leave(self, directory: BorrowedFd<'_>) {
        let mut opened = write();
        if let Some(mode) = count_down(&mut opened, self.0) {
            let _ = rustix::fs::fchmod(directory, mode);
        }
        std::mem::forget(self);
    }
}

impl Drop for Visit {
    /// Ends a visit without restoring the mode.
    fn drop(&mut self) {
        count_down(&mut write(), self.0);
    }
}

/// Decreases the number of visits. Returns the original mode if none is left.
fn count_down(opened: &mut BTreeMap<DirectoryId, Original>, id: DirectoryId) -> Option<Mode> {
    let original = opened.get_mut(&id)?;
    original.visits -= 1;
    let (mode, visits) = (original.mode, original.visits);
    if visits > 0 {
        return None;
    }
    opened.remove(&id);
    Some(mode)
}

/// Examines `name` in a directory; an empty name means the directory itself. The result contains
/// the original mode even if the mode is changed at the moment.
pub(super) fn look(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Found> {
    let opened = read();
    let found = Found::of(directory, name)?;
    Ok(with_original_mode(&opened, found))
}

/// How a directory is opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    /// The flags for `open`.
    pub flags: OFlags,
    /// The permissions that are added to the directory's mode if they are missing and the mode may
    /// be changed.
    pub need: Mode,
    /// Whether the directory may be on a different mount than its parent.
    pub cross: bool,
}

impl Opening {
    /// Opens the directory with its present mode. If `cross` is false, the kernel refuses a mount
    /// point before it accesses the mounted file system, which may not respond. Older kernels and
    /// some system call filters do not support that; then a mount point is opened.
    fn open(self, at: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
        static IS_SUPPORTED: AtomicBool = AtomicBool::new(true);
        if !self.cross && IS_SUPPORTED.load(Ordering::Relaxed) {
            match openat2(at, name, self.flags, Mode::empty(), ResolveFlags::NO_XDEV) {
                Err(Errno::NOSYS | Errno::PERM) => IS_SUPPORTED.store(false, Ordering::Relaxed),
                other => return other,
            }
        }
        openat(at, name, self.flags, Mode::empty())
    }
}

/// Opens a directory. The returned metadata has the original mode.
///
/// # Errors
/// The error of the system. [`Errno::XDEV`] if [`Opening::cross`] is false and the system detects
/// that the directory is on another mount.
pub(super) fn open_directory(
    at: BorrowedFd<'_>,
    name: &OsStr,
    opening: Opening,
) -> Result<(OwnedFd, Found, Option<Visit>)> {
    let need = opening.need;
    {
        let opened = read();
        match opening.open(at, name) {
            Err(Errno::ACCESS) => {}
            Err(error) => return Err(error),
            Ok(directory) => {
                let found = Found::of(directory.as_fd(), OsStr::new(""))?;
                if !opened.contains_key(&found.id()) && !lacks(&directory, &found, need) {
                    return Ok((directory, found, None));
                }
            }
        }
    }
    let mut opened = write();
    let (directory, before) = match opening.open(at, name) {
        Err(Errno::ACCESS) => {
            let mode = Found::of(at, name)?.permissions();
            let change = |mode| rustix::fs::chmodat(at, name, mode, AtFlags::empty());
            change(mode | need).map_err(|_| Errno::ACCESS)?;
            match opening.open(at, name) {
                Ok(directory) => (directory, Some(mode)),
                Err(error) => {
                    let _ = change(mode);
                    return Err(error);
                }
            }
        }
        other => (other?, None),
    };
    let found = Found::of(directory.as_fd(), OsStr::new(""))?;
    let mode = found.permissions();
    let before =
        if lacks(&directory, &found, need) && rustix::fs::fchmod(&directory, mode | need).is_ok() {
            before.or(Some(mode))
        } else {
            before
        };
    let id = found.id();
    let visit = match (opened.get_mut(&id), before) {
        (Some(known), _) => {
            known.visits += 1;
            Some(Visit(id))
        }
        (None, Some(mode)) => {
            opened.insert(id, Original { mode, visits: 1 });
            Some(Visit(id))
        }
        (None, None) => None,
    };
    Ok((directory, with_original_mode(&opened, found), visit))
}

/// Opens a file for reading. If the file's mode denies reading to its owner, the mode is changed
/// until the file is open.
///
/// # Errors
/// The error of the system.
pub(super) fn open_file(directory: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd> {
    let open = || openat(directory, name, flags, Mode::empty());
    match open() {
        Err(Errno::ACCESS) => {}
        other => return other,
    }
    let _changing = write();
    let found = Found::of(directory, name)?;
    if found.kind() != FileType::RegularFile {
        return Err(Errno::ACCESS);
    }
    let mode = found.permissions();
    let change = |mode| rustix::fs::chmodat(directory, name, mode, AtFlags::empty());
    change(mode | Mode::RUSR).map_err(|_| Errno::ACCESS)?;
    let file = open();
    let _ = change(mode);
    file
}

fn with_original_mode(opened: &BTreeMap<DirectoryId, Original>, mut found: Found) -> Found {
    if found.is_dir()
        && let Some(original) = opened.get(&found.id())
    {
        found.mode = found.mode & !0o7777 | original.mode.as_raw_mode();
    }
    found
}

/// Whether `need` contains permissions that this process lacks. Root lacks none.
fn lacks(directory: &OwnedFd, found: &Found, need: Mode) -> bool {
    if found.permissions().contains(need) {
        return false;
    }
    let mut access = Access::READ_OK | Access::EXEC_OK;
    if need.contains(Mode::WUSR) {
        access |= Access::WRITE_OK;
    }
    rustix::fs::accessat(directory, ".", access, AtFlags::EACCESS).is_err()
}

fn read() -> RwLockReadGuard<'static, BTreeMap<DirectoryId, Original>> {
    OPENED_UP.read().unwrap_or_else(PoisonError::into_inner)
}

fn write() -> RwLockWriteGuard<'static, BTreeMap<DirectoryId, Original>> {
    OPENED_UP.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};

    use rustix::process::Uid;

    use crate::fs::{self, Mounts, Walk, WalkStep};

    /// Runs as user 65534 if the tests run as root, because modes do not restrict root.
    fn as_ordinary_user(run: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let done = scope.spawn(|| {
                let user = Uid::from_raw(65534);
                if rustix::process::geteuid().is_root() {
                    rustix::thread::set_thread_res_uid(None, user, None).unwrap();
                }
                run();
            });
            done.join().unwrap();
        });
    }

    fn modes_by_walking(walk: &mut Walk, until: &str) -> Vec<u32> {
        let mut modes = Vec::new();
        while let Some(step) = walk.next_step().unwrap() {
            match step {
                WalkStep::Enter(found) => {
                    modes.push(found.mode & 0o7777);
                    if walk.path().ends_with(until) {
                        break;
                    }
                }
                WalkStep::Entry(name, found) => {
                    modes.push(found.mode & 0o7777);
                    walk.open(&name).unwrap();
                }
                WalkStep::Leave(_) => {}
            }
        }
        modes
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    /// A tree with `locked/inner/file`, all without permissions.
    fn closed_tree() -> (tempfile::TempDir, PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let tree = scratch.path().join("tree");
        let inner = tree.join("locked/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(&inner.join("file"), b"text").unwrap();
        for path in [&inner.join("file"), &inner, &tree.join("locked"), &tree] {
            fs::set_owner_if_allowed(path, 65534, 65534).unwrap();
            fs::set_mode(path, if *path == tree { 0o755 } else { 0 }).unwrap();
        }
        fs::set_mode(scratch.path(), 0o755).unwrap();
        (scratch, tree)
    }

    #[test]
    fn concurrent_walks_restore_modes_after_the_last_one() {
        let (_scratch, tree) = closed_tree();
        as_ordinary_user(|| {
            let mut first = Walk::to_read(&tree, Mounts::Refuse).unwrap();
            let mut second = Walk::to_change(&tree, Mounts::Refuse).unwrap();
            assert_eq!(modes_by_walking(&mut first, "inner"), [0o755, 0, 0]);
            assert_eq!(modes_by_walking(&mut second, "inner"), [0o755, 0, 0]);
            assert_eq!(modes_by_walking(&mut first, "nothing"), [0]);
            assert_eq!(
                mode(&tree.join("locked")),
                0o700,
                "the second walk is inside"
            );
            assert_eq!(modes_by_walking(&mut second, "nothing"), [0]);
            assert_eq!(mode(&tree.join("locked")), 0);
        });
    }

    #[test]
    fn dropped_walk_restores_modes() {
        let (_scratch, tree) = closed_tree();
        as_ordinary_user(|| {
            let mut walk = Walk::to_read(&tree, Mounts::Refuse).unwrap();
            modes_by_walking(&mut walk, "inner");
            assert_eq!(mode(&tree.join("locked")), 0o500);
            drop(walk);
            assert_eq!(mode(&tree.join("locked")), 0);
        });
    }
}
