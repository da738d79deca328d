//! Leases: temporary files and directories whose owner holds a lock (`flock`) on them, so that a
//! later run can remove abandoned ones.
//!
//! The kernel releases the lock when the owner dies, even after `kill -9`. A file or directory that
//! has the prefix of leases and is not locked is therefore abandoned.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use super::{Context, Error, Result};
use crate::diag::Chain;

/// The name of the locked file inside a leased directory.
const LOCK: &str = ".lock";

/// The maximum number of mounts on one directory that are unmounted.
const MOST_MOUNTS: usize = 100;

/// The interval between attempts to lock a file that is locked.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// The number of random names that are tried for a new lease.
const ATTEMPTS: u32 = 100;

/// A temporary file, which is renamed to its final name when it is complete.
#[derive(Debug)]
pub(crate) struct LeasedFile {
    path: PathBuf,
    file: File,
    persisted: bool,
}

impl LeasedFile {
    /// Creates and locks the file `directory/PREFIX…SUFFIX`. Its mode is 0666 without the bits of
    /// the umask.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn create(directory: &Path, prefix: &str, suffix: &str) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o666);
        let (path, file) = create_locked(directory, prefix, suffix, |path| {
            super::open_with(&options, path)
        })?;
        Ok(Self {
            path,
            file,
            persisted: false,
        })
    }

    /// The open file.
    #[must_use]
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The path.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Renames the file to its final name, replacing an existing file, and flushes the directory to the disk.
    ///
    /// # Errors
    /// The error of the system. If the rename failed, the file is removed and `target` is unchanged. If the flush failed, the file is at
    /// `target`.
    pub(crate) fn persist(self, target: &Path) -> Result<()> {
        self.rename(target)?;
        super::sync(super::parent(target))
    }

    /// Like [`persist`](Self::persist), but returns the file if it cannot be renamed.
    ///
    /// # Errors
    /// The error of the system, with the file if the rename failed.
    pub(crate) fn persist_or_return(
        mut self,
        target: &Path,
    ) -> std::result::Result<(), (Option<Self>, Error)> {
        if let Err(error) = super::rename(&self.path, target) {
            return Err((Some(self), error));
        }
        self.persisted = true;
        super::sync(super::parent(target)).map_err(|error| (None, error))
    }

    /// Like [`persist`](Self::persist), but does not flush the directory. The caller flushes it, and can thus distinguish a failed rename
    /// from a failed flush. After a failed flush, a crash of the machine may undo the rename.
    ///
    /// # Errors
    /// The error of the system: the file is removed, and `target` is unchanged.
    pub(crate) fn rename(mut self, target: &Path) -> Result<()> {
        super::rename(&self.path, target)?;
        self.persisted = true;
        Ok(())
    }
}

impl Drop for LeasedFile {
    fn drop(&mut self) {
        if !self.persisted
            && let Err(error) = super::remove_file_if_there(&self.path)
        {
            tracing::warn!(error = %Chain(&error), "could not remove a temporary file");
        }
    }
}

/// A temporary directory with a locked file in it.
#[derive(Debug)]
pub(crate) struct LeasedDirectory {
    path: PathBuf,
    lock: File,
    removed: bool,
}

impl LeasedDirectory {
    /// Creates `directory/PREFIX…` with mode 0700 and locks a file in it.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn create(directory: &Path, prefix: &str) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let (path, lock) = create_locked(directory, prefix, "", |path| {
            super::create_dir_with_mode(path, 0o700)?;
            super::open_with(&options, &path.join(LOCK)).inspect_err(|_| {
                // Creating the file failed, for example because the disk is full.
                let _ = super::remove_dir(path);
            })
        })?;
        Ok(Self {
            path,
            lock,
            removed: false,
        })
    }

    /// The path.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the directory still exists at its path. Another program may have removed it and
    /// created a different one there.
    #[must_use]
    pub(crate) fn is_there(&self) -> bool {
        is_still_there(&self.path.join(LOCK), &self.lock).unwrap_or(true)
    }

    /// Removes the directory and everything in it.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.removed = true;
        super::remove_tree(&self.path)
    }
}

impl Drop for LeasedDirectory {
    fn drop(&mut self) {
        if !self.removed
            && let Err(error) = super::remove_tree(&self.path)
        {
            tracing::warn!(error = %Chain(&error), "could not remove a temporary directory");
        }
    }
}

/// Creates and locks a file or directory with a new random name. Another process that runs
/// [`remove_abandoned`] may lock the new lease first; then the next name is tried.
fn create_locked(
    directory: &Path,
    prefix: &str,
    suffix: &str,
    create: impl Fn(&Path) -> Result<File>,
) -> Result<(PathBuf, File)> {
    let mut failure = None;
    for _ in 0..ATTEMPTS {
        // Add a random number, because another machine or container may use the same process ID.
        let random = uuid::Uuid::new_v4().as_fields().0;
        let process = std::process::id();
        let path = directory.join(format!("{prefix}{process}-{random:08x}{suffix}"));
        let file = match create(&path) {
            Ok(file) => file,
            // The name exists, or another process removed the new directory before the locked file was in it.
            Err(error)
                if matches!(
                    error.source.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
                ) =>
            {
                if super::lookup(directory)?.is_none() {
                    return Err(error);
                }
                failure = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            Ok(()) if is_still_there(&lock_of(&path), &file)? => return Ok((path, file)),
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                super::remove_tree(&path)?;
                return Err(error).at("lock", &path);
            }
        }
    }
    Err(failure.unwrap_or_else(|| Error {
        action: "create a temporary file in",
        path: directory.to_owned(),
        source: io::ErrorKind::AlreadyExists.into(),
    }))
}

/// The path of the file that is locked: the leased file itself, or the lock file in a leased
/// directory.
fn lock_of(path: &Path) -> PathBuf {
    if path.is_dir() {
        path.join(LOCK)
    } else {
        path.to_owned()
    }
}

/// Whether `path` still leads to the locked `file`.
fn is_still_there(path: &Path, file: &File) -> Result<bool> {
    let inode = file.metadata().at("examine", path)?.ino();
    Ok(super::lookup(path)?.is_some_and(|metadata| metadata.ino() == inode))
}

/// Creates a file if it is missing, and locks it until the returned file is dropped. `None` if another process holds the lock.
///
/// # Errors
/// If the file cannot be opened or locked.
pub(crate) fn try_lock_file(path: &Path) -> Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = super::open_regular(options, path)?
        .ok_or_else(super::regular::not_regular)
        .at("lock", path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).at("lock", path),
    }
}

/// Locks a directory until the returned file is dropped. Waits up to `limit` for another process. `None` if it still holds the lock then, or
/// if the directory cannot be locked, as on some network file systems.
pub(crate) fn lock_directory(path: &Path, limit: Duration) -> Option<File> {
    let directory = super::open(path).ok()?;
    let start = Instant::now();
    loop {
        match directory.try_lock() {
            Ok(()) => return Some(directory),
            Err(TryLockError::WouldBlock) if start.elapsed() < limit => {
                std::thread::sleep(LOCK_INTERVAL);
            }
            Err(_) => return None,
        }
    }
}

/// Waits until no process holds a lock on a file. Returns `false` if a lock is still held after
/// `limit`, or if `stop` returns `true`. A missing file counts as unlocked, and so does anything
/// that is not a regular file, such as a FIFO.
///
/// # Errors
/// If the file cannot be opened or locked.
pub(crate) fn wait_until_free(
    path: &Path,
    limit: Duration,
    stop: &dyn Fn() -> bool,
) -> Result<bool> {
    let Some(file) = super::if_there(super::open_regular_to_read(path))?.flatten() else {
        return Ok(true);
    };
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if start.elapsed() < limit && !stop() => {
                // `flock` itself has no time limit.
                std::thread::sleep(LOCK_INTERVAL);
            }
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error).at("lock", path),
        }
    }
}

/// Removes abandoned leases in `directory` whose names have this prefix, and returns their paths.
/// If a lease cannot be removed, only a warning is logged; the lease may get another name, and the
/// next run tries again.
///
/// `processes` is for leased directories with a file that the owner's child processes keep locked.
/// It contains the file's name, and the limit and stop function for [`wait_until_free`]: the child
/// processes may outlive the owner for a short time.
pub(crate) fn remove_abandoned(
    directory: &Path,
    prefix: &str,
    processes: Option<(&str, Duration, &dyn Fn() -> bool)>,
) -> Vec<PathBuf> {
    remove_abandoned_of_age((directory, prefix), (Duration::ZERO, Kinds::All), processes)
}

/// Like [`remove_abandoned`], but only for regular files. In a directory to which others can write, a directory with such a name is not the
/// agent's, and could be replaced while it is examined.
pub(crate) fn remove_abandoned_files(directory: &Path, prefix: &str) {
    remove_abandoned_of_age((directory, prefix), (Duration::ZERO, Kinds::Files), None);
}

/// Like [`remove_abandoned`], but only for leases that were not changed for `age`. On a file system
/// that several machines share, a lock of one machine may be invisible to the others.
pub(crate) fn remove_abandoned_older(directory: &Path, prefix: &str, age: Duration) {
    remove_abandoned_of_age((directory, prefix), (age, Kinds::All), None);
}

/// Which leases are removed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kinds {
    All,
    Files,
}

fn remove_abandoned_of_age(
    (directory, prefix): (&Path, &str),
    (age, kinds): (Duration, Kinds),
    processes: Option<(&str, Duration, &dyn Fn() -> bool)>,
) -> Vec<PathBuf> {
    let mut removed = Vec::new();
    let entries = super::list(directory).unwrap_or_else(|error| {
        warn(&error);
        Vec::new()
    });
    for entry in entries {
        let name = entry.file_name();
        if !name.as_bytes().starts_with(prefix.as_bytes()) {
            continue;
        }
        let path = entry.path();
        if !age.is_zero() && !is_older(&path, age) {
            continue;
        }
        // Hold the lock until the removal is complete. Otherwise, another process could use the
        // name meanwhile.
        let Some(_lock) = lock_abandoned(&path, kinds) else {
            continue;
        };
        if let Some((file, limit, stop)) = processes
            && !wait_until_free(&path.join(file), limit, stop).unwrap_or(true)
        {
            continue;
        }
        match remove_under_other_name(&path, prefix) {
            Ok(()) => removed.push(path),
            // Another process has removed the lock file first and is removing the rest.
            Err(error) if is_being_removed(&error) => {
                tracing::debug!(%error, "could not remove temporary files of an earlier run");
            }
            Err(error) => warn(&error),
        }
    }
    removed
}

fn is_older(path: &Path, age: Duration) -> bool {
    let changed = super::lookup(path).ok().flatten();
    let changed = changed.and_then(|it| it.modified().ok());
    changed.is_some_and(|it| it.elapsed().unwrap_or_default() >= age)
}

fn is_being_removed(error: &Error) -> bool {
    let kind = error.source.kind();
    matches!(
        kind,
        io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
    )
}

fn warn(error: &Error) {
    tracing::warn!(
        error = %Chain(error),
        hint = error.hint(),
        "could not remove temporary files of an earlier run; the next run tries again"
    );
}

/// Locks an abandoned lease. Returns `None` for a lease in use, and for a FIFO or link, which is not
/// a lease.
fn lock_abandoned(path: &Path, kinds: Kinds) -> Option<File> {
    uncover(path)?;
    let kind = super::lookup(path).ok()??.file_type();
    let lock = if kind.is_dir() && kinds == Kinds::All {
        path.join(LOCK)
    } else if kind.is_file() {
        path.to_owned()
    } else {
        return None;
    };
    let mut existing = OpenOptions::new();
    existing
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    let file = match super::open_with(&existing, &lock) {
        Ok(file) => file,
        // The lock file is missing: the owner has ended before creating it, or is about to create
        // it. Whichever process creates the file gets the lock.
        Err(error) if error.is_not_found() && kinds == Kinds::All => {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            super::open_with(&options, &lock).ok()?
        }
        Err(_) => return None,
    };
    file.try_lock().ok()?;
    is_still_there(&lock, &file).ok()?.then_some(file)
}

/// Unmounts file systems that a script has mounted over a leased directory, because they hide the lock file. `None` if that fails.
fn uncover(path: &Path) -> Option<()> {
    for _ in 0..MOST_MOUNTS {
        if !super::is_mount_point(path).ok()? {
            return Some(());
        }
        super::unmount(path).inspect_err(warn).ok()?;
    }
    None
}

/// Renames a tree and removes it, so that no process locks it during the removal.
fn remove_under_other_name(path: &Path, prefix: &str) -> Result<()> {
    let doomed = path.with_file_name(format!(
        "{prefix}removed-by-{}-{}",
        std::process::id(),
        super::metadata(path)?.ino()
    ));
    if !super::rename_tree(path, &doomed)? {
        return super::remove_tree(path);
    }
    super::remove_tree(&doomed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_abandoned_files_are_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let held = LeasedDirectory::create(scratch.path(), ".ours-").unwrap();
        let file = LeasedFile::create(scratch.path(), ".ours-", ".partial").unwrap();
        std::fs::create_dir(scratch.path().join(".ours-dead")).unwrap();
        std::fs::write(scratch.path().join(".ours-dead/.lock"), "").unwrap();
        std::fs::write(scratch.path().join(".ours-1.partial"), "partial").unwrap();
        std::fs::write(scratch.path().join("theirs"), "").unwrap();

        let mut removed = remove_abandoned(scratch.path(), ".ours-", None);
        removed.sort();
        assert_eq!(
            removed,
            [".ours-1.partial", ".ours-dead"].map(|name| scratch.path().join(name))
        );
        assert!(held.path().exists() && file.path().exists());

        assert!(held.is_there());
        std::fs::remove_dir_all(held.path()).unwrap();
        std::fs::create_dir(held.path()).unwrap();
        assert!(!held.is_there(), "it is another directory");

        let (held_path, file_path) = (held.path().to_owned(), file.path().to_owned());
        held.remove().unwrap();
        drop(file);
        assert!(!held_path.exists() && !file_path.exists());
        assert!(scratch.path().join("theirs").exists());
    }

    #[test]
    fn only_files_are_removed_where_others_can_write() {
        let scratch = tempfile::tempdir().unwrap();
        let held = LeasedFile::create(scratch.path(), ".ours-", "").unwrap();
        std::fs::create_dir(scratch.path().join(".ours-directory")).unwrap();
        std::fs::write(scratch.path().join("theirs"), "").unwrap();
        std::os::unix::fs::symlink("theirs", scratch.path().join(".ours-link")).unwrap();
        std::fs::write(scratch.path().join(".ours-abandoned"), "").unwrap();
        let before = super::super::list(scratch.path()).unwrap().len();
        remove_abandoned_files(scratch.path(), ".ours-");
        assert!(!scratch.path().join(".ours-abandoned").exists());
        let left = super::super::list(scratch.path()).unwrap().len();
        assert_eq!(left, before - 1);
        assert!(held.path().exists());
    }

    #[test]
    fn new_directory_is_not_removed_before_it_is_locked() {
        let scratch = tempfile::tempdir().unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        let held = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    remove_abandoned(scratch.path(), ".ours-", None);
                }
            });
            let held: Vec<LeasedDirectory> = (0..60)
                .map(|_| LeasedDirectory::create(scratch.path(), ".ours-").unwrap())
                .collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            held
        });
        for directory in held {
            assert!(directory.path().join(LOCK).exists());
        }
    }

    #[test]
    fn nothing_but_a_file_is_locked() {
        let scratch = tempfile::tempdir().unwrap();
        let fifo = scratch.path().join("fifo");
        super::super::make_fifo(&fifo).unwrap();
        assert!(wait_until_free(&fifo, Duration::ZERO, &|| true).unwrap());
        let error = try_lock_file(&fifo).unwrap_err();
        assert!(
            error.source.to_string().contains("not a regular file"),
            "{error}"
        );
        let file = scratch.path().join("file");
        let held = try_lock_file(&file).unwrap();
        assert!(!wait_until_free(&file, Duration::ZERO, &|| true).unwrap());
        drop(held);
        assert!(wait_until_free(&file, Duration::ZERO, &|| true).unwrap());
    }

    #[test]
    fn persisted_file_replaces_an_existing_one() {
        let scratch = tempfile::tempdir().unwrap();
        let target = scratch.path().join("target");
        std::fs::write(&target, "old").unwrap();
        let file = LeasedFile::create(scratch.path(), ".t-", "").unwrap();
        super::super::write(file.path(), b"new").unwrap();
        file.persist(&target).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert_eq!(super::super::list(scratch.path()).unwrap().len(), 1);
    }
}
