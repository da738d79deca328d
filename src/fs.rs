//! `std::fs` with the path in the error, and operations on files and trees that the standard library lacks.
//!
//! All other modules use this one instead of `std::fs` (clippy enforces that), so each error
//! message about a file contains its path.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that calls std::fs: it adds the path"
)]

use std::ffi::OsStr;
use std::fs::{DirEntry, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempPath};

mod attributes;
mod child;
mod copied_file;
mod copy;
mod copy_helper;
mod covered;
mod descent;
mod error;
#[cfg(test)]
mod fixtures;
mod found;
mod glimpse;
mod in_root;
mod lease;
mod made;
mod mounts;
mod opened_up;
mod pinned;
mod record;
mod regular;
mod remove;
mod space;
mod tree;
mod umask;
mod walk;

pub(crate) use attributes::{set_mode_at, set_owner_if_allowed_at, set_times_at};
pub(crate) use child::ChildDirectory;
pub(crate) use copy::{
    copy_tree, copy_tree_until, copy_tree_visiting, copy_tree_without_mounts, detach, link_below,
};
pub(crate) use covered::{Covered, covered};
use error::{CLEAR_FLAGS, COPY_INTO_ITSELF, CROSS_MOUNT, UNMOUNT, is_no_space};
pub use error::{Context, Error, Result};
pub(crate) use error::{if_there, is_no_space_behind, is_read_only_behind};
#[cfg(test)]
pub(crate) use fixtures::{
    bind_file, flag, make_deep, mount_memory, mount_overlay, mount_read_only, require,
    require_root, scratch_for_deep_trees,
};
pub use found::Found;
pub(crate) use glimpse::{Glimpse, is_mount_point};
pub(crate) use in_root::{open_in_root, path_in_root};
pub(crate) use lease::remove_abandoned_files;
pub(crate) use lease::{
    LeasedDirectory, LeasedFile, lock_directory, remove_abandoned, remove_abandoned_older,
    try_lock_file, wait_until_free,
};
pub use made::MadeDirectories;
pub(crate) use mounts::{Mount, MountPoint, is_mounted_at, mount_points, mounts, unmount};
pub(crate) use pinned::Pinned;
pub use record::{Change, Difference, Record};
pub(crate) use regular::{beginning, create_file, open_file, open_regular, open_regular_to_read};
pub(crate) use remove::{clear_flags, remove_each, remove_tree, remove_tree_in};
pub use space::{Space, space};
pub(crate) use space::{disk_usage, is_of_kernel, is_volatile_or_overlay, noexec};
pub(crate) use tree::{move_tree, rename_tree};
pub(crate) use umask::{forbid_writing_by_others, mode_of_results, restore_umask};
pub use walk::Mounts;
pub(crate) use walk::{Walk, WalkStep};

/// The prefix of temporary files; see [`write_atomic`].
const WRITE_PREFIX: &str = ".bosh-agent-write-";

/// Opens a file for reading.
///
/// # Errors
/// As `std::fs::File::open`.
pub(crate) fn open(path: &Path) -> Result<File> {
    File::open(path).at("open", path)
}

/// Opens a file with these options.
///
/// # Errors
/// As `std::fs::OpenOptions::open`.
pub(crate) fn open_with(options: &OpenOptions, path: &Path) -> Result<File> {
    options.open(path).at("open", path)
}

/// Creates a file, or truncates an existing one.
///
/// # Errors
/// As `std::fs::File::create`.
pub(crate) fn create(path: &Path) -> Result<File> {
    File::create(path).at("create", path)
}

/// Reads a whole file.
///
/// # Errors
/// As `std::fs::read`.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).at("read", path)
}

/// Reads a whole text file; bytes that are not UTF-8 are replaced.
///
/// # Errors
/// As `std::fs::read`.
pub(crate) fn read_lossy(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&read(path)?).into_owned())
}

/// Reads at most `limit` bytes at the end of a text file; bytes that are not UTF-8 are replaced.
///
/// # Errors
/// As [`open_file`].
pub(crate) fn read_end(path: &Path, limit: u64) -> Result<String> {
    let mut file = open_file(path)?;
    let size = file.metadata().at("examine", path)?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(limit)))
        .at("read", path)?;
    let mut text = Vec::new();
    file.take(limit).read_to_end(&mut text).at("read", path)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Reads a text file in blocks of whole lines. A line that is longer than 64 KiB is divided. Bytes that are not UTF-8 are replaced.
///
/// # Errors
/// As [`open_file`].
pub(crate) fn for_each_block(path: &Path, mut visit: impl FnMut(&str)) -> Result<()> {
    let mut file = open_file(path)?;
    let mut buffer = vec![0; 64 * 1024];
    // The length of the incomplete line that the previous block left at the beginning of the
    // buffer.
    let mut kept = 0;
    loop {
        let read = file.read(&mut buffer[kept..]).at("read", path)?;
        let seen = kept + read;
        let end = match buffer[..seen].iter().rposition(|byte| *byte == b'\n') {
            _ if read == 0 => seen,
            Some(last) => last + 1,
            None if seen == buffer.len() => seen,
            None => 0,
        };
        if end > 0 {
            visit(&String::from_utf8_lossy(&buffer[..end]));
        }
        if read == 0 {
            return Ok(());
        }
        buffer.copy_within(end..seen, 0);
        kept = seen - end;
    }
}

/// Writes a whole file.
///
/// # Errors
/// As `std::fs::write`.
pub fn write(path: &Path, contents: &[u8]) -> Result<()> {
    std::fs::write(path, contents).at("write", path)
}

/// Replaces the contents of a file atomically: readers find either the old contents or the new
/// ones, even after a crash. The temporary file gets `mode` before the contents are written,
/// regardless of the umask. If a crash leaves a temporary file, [`remove_abandoned`] removes it.
///
/// # Errors
/// The error of the system; the file is then unchanged.
pub(crate) fn write_atomic(path: &Path, contents: &[u8], mode: u32) -> Result<()> {
    let file = LeasedFile::create(parent(path), WRITE_PREFIX, "")?;
    set_mode(file.path(), mode)?;
    let mut open = file.file();
    open.write_all(contents).at("write", path)?;
    open.sync_all().at("sync", path)?;
    file.persist(path)
}

/// Removes the temporary files that dead processes left in a directory during [`write_atomic`].
pub(crate) fn remove_abandoned_writes(directory: &Path) {
    remove_abandoned(directory, WRITE_PREFIX, None);
}

/// An empty file with mode 0600 in the directory of `path`, removed unless it is [persisted](persist).
///
/// # Errors
/// The error of the system.
pub(crate) fn temporary_next_to(path: &Path) -> Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".bosh-agent-")
        .tempfile_in(parent(path))
        .at("create a temporary file next to", path)
}

/// Renames a temporary file to its final name `path`, replacing an existing file.
///
/// # Errors
/// The error of the system; the temporary file is then removed, and `path` is unchanged.
pub(crate) fn persist(temporary: TempPath, path: &Path) -> Result<()> {
    temporary
        .persist(path)
        .map_err(|error| error.error)
        .at("rename a temporary file to", path)
}

/// Creates a directory in an existing one.
///
/// # Errors
/// As `std::fs::create_dir`.
pub fn create_dir(path: &Path) -> Result<()> {
    explain_dangling_link(path, std::fs::create_dir(path))
}

/// Creates a directory in an existing one. The new mode is `mode` without the bits of the umask.
///
/// # Errors
/// As `std::fs::create_dir`.
pub(crate) fn create_dir_with_mode(path: &Path, mode: u32) -> Result<()> {
    explain_dangling_link(path, std::fs::DirBuilder::new().mode(mode).create(path))
}

/// Replaces the error of a failed directory creation if the cause is a dangling link. The system
/// reports only that a file exists or does not exist.
fn explain_dangling_link(path: &Path, result: io::Result<()>) -> Result<()> {
    result
        .map_err(|error| dangling_link(path).unwrap_or(error))
        .at("create the directory", path)
}

/// The error about a dangling link at `path` or above it.
fn dangling_link(path: &Path) -> Option<io::Error> {
    let is_dangling = |path: &&Path| {
        lookup(path).is_ok_and(|found| found.is_some_and(|metadata| metadata.is_symlink()))
            && metadata(path).is_err_and(|error| error.is_not_found())
    };
    let link = path.ancestors().find(is_dangling)?;
    let target = read_link(link).ok()?;
    Some(io::Error::new(
        io::ErrorKind::NotADirectory,
        format!(
            "`{}` is a link to `{}`, which does not exist",
            link.display(),
            target.display()
        ),
    ))
}

/// Creates a directory and its missing parents.
///
/// # Errors
/// As `std::fs::create_dir_all`.
pub fn create_dir_all(path: &Path) -> Result<()> {
    explain_dangling_link(path, std::fs::create_dir_all(path))
}

/// Creates a directory and its missing parents. Their mode is `mode` without the bits of the umask.
///
/// # Errors
/// As `std::fs::create_dir_all`.
pub(crate) fn create_dir_all_with_mode(path: &Path, mode: u32) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    explain_dangling_link(path, builder.recursive(true).mode(mode).create(path))
}

/// Removes a file or a link.
///
/// # Errors
/// As `std::fs::remove_file`.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    std::fs::remove_file(path).at("remove", path)
}

/// Removes an empty directory.
///
/// # Errors
/// As `std::fs::remove_dir`.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    std::fs::remove_dir(path).at("remove the directory", path)
}

/// Renames a file or directory within one file system.
///
/// # Errors
/// As `std::fs::rename`; the path in the error is the old name.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).at("rename", from)
}

/// Adds a name to the file at `original`.
///
/// # Errors
/// As `std::fs::hard_link`; the path in the error is the new name.
pub(crate) fn hard_link(original: &Path, link: &Path) -> Result<()> {
    std::fs::hard_link(original, link).at("link", link)
}

/// Creates a symbolic link from `link` to `target`.
///
/// # Errors
/// As `std::os::unix::fs::symlink`.
pub(crate) fn symlink(target: &Path, link: &Path) -> Result<()> {
    std::os::unix::fs::symlink(target, link).at("create the link", link)
}

/// Creates a FIFO with mode 0600.
///
/// # Errors
/// The error of the system.
pub(crate) fn make_fifo(path: &Path) -> Result<()> {
    let mode = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
    nix::unistd::mkfifo(path, mode).at("create the FIFO", path)
}

/// Reads the target of a symbolic link.
///
/// # Errors
/// As `std::fs::read_link`.
pub(crate) fn read_link(path: &Path) -> Result<PathBuf> {
    std::fs::read_link(path).at("read the link", path)
}

/// The absolute path without links, `.` and `..`.
///
/// # Errors
/// As `std::fs::canonicalize`.
pub(crate) fn canonicalize(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path).at("resolve", path)
}

/// The metadata of a file; a link is followed.
///
/// # Errors
/// As `std::fs::metadata`.
pub(crate) fn metadata(path: &Path) -> Result<Metadata> {
    std::fs::metadata(path).at("examine", path)
}

/// The metadata of a file or of a link itself; `None` if it does not exist.
///
/// # Errors
/// As `std::fs::symlink_metadata`, except that a missing file is not an error.
pub(crate) fn lookup(path: &Path) -> Result<Option<Metadata>> {
    if_there(std::fs::symlink_metadata(path).at("examine", path))
}

/// Sets the permission bits, including setuid, setgid and sticky.
///
/// # Errors
/// As `std::fs::set_permissions`.
pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).at("set the mode of", path)
}

/// The entries of a directory in the byte order of their names; none if the directory does not exist.
///
/// # Errors
/// As `std::fs::read_dir`, except that a missing directory is not an error.
pub(crate) fn list(path: &Path) -> Result<Vec<DirEntry>> {
    let Some(entries) = if_there(std::fs::read_dir(path).at("list", path))? else {
        return Ok(Vec::new());
    };
    let mut entries: Vec<DirEntry> = entries.collect::<io::Result<_>>().at("list", path)?;
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

/// Removes a file or a link, if it exists.
///
/// # Errors
/// As `std::fs::remove_file`, except that a missing file is not an error.
pub(crate) fn remove_file_if_there(path: &Path) -> Result<()> {
    if_there(remove_file(path)).map(drop)
}

/// Flushes a file or directory to the disk.
///
/// # Errors
/// As `std::fs::File::sync_all`.
pub(crate) fn sync(path: &Path) -> Result<()> {
    open(path)?.sync_all().at("sync", path)
}

/// Whether two paths lead to the same file. A path that does not exist leads to no file.
///
/// # Errors
/// As `std::fs::metadata`, except that a missing file is not an error.
pub(crate) fn same_file(a: &Path, b: &Path) -> Result<bool> {
    let id = |path| match metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        // A name that is too long cannot belong to a file.
        Err(error)
            if error.is_not_found() || error.source.kind() == io::ErrorKind::InvalidFilename =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    };
    let a = id(a)?;
    Ok(a.is_some() && a == id(b)?)
}

/// An identifier of the current boot of the machine. Device numbers identify devices only within
/// one boot. `None` if the identifier is unknown.
#[must_use]
pub(crate) fn boot() -> Option<String> {
    let text = read_lossy("/proc/sys/kernel/random/boot_id".as_ref()).ok()?;
    let id = text.trim();
    (!id.is_empty()).then(|| id.to_owned())
}

/// The nearest existing directory at or above `path`.
#[must_use]
pub(crate) fn nearest_existing(path: &Path) -> PathBuf {
    path.ancestors()
        .find(|ancestor| std::fs::metadata(ancestor).is_ok_and(|metadata| metadata.is_dir()))
        .filter(|ancestor| *ancestor != Path::new(""))
        .unwrap_or(Path::new("."))
        .to_owned()
}

/// Checks that files can be created in a directory, by creating one. Read-only mounts, quotas and
/// ACLs may prevent it.
///
/// # Errors
/// The error of the system.
pub(crate) fn check_writable(directory: &Path) -> Result<()> {
    // The file has no name if the file system supports that, so a killed run leaves nothing.
    tempfile::tempfile_in(directory)
        .map(drop)
        .at("write to", directory)
}

/// The directory of a path; `.` for a single name.
#[must_use]
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Sets the owner of a file or link, if this process may do that. Only root may change owners. In a user namespace, the new owner must
/// exist there.
///
/// # Errors
/// As `std::os::unix::fs::lchown`, except that missing privileges are not an error.
pub(crate) fn set_owner_if_allowed(path: &Path, uid: u32, gid: u32) -> Result<()> {
    match std::os::unix::fs::lchown(path, Some(uid), Some(gid)) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput
            ) =>
        {
            Ok(())
        }
        other => other.at("set the owner of", path),
    }
}

/// The file name, for short messages; the whole path if it has no file name.
#[must_use]
pub fn file_name(path: &Path) -> &OsStr {
    path.file_name().unwrap_or(path.as_os_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_end_with_lines() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        for before in [0, 1, 65_530, 65_535, 65_536, 131_070] {
            let text = format!("{}\n", "x\n".repeat(before / 2)) + "a wanted line\nthe end";
            write(&path, text.as_bytes()).unwrap();
            let (mut all, mut found) = (String::new(), 0);
            for_each_block(&path, |block| {
                found += block
                    .lines()
                    .filter(|line| *line == "a wanted line")
                    .count();
                all.push_str(block);
            })
            .unwrap();
            assert_eq!((found, all), (1, text), "{before}");
        }
        let long = format!("{}\nend\u{ff}", "x".repeat(200_000));
        write(&path, long.as_bytes()).unwrap();
        let mut all = String::new();
        for_each_block(&path, |block| all.push_str(block)).unwrap();
        assert_eq!(all, long);
        assert_eq!(read_end(&path, 3).unwrap(), "d\u{ff}");
    }

    #[test]
    fn file_is_replaced_atomically_and_abandoned_writes_are_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("settings.json");
        write(&path, b"old and longer").unwrap();
        set_mode(&path, 0o644).unwrap();
        write(&scratch.path().join(".bosh-agent-write-1-0"), b"partial").unwrap();

        write_atomic(&path, b"new", 0o600).unwrap();
        assert_eq!(read(&path).unwrap(), b"new");
        assert_eq!(metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(
            remove_abandoned(scratch.path(), WRITE_PREFIX, None).len(),
            1
        );
        assert_eq!(list(scratch.path()).unwrap().len(), 1);

        let error = write_atomic(&scratch.path().join("none/x"), b"", 0o600).unwrap_err();
        assert!(error.is_not_found());
    }
}
