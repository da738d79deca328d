//! Whole directory trees: copied, moved and removed without following a link out of them.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::mkfifo;
use walkdir::WalkDir;

use super::{Context, Error, Result};

/// So much of a file is copied between two looks at whether to stop, in bytes.
const PIECE: u64 = 64 << 20;

/// Removes a file, a link or a whole tree; that there is nothing is fine. No link is followed.
///
/// Directories that their owner made unreadable are made readable first, so that a tree left by a script which was not
/// run by root goes as well.
///
/// # Errors
/// What the system answered; the path is the tree's.
pub fn remove_tree(path: &Path) -> Result<()> {
    match super::lookup(path)? {
        None => return Ok(()),
        Some(metadata) if !metadata.is_dir() => return super::remove_file_if_there(path),
        Some(_) => {}
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path);
            std::fs::remove_dir_all(path).at("remove the tree", path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.at("remove the tree", path),
    }
}

/// Gives the owner access to every directory below `path`, as far as that can be done.
fn open_up(path: &Path) {
    let _ = super::set_mode(path, 0o700);
    for entry in super::list(path).unwrap_or_default() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// Moves a tree: by a rename, or by copy and removal where the two places are on different file systems.
///
/// # Errors
/// What the system answered. After a failed copy the original is still whole.
pub fn move_tree(from: &Path, to: &Path) -> Result<()> {
    if rename_tree(from, to)? {
        return Ok(());
    }
    copy_tree(from, to)?;
    remove_tree(from)
}

/// Moves a tree by a rename. `false` where that cannot be done, for the two places are on different file systems.
///
/// # Errors
/// What the system answered.
pub fn rename_tree(from: &Path, to: &Path) -> Result<bool> {
    match super::rename(from, to) {
        Err(error) if error.source.kind() == io::ErrorKind::CrossesDevices => Ok(false),
        // To move a directory its owner must be allowed to write to it, for its `..` changes.
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

/// Copies a tree with its modes, times, links, hard links, holes and FIFOs, and its owners as far as we may set them.
///
/// `to` must not exist or be an empty directory. Sockets and devices are left out: no archive of ours holds a socket, and
/// we make no devices.
///
/// # Errors
/// What the system answered, with the path of the entry.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    copy_tree_until(from, to, &|| false)
}

/// [`copy_tree`] that fails as soon as `stop` says so, which is asked for each entry and each piece of a file.
///
/// # Errors
/// What the system answered, with the path of the entry.
pub fn copy_tree_until(from: &Path, to: &Path, stop: &dyn Fn() -> bool) -> Result<()> {
    let mut first_names: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut directories: Vec<(PathBuf, Metadata)> = Vec::new();
    for entry in WalkDir::new(from).sort_by_file_name() {
        let entry = entry
            .map_err(|error| {
                let path = error.path().unwrap_or(from).to_owned();
                (io::Error::from(error), path)
            })
            .or_else(|(error, path)| Err(error).at("read the tree", &path))?;
        check(stop).at("copy", entry.path())?;
        let target = match entry.path().strip_prefix(from) {
            Ok(below) if !below.as_os_str().is_empty() => to.join(below),
            _ => to.to_owned(),
        };
        let metadata = entry
            .metadata()
            .map_err(io::Error::from)
            .at("examine", entry.path())?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            if super::lookup(&target)?.is_none() {
                super::create_dir(&target)?;
            }
            directories.push((target, metadata));
            continue;
        }
        if metadata.nlink() > 1
            && let Some(first) = first_names.get(&(metadata.dev(), metadata.ino()))
        {
            super::hard_link(first, &target)?;
            continue;
        }
        if kind.is_symlink() {
            super::symlink(&super::read_link(entry.path())?, &target)?;
        } else if kind.is_file() {
            copy_file(entry.path(), &target, &metadata, stop)?;
        } else if kind.is_fifo() {
            mkfifo(&target, Mode::from_bits_truncate(0o600)).at("create the FIFO", &target)?;
        } else {
            continue;
        }
        copy_attributes(&target, &metadata)?;
        if metadata.nlink() > 1 {
            first_names.insert((metadata.dev(), metadata.ino()), target);
        }
    }
    // Directories last and the deepest first: what is made in a directory changes its time, and may need its mode open.
    for (directory, metadata) in directories.iter().rev() {
        copy_attributes(directory, metadata)?;
    }
    Ok(())
}

/// Copies the contents of a file, hole for hole.
fn copy_file(from: &Path, to: &Path, metadata: &Metadata, stop: &dyn Fn() -> bool) -> Result<()> {
    let mut source = super::open(from)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut target = super::open_with(&options, to)?;
    if metadata.blocks() * 512 >= metadata.size() {
        return copy_pieces(&mut source, u64::MAX, &mut target, stop)
            .map_err(|error| copy_error(from, to, error));
    }
    copy_data_segments(&mut source, &mut target, stop)
        .map_err(|error| copy_error(from, to, error))?;
    target.set_len(metadata.size()).at("resize", to)
}

/// Names the file that an error of a copy is about: it is the one written to that has no room.
fn copy_error(from: &Path, to: &Path, error: io::Error) -> Error {
    match super::is_no_space(&error) {
        true => Error::new("write", to, error),
        false => Error::new("copy", from, error),
    }
}

fn check(stop: &dyn Fn() -> bool) -> io::Result<()> {
    match stop() {
        true => Err(io::Error::other("stopped")),
        false => Ok(()),
    }
}

/// Copies what comes next, `length` bytes at the most. The kernel copies each piece, or has both files share it where it can.
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
            Err(rustix::io::Errno::NXIO) => return Ok(()),
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

/// Owner, mode and times, in this order: a change of owner takes the setuid bit away.
fn copy_attributes(path: &Path, metadata: &Metadata) -> Result<()> {
    super::set_owner_if_allowed(path, metadata.uid(), metadata.gid())?;
    if !metadata.file_type().is_symlink() {
        super::set_mode(path, metadata.permissions().mode() & 0o7777)?;
    }
    set_times(path, metadata)
}

fn set_times(path: &Path, metadata: &Metadata) -> Result<()> {
    utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &TimeSpec::new(metadata.atime(), metadata.atime_nsec()),
        &TimeSpec::new(metadata.mtime(), metadata.mtime_nsec()),
        UtimensatFlags::NoFollowSymlink,
    )
    .at("set the times of", path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn write_with_hole(path: &Path, size: u64) {
        let mut file = File::create(path).unwrap();
        file.seek(SeekFrom::Start(size)).unwrap();
        file.write_all(b"end").unwrap();
    }

    fn a_tree(directory: &Path) {
        std::fs::create_dir_all(directory.join("a/b")).unwrap();
        std::fs::write(directory.join("a/file"), "contents").unwrap();
        std::fs::hard_link(directory.join("a/file"), directory.join("a/b/same")).unwrap();
        symlink("nowhere", directory.join("a/dangling")).unwrap();
        write_with_hole(&directory.join("holes"), 64 << 20);
        std::fs::write(directory.join("tool"), "#!/bin/sh\n").unwrap();
        super::super::set_mode(&directory.join("tool"), 0o4755).unwrap();
        mkfifo(&directory.join("pipe"), Mode::from_bits_truncate(0o640)).unwrap();
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
    fn a_copy_keeps_modes_times_links_holes_and_leaves_sockets_out() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        a_tree(&from);
        copy_tree(&from, &to).unwrap();
        assert_copied(&to, &from);
        remove_tree(&from).unwrap();
        remove_tree(&to).unwrap();
        assert!(super::super::list(scratch.path()).unwrap().is_empty());
    }

    #[test]
    fn a_copy_ends_when_it_is_asked_to_stop() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        a_tree(&from);
        let looks = std::cell::Cell::new(0);
        let stop = || {
            looks.set(looks.get() + 1);
            looks.get() > 3
        };
        let error = copy_tree_until(&from, &to, &stop).unwrap_err();
        assert_eq!(error.source.to_string(), "stopped");
        assert_eq!(looks.get(), 4);
    }

    #[test]
    fn removing_a_tree_leaves_what_its_links_point_to() {
        let scratch = tempfile::tempdir().unwrap();
        let (kept, tree) = (scratch.path().join("kept"), scratch.path().join("tree"));
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), "kept").unwrap();
        std::fs::create_dir(&tree).unwrap();
        symlink(&kept, tree.join("link")).unwrap();
        remove_tree(&tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(kept.join("file").exists());
    }
}
