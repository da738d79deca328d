//! Copies whole directory trees without following links.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat};
use rustix::io::Errno;

use super::attributes::copy_attributes;
use super::copied_file::{Buffer, CopiedFile, check};
use super::copy_helper::CopyHelper;
use super::descent::{Descent, WRITE};
use super::found::Found;
use super::walk::{Mounts, Walk, WalkStep};
use super::{Error, Result};

/// The longest path, in bytes, that is passed to the kernel in one call.
const PATH_PIECE: usize = 4000;

/// Copies a tree with its modes, times, links, hard links, holes and FIFOs, and with its owners if that is allowed.
///
/// `to` must be missing or an empty directory. Sockets and devices are omitted, because unpacking an archive creates none either. Files on
/// mounts below `from` are copied, too.
///
/// # Errors
/// The error of the system, with the path of the entry.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    copy_tree_until(from, to, &|| false)
}

/// Like [`copy_tree`], but fails when `stop` returns `true`. `stop` is called for each entry and
/// for each piece of a file.
///
/// # Errors
/// The error of the system, with the path of the entry.
pub(crate) fn copy_tree_until(from: &Path, to: &Path, stop: &dyn Fn() -> bool) -> Result<()> {
    copy(
        from,
        to,
        Mounts::Cross,
        Some(CopyHelper::default()),
        &|_| stop(),
    )
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
    copy(from, to, Mounts::Refuse, None, &visit)
}

/// Copies a tree. `stop` is called with the path of each entry. It is called again for each piece
/// of a file, unless `helper` copies the file.
fn copy(
    from: &Path,
    to: &Path,
    mounts: Mounts,
    helper: Option<CopyHelper>,
    stop: &dyn Fn(&Path) -> bool,
) -> Result<()> {
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
        buffer: Buffer::default(),
        helper,
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
            // Set the attributes last: creating entries changes the directory's time and may need
            // permissions that its final mode lacks.
            WalkStep::Leave(found) => {
                copy_attributes(&target, OsStr::new(""), &found)?;
                copy.inside.pop();
                target.keep_mode();
                target.leave()?;
            }
        }
    }
    copy.finish(from)
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
    /// The open root directory of the copy.
    root: OwnedFd,
    /// The device and inode of the root, which the copied tree must not contain.
    id: (u64, u64),
    /// The path of the current directory, relative to the root.
    inside: PathBuf,
    /// The first copied name of each file that has several names, by device and inode.
    first_names: HashMap<(u64, u64), PathBuf>,
    buffer: Buffer,
    helper: Option<CopyHelper>,
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
                let file = CopiedFile::open(source, name, found, (target, name))?;
                self.file(file, &source.path_of(name))?;
                self.note_name(name, found);
                return Ok(());
            }
            FileType::Fifo => {
                let mode = Mode::RUSR | Mode::WUSR;
                rustix::fs::mknodat(directory, name, FileType::Fifo, mode, 0)
                    .map_err(|error| target.failed("create the FIFO", name, error.into()))?;
            }
            _ => return Ok(()),
        }
        copy_attributes(target, name, found)?;
        self.note_name(name, found);
        Ok(())
    }

    /// Copies the contents of a file in this thread, or passes the file to the second thread.
    fn file(&mut self, file: CopiedFile, path: &Path) -> Result<()> {
        let not_taken = match &mut self.helper {
            Some(helper) => helper.take(file)?,
            None => Some(file),
        };
        let stop = || (self.stop)(path);
        not_taken.map_or(Ok(()), |file| file.copy(&mut self.buffer, &stop))
    }

    /// Remembers where a file with several names was first copied to.
    fn note_name(&mut self, name: &OsStr, found: &Found) {
        if found.links > 1 {
            let path = self.inside.join(name);
            self.first_names.insert(found.id(), path);
        }
    }

    fn finish(&mut self, root: &Path) -> Result<()> {
        let stop = || (self.stop)(root);
        self.helper.as_mut().map_or(Ok(()), |it| it.finish(&stop))
    }
}

/// Replaces an entry of a walk's current directory by a copy without other hard links. `copy` is
/// the temporary name of that copy.
pub(crate) fn detach(walk: &Walk, name: &OsStr, found: &Found, copy: &OsStr) -> Result<()> {
    let descent = walk.descent();
    let file = CopiedFile::open(walk, name, found, (descent, copy))?;
    file.copy(&mut Buffer::default(), &|| false)?;
    let directory = descent.directory();
    rustix::fs::renameat(directory, copy, directory, name)
        .map_err(|error| walk.failed("replace", name, error.into()))
}

/// Adds a hard link to a file below `root`. The path of the file may have any length and must not
/// contain links.
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
#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Seek, SeekFrom, Write};
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::super::remove::remove_tree;
    use super::super::tree::move_tree;
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

    /// 300 files in three directories, one of them large.
    fn make_many_files(directory: &Path) {
        for index in 0..300 {
            let below = directory.join((index % 3).to_string());
            std::fs::create_dir_all(&below).unwrap();
            std::fs::write(below.join(index.to_string()), format!("file {index}")).unwrap();
        }
        std::fs::write(directory.join("2/large"), vec![7; 3 << 20]).unwrap();
        std::fs::hard_link(directory.join("2/large"), directory.join("same")).unwrap();
        super::super::set_mode(&directory.join("1/100"), 0o4755).unwrap();
        super::super::set_mode(&directory.join("1"), 0o555).unwrap();
    }

    #[test]
    fn many_files_are_copied_by_two_threads() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        make_many_files(&from);
        copy_tree(&from, &to).unwrap();
        let mut walk = Walk::to_read(&from, Mounts::Refuse).unwrap();
        while let Some(step) = walk.next_step().unwrap() {
            let (path, found) = match step {
                WalkStep::Enter(found) => (walk.path().to_owned(), found),
                WalkStep::Entry(name, found) => (walk.path_of(&name), found),
                WalkStep::Leave(_) => continue,
            };
            let copied = to.join(path.strip_prefix(&from).unwrap());
            let metadata = std::fs::symlink_metadata(&copied).unwrap();
            assert_eq!(
                metadata.mode() & 0o7777,
                found.permissions().bits(),
                "{path:?}"
            );
            assert_eq!(
                (metadata.mtime(), metadata.mtime_nsec()),
                (found.mtime.0, found.mtime.1.into()),
                "{path:?}"
            );
            if !found.is_dir() {
                assert_eq!(
                    std::fs::read(&copied).unwrap(),
                    std::fs::read(&path).unwrap()
                );
            }
        }
        let inode = |name: &str| std::fs::metadata(to.join(name)).unwrap().ino();
        assert_eq!(inode("2/large"), inode("same"));
    }

    #[test]
    fn stop_ends_both_threads() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        make_many_files(&from);
        let checks = std::cell::Cell::new(0);
        let stop = || {
            checks.set(checks.get() + 1);
            checks.get() > 250
        };
        let error = copy_tree_until(&from, &to, &stop).unwrap_err();
        assert_eq!(error.source.to_string(), "stopped");
    }

    #[test]
    fn copy_into_the_tree_itself_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let from = scratch.path().join("from");
        std::fs::create_dir_all(from.join("a/b")).unwrap();
        for mounts in [Mounts::Cross, Mounts::Refuse] {
            let error = copy(&from, &from.join("a/copy"), mounts, None, &|_| false).unwrap_err();
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
