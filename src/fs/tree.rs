//! Copies and moves whole directory trees without following links.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, openat};
use rustix::io::Errno;

use super::descent::{Descent, WRITE};
use super::found::Found;
use super::remove::{clear_flags, remove_tree};
use super::walk::{Mounts, Walk, WalkStep};
use super::{Error, Result};

/// The largest length of a path that is passed to the kernel, in bytes.
const PATH_PIECE: usize = 4000;

/// The number of bytes that are copied between checks of `stop`.
const PIECE: u64 = 64 << 20;

/// Moves a tree: by a rename, or by copy and removal if the two paths are on different file systems.
///
/// # Errors
/// The error of the system. After a failed copy the original is unchanged.
pub(crate) fn move_tree(from: &Path, to: &Path) -> Result<()> {
    if rename_tree(from, to)? {
        return Ok(());
    }
    copy_tree(from, to)?;
    remove_tree(from)
}

/// Moves a tree by a rename. Returns `false` if the two paths are on different file systems.
///
/// Immutable and append-only flags of the tree's root and of its parent are cleared if they prevent it.
///
/// # Errors
/// The error of the system.
pub(crate) fn rename_tree(from: &Path, to: &Path) -> Result<bool> {
    let renamed = match super::rename(from, to) {
        Err(error) if error.source.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
            clear_flags(super::parent(from))?;
            clear_flags(from)?;
            super::rename(from, to)
        }
        other => other,
    };
    match renamed {
        Err(error) if error.source.kind() == io::ErrorKind::CrossesDevices => Ok(false),
        // Moving a directory needs the permission to write to it, because its `..` changes.
        Err(error) if error.source.kind() == io::ErrorKind::PermissionDenied => {
            let mode = super::metadata(from)?.permissions().mode() & 0o7777;
            super::set_mode(from, mode | 0o200)?;
            super::rename(from, to)?;
            super::set_mode(to, mode)?;
            Ok(true)
        }
        other => other.map(|()| true),
    }
}

/// Copies a tree with its modes, times, links, hard links, holes and FIFOs, and with its owners if that is allowed.
///
/// `to` must be missing or an empty directory. Sockets and devices are omitted, as they are not in archives that are unpacked. Mounts below
/// `from` are copied, too.
///
/// # Errors
/// The error of the system, with the path of the entry.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    copy_tree_until(from, to, &|| false)
}

/// Like [`copy_tree`], but fails when `stop` returns `true`. It is called for each entry and each piece of a file.
///
/// # Errors
/// The error of the system, with the path of the entry.
pub(crate) fn copy_tree_until(from: &Path, to: &Path, stop: &dyn Fn() -> bool) -> Result<()> {
    copy(from, to, Mounts::Cross, &|_| stop())
}

/// Like [`copy_tree`], but fails at a mount inside `from`.
///
/// # Errors
/// The error of the system, with the path of the entry.
pub(crate) fn copy_tree_without_mounts(from: &Path, to: &Path) -> Result<()> {
    copy_tree_visiting(from, to, &|_| ())
}

/// Like [`copy_tree_without_mounts`], but calls `visit` with the path of each entry before it is copied, and again for each piece of a
/// file.
///
/// # Errors
/// The error of the system, with the path of the entry.
pub(crate) fn copy_tree_visiting(from: &Path, to: &Path, visit: &dyn Fn(&Path)) -> Result<()> {
    let visit = |path: &Path| {
        visit(path);
        false
    };
    copy(from, to, Mounts::Refuse, &visit)
}

/// Copies a tree. `stop` is called with the path of each entry.
fn copy(from: &Path, to: &Path, mounts: Mounts, stop: &dyn Fn(&Path) -> bool) -> Result<()> {
    if super::lookup(to)?.is_none() {
        super::create_dir(to)?;
    }
    let mut source = Walk::to_read(from, mounts)?;
    let mut target = Descent::open(to, WRITE)?;
    let root = target.directory().try_clone_to_owned();
    let root = root.map_err(|error| target.failed("open the directory", OsStr::new(""), error))?;
    let mut copy = Copy {
        root,
        id: target.root().id(),
        inside: PathBuf::new(),
        first_names: HashMap::new(),
        stop,
    };
    let mut is_root = true;
    while let Some(step) = source.next_step()? {
        if let WalkStep::Enter(found) = &step
            && found.id() == copy.id
        {
            let circle = Errno::LOOP.into();
            return Err(Error::new(super::COPY_INTO_ITSELF, source.path(), circle));
        }
        let path = match &step {
            WalkStep::Entry(name, _) => source.path_of(name),
            WalkStep::Enter(_) | WalkStep::Leave(_) => source.path().to_owned(),
        };
        check(&|| stop(&path)).map_err(|error| Error::new("copy", &path, error))?;
        match step {
            WalkStep::Enter(_) if is_root => is_root = false,
            WalkStep::Enter(_) => {
                let name = source.path().file_name().unwrap_or_default().to_owned();
                create_and_enter(&mut target, &name)?;
                copy.inside.push(name);
            }
            WalkStep::Entry(name, found) => copy.entry(&source, &target, &name, &found)?,
            // Last, because creating entries in a directory changes its time and needs permissions.
            WalkStep::Leave(found) => {
                copy_attributes(&target, OsStr::new(""), &found)?;
                copy.inside.pop();
                target.keep_mode();
                target.leave()?;
            }
        }
    }
    Ok(())
}

fn create_and_enter(target: &mut Descent, name: &OsStr) -> Result<()> {
    match rustix::fs::mkdirat(target.directory(), name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(target.failed("create the directory", name, error.into())),
    }
    match target.enter(name, true)? {
        Some(_) => Ok(()),
        None => Err(target.failed(super::CROSS_MOUNT, name, Errno::XDEV.into())),
    }
}

struct Copy<'a> {
    /// The root of the copy.
    root: OwnedFd,
    /// The device and inode of the root, which the copied tree must not contain.
    id: (u64, u64),
    /// The current directory below it.
    inside: PathBuf,
    /// Files with several names: the first name in the copy.
    first_names: HashMap<(u64, u64), PathBuf>,
    stop: &'a dyn Fn(&Path) -> bool,
}

impl Copy<'_> {
    /// Copies an entry that is not a directory.
    fn entry(
        &mut self,
        source: &Walk,
        target: &Descent,
        name: &OsStr,
        found: &Found,
    ) -> Result<()> {
        let (directory, id) = (target.directory(), found.id());
        if found.links > 1
            && let Some(first) = self.first_names.get(&id)
        {
            return link_below(self.root.as_fd(), first, directory, name)
                .map_err(|error| target.failed("link", name, error.into()));
        }
        match found.kind() {
            FileType::Symlink => {
                let link_target = source.read_link(name)?;
                rustix::fs::symlinkat(link_target.as_slice(), directory, name)
                    .map_err(|error| target.failed("create the link", name, error.into()))?;
            }
            FileType::RegularFile => {
                let (file, path) = (source.open(name)?, source.path_of(name));
                let stop = || (self.stop)(&path);
                copy_file(file, &path, found, (target, name), &stop)?;
            }
            FileType::Fifo => {
                let mode = Mode::RUSR | Mode::WUSR;
                rustix::fs::mknodat(directory, name, FileType::Fifo, mode, 0)
                    .map_err(|error| target.failed("create the FIFO", name, error.into()))?;
            }
            _ => return Ok(()),
        }
        copy_attributes(target, name, found)?;
        if found.links > 1 {
            self.first_names.insert(id, self.inside.join(name));
        }
        Ok(())
    }
}

/// Replaces an entry of a walk's current directory by a copy of itself, which has no other name. `copy` is its temporary name.
pub(crate) fn detach(walk: &Walk, name: &OsStr, found: &Found, copy: &OsStr) -> Result<()> {
    let descent = walk.descent();
    let file = walk.open(name)?;
    copy_file(file, &walk.path_of(name), found, (descent, copy), &|| false)?;
    copy_attributes(descent, copy, found)?;
    let directory = descent.directory();
    rustix::fs::renameat(directory, copy, directory, name)
        .map_err(|error| walk.failed("replace", name, error.into()))
}

/// Adds a name to a file below `root`. The path of the file may have any length and must not contain links.
pub(crate) fn link_below(
    root: BorrowedFd<'_>,
    file: &Path,
    directory: BorrowedFd<'_>,
    name: &OsStr,
) -> rustix::io::Result<()> {
    if file.as_os_str().len() <= PATH_PIECE {
        return rustix::fs::linkat(root, file, directory, name, AtFlags::empty());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at: Option<OwnedFd> = None;
    let mut piece = PathBuf::new();
    for part in super::parent(file).components() {
        piece.push(part);
        if piece.as_os_str().len() > PATH_PIECE - 256 {
            let above = at.as_ref().map_or(root, AsFd::as_fd);
            at = Some(openat(above, &piece, flags, Mode::empty())?);
            piece.clear();
        }
    }
    let above = at.as_ref().map_or(root, AsFd::as_fd);
    let file = piece.join(file.file_name().unwrap_or_default());
    rustix::fs::linkat(above, &file, directory, name, AtFlags::empty())
}

/// Copies the contents of a file, with its holes, to a new one.
fn copy_file(
    mut source: File,
    from: &Path,
    found: &Found,
    (target, name): (&Descent, &OsStr),
    stop: &dyn Fn() -> bool,
) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(target.directory(), name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| target.failed("create", name, error.into()))?;
    let mut file = File::from(file);
    let copied = if found.blocks * 512 >= found.size {
        copy_pieces(&mut source, u64::MAX, &mut file, stop)
    } else {
        copy_data_segments(&mut source, &mut file, stop)
    };
    copied.map_err(|error| match super::is_no_space(&error) {
        // The target is on the full file system.
        true => target.failed("write", name, error),
        false => Error::new("copy", from, error),
    })?;
    if found.blocks * 512 < found.size {
        file.set_len(found.size)
            .map_err(|error| target.failed("resize", name, error))?;
    }
    Ok(())
}

fn check(stop: &dyn Fn() -> bool) -> io::Result<()> {
    match stop() {
        true => Err(io::Error::other("stopped")),
        false => Ok(()),
    }
}

/// Copies at most `length` bytes. The kernel copies each piece, or shares its blocks between the files if the file system supports that.
fn copy_pieces(
    source: &mut File,
    length: u64,
    target: &mut File,
    stop: &dyn Fn() -> bool,
) -> io::Result<()> {
    let mut left = length;
    loop {
        check(stop)?;
        let copied = io::copy(&mut Read::by_ref(source).take(left.min(PIECE)), target)?;
        left -= copied;
        if copied == 0 || left == 0 {
            return Ok(());
        }
    }
}

fn copy_data_segments(
    source: &mut File,
    target: &mut File,
    stop: &dyn Fn() -> bool,
) -> io::Result<()> {
    let mut offset = 0;
    loop {
        let start = match rustix::fs::seek(&*source, rustix::fs::SeekFrom::Data(offset)) {
            Ok(start) => start,
            // No data behind `offset`: the rest is a hole.
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&*source, rustix::fs::SeekFrom::Hole(start))?;
        source.seek(SeekFrom::Start(start))?;
        target.seek(SeekFrom::Start(start))?;
        copy_pieces(source, end - start, target, stop)?;
        target.flush()?;
        offset = end;
    }
}

/// Copies owner, mode and times, in this order, because a change of the owner clears the setuid bit. The empty name is the directory
/// itself.
fn copy_attributes(target: &Descent, name: &OsStr, found: &Found) -> Result<()> {
    set_owner_if_allowed_at(target.directory(), name, found.uid, found.gid)
        .map_err(|error| target.failed("set the owner of", name, error.into()))?;
    if found.kind() != FileType::Symlink {
        set_mode_at(target.directory(), name, found.permissions())
            .map_err(|error| target.failed("set the mode of", name, error.into()))?;
    }
    let times = Timestamps {
        last_access: timespec(found.atime),
        last_modification: timespec(found.mtime),
    };
    set_times_at(target.directory(), name, &times)
        .map_err(|error| target.failed("set the times of", name, error.into()))
}

fn timespec((seconds, nanoseconds): (i64, u32)) -> Timespec {
    Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    }
}

/// Sets the owner of an entry, or of the directory for the empty name, if that is allowed; see
/// [`super::set_owner_if_allowed`].
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

/// Sets the mode of an entry that is not a link, or of the directory for the empty name.
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

/// Sets the times of an entry, or of the directory for the empty name; a link is not followed.
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn write_with_hole(path: &Path, size: u64) {
        let mut file = File::create(path).unwrap();
        file.seek(SeekFrom::Start(size)).unwrap();
        file.write_all(b"end").unwrap();
    }

    fn make_tree(directory: &Path) {
        std::fs::create_dir_all(directory.join("a/b")).unwrap();
        std::fs::write(directory.join("a/file"), "contents").unwrap();
        std::fs::hard_link(directory.join("a/file"), directory.join("a/b/same")).unwrap();
        symlink("nowhere", directory.join("a/dangling")).unwrap();
        write_with_hole(&directory.join("holes"), 64 << 20);
        std::fs::write(directory.join("tool"), "#!/bin/sh\n").unwrap();
        super::super::set_mode(&directory.join("tool"), 0o4755).unwrap();
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o640);
        nix::unistd::mkfifo(&directory.join("pipe"), mode).unwrap();
        let _ = UnixListener::bind(directory.join("socket")).unwrap();
        super::super::set_mode(&directory.join("a/b"), 0o555).unwrap();
    }

    fn assert_copied(copy: &Path, original: &Path) {
        let of = |root: &Path, name: &str| std::fs::symlink_metadata(root.join(name)).unwrap();
        for name in ["a", "a/file", "a/b", "a/dangling", "holes", "tool", "pipe"] {
            assert_eq!(of(copy, name).mode(), of(original, name).mode(), "{name}");
            assert_eq!(of(copy, name).mtime(), of(original, name).mtime(), "{name}");
            assert_eq!(
                of(copy, name).mtime_nsec(),
                of(original, name).mtime_nsec(),
                "{name}"
            );
        }
        assert_eq!(
            std::fs::read(copy.join("a/b/same")).unwrap(),
            b"contents",
            "the hard link has the contents"
        );
        assert_eq!(of(copy, "a/file").ino(), of(copy, "a/b/same").ino());
        assert_eq!(
            std::fs::read_link(copy.join("a/dangling")).unwrap(),
            Path::new("nowhere")
        );
        assert!(
            of(copy, "holes").blocks() * 512 < 1 << 20,
            "the hole is kept"
        );
        assert_eq!(of(copy, "holes").size(), (64 << 20) + 3);
        assert!(
            super::super::lookup(&copy.join("socket"))
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn copy_keeps_everything_except_sockets() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        make_tree(&from);
        copy_tree(&from, &to).unwrap();
        assert_copied(&to, &from);
        remove_tree(&from).unwrap();
        remove_tree(&to).unwrap();
        assert!(super::super::list(scratch.path()).unwrap().is_empty());
    }

    #[test]
    fn copy_stops_on_request() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        make_tree(&from);
        let checks = std::cell::Cell::new(0);
        let stop = || {
            checks.set(checks.get() + 1);
            checks.get() > 3
        };
        let error = copy_tree_until(&from, &to, &stop).unwrap_err();
        assert_eq!(error.source.to_string(), "stopped");
        assert_eq!(checks.get(), 4);
    }

    #[test]
    fn copy_into_the_tree_itself_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let from = scratch.path().join("from");
        std::fs::create_dir_all(from.join("a/b")).unwrap();
        for mounts in [Mounts::Cross, Mounts::Refuse] {
            let error = copy(&from, &from.join("a/copy"), mounts, &|_| false).unwrap_err();
            assert!(error.is_copy_of_itself(), "{error}");
            assert_eq!(error.path, from.join("a/copy"));
            remove_tree(&from.join("a/copy")).unwrap();
        }
    }

    #[test]
    fn deep_trees_are_copied_with_their_hard_links() {
        let scratch = super::super::scratch_for_deep_trees();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        super::super::make_deep(&from, 15_000);
        // In the same directory, whose path is too long for other operations.
        let mut walk = Walk::to_change(&from, Mounts::Refuse).unwrap();
        while let Some(step) = walk.next_step().unwrap() {
            if let WalkStep::Entry(name, _) = step {
                let directory = walk.directory();
                rustix::fs::linkat(directory, &name, directory, "same", AtFlags::empty()).unwrap();
            }
        }
        copy_tree(&from, &to).unwrap();
        let mut walk = Walk::to_read(&to, Mounts::Refuse).unwrap();
        let (mut directories, mut files) = (0, Vec::new());
        while let Some(step) = walk.next_step().unwrap() {
            match step {
                WalkStep::Enter(_) => directories += 1,
                WalkStep::Entry(_, found) => files.push(found.id()),
                WalkStep::Leave(_) => {}
            }
        }
        assert_eq!((directories, files.len()), (15_001, 2));
        assert_eq!(files[0], files[1]);
        move_tree(&to, &scratch.path().join("moved")).unwrap();
        remove_tree(&from).unwrap();
        remove_tree(&scratch.path().join("moved")).unwrap();
    }
}
