//! Modes that this process changes for a moment, to read what its owner may not read.
//!
//! Several walks may be in one tree at a time: a package is packed while it is copied for a dependent. Each of them finds the mode
//! that the tree was given, and what one has opened up stays open until the last one has left it. So all of a process are told here.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, openat};
use rustix::io::{Errno, Result};

use super::found::Found;

/// Device and inode of a directory.
type Id = (u64, u64);

/// The directories that are opened up now. It is held for reading where a mode is looked at, and for writing where one is changed.
static OPENED_UP: RwLock<BTreeMap<Id, Before>> = RwLock::new(BTreeMap::new());

/// What a directory was before it was opened up.
#[derive(Debug)]
struct Before {
    mode: Mode,
    /// How many are in it now.
    inside: usize,
}

/// Somebody is in a directory that was opened up.
#[derive(Debug)]
pub(super) struct Inside(Id);

impl Inside {
    /// Leaves the directory. The last one to leave gives it its mode back; what cannot be restored is about to be removed, or not
    /// ours.
    pub(super) fn leave(self, directory: BorrowedFd<'_>) {
        let mut opened = write();
        if let Some(mode) = count_down(&mut opened, self.0) {
            let _ = rustix::fs::fchmod(directory, mode);
        }
        std::mem::forget(self);
    }
}

impl Drop for Inside {
    /// Leaves the directory with the mode that it has now.
    fn drop(&mut self) {
        count_down(&mut write(), self.0);
    }
}

/// The mode to be restored, where nobody is left inside.
fn count_down(opened: &mut BTreeMap<Id, Before>, id: Id) -> Option<Mode> {
    let before = opened.get_mut(&id)?;
    before.inside -= 1;
    let (mode, inside) = (before.mode, before.inside);
    if inside > 0 {
        return None;
    }
    opened.remove(&id);
    Some(mode)
}

/// Examines `name` in a directory; the empty name is the directory itself. Of a directory that is opened up it tells the mode
/// before that.
pub(super) fn look(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Found> {
    let opened = read();
    let found = Found::of(directory, name)?;
    Ok(as_before(&opened, found))
}

/// Opens a directory in which the permissions `need` are there, if they can be had, and tells what it was before.
///
/// # Errors
/// What the system answered.
pub(super) fn open_directory(
    at: BorrowedFd<'_>,
    name: &OsStr,
    flags: OFlags,
    need: Mode,
) -> Result<(OwnedFd, Found, Option<Inside>)> {
    {
        let opened = read();
        match openat(at, name, flags, Mode::empty()) {
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
    let (directory, before) = match openat(at, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let mode = Found::of(at, name)?.permissions();
            let change = |mode| rustix::fs::chmodat(at, name, mode, AtFlags::empty());
            change(mode | need).map_err(|_| Errno::ACCESS)?;
            match openat(at, name, flags, Mode::empty()) {
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
    let inside = match (opened.get_mut(&id), before) {
        (Some(known), _) => {
            known.inside += 1;
            Some(Inside(id))
        }
        (None, Some(mode)) => {
            opened.insert(id, Before { mode, inside: 1 });
            Some(Inside(id))
        }
        (None, None) => None,
    };
    Ok((directory, as_before(&opened, found), inside))
}

/// Opens a file for reading. Where its owner may not read it, the owner gets the permission for the moment of opening.
///
/// # Errors
/// What the system answered.
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

fn as_before(opened: &BTreeMap<Id, Before>, mut found: Found) -> Found {
    if found.is_dir()
        && let Some(before) = opened.get(&found.id())
    {
        found.mode = found.mode & !0o7777 | before.mode.as_raw_mode();
    }
    found
}

/// Whether permissions are missing that root could do without.
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

fn read() -> RwLockReadGuard<'static, BTreeMap<Id, Before>> {
    OPENED_UP.read().unwrap_or_else(PoisonError::into_inner)
}

fn write() -> RwLockWriteGuard<'static, BTreeMap<Id, Before>> {
    OPENED_UP.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};

    use rustix::process::Uid;

    use crate::fs::{self, Mounts, Step, Walk};

    /// The user that the tests are, or nobody's where they are root: root may enter what is closed.
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
                Step::Enter(found) => {
                    modes.push(found.mode & 0o7777);
                    if walk.path().ends_with(until) {
                        break;
                    }
                }
                Step::Entry(name, found) => {
                    modes.push(found.mode & 0o7777);
                    walk.open(&name).unwrap();
                }
                Step::Leave(_) => {}
            }
        }
        modes
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    /// A tree of `locked/inner/file`, each without a permission.
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
    fn walks_through_closed_directories_do_not_disturb_each_other() {
        let (_scratch, tree) = closed_tree();
        as_ordinary_user(|| {
            let mut first = Walk::to_read(&tree, Mounts::Refuse).unwrap();
            let mut second = Walk::to_change(&tree, Mounts::Refuse).unwrap();
            assert_eq!(modes_by_walking(&mut first, "inner"), [0o755, 0, 0]);
            assert_eq!(modes_by_walking(&mut second, "inner"), [0o755, 0, 0]);
            assert_eq!(modes_by_walking(&mut first, "nothing"), [0]);
            assert_eq!(mode(&tree.join("locked")), 0o700, "the second is inside");
            assert_eq!(modes_by_walking(&mut second, "nothing"), [0]);
            assert_eq!(mode(&tree.join("locked")), 0);
        });
    }

    #[test]
    fn a_walk_that_is_given_up_closes_what_it_opened() {
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
