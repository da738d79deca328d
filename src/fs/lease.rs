//! Temporary files and directories that a later run can tell from abandoned ones.
//!
//! Each carries a lock (`flock`) that its owner holds as long as it lives. The lock ends with the process however it ends,
//! `kill -9` included, so what bears our prefix and is not locked has lost its owner and may go.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use super::{Context, Error, Result};
use crate::diag::Chain;

/// The lock's file name inside a leased directory.
const LOCK: &str = ".lock";

/// How often a lock that somebody holds is tried again.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// How often a fresh name is tried before giving up.
const ATTEMPTS: u32 = 100;

/// A temporary file next to the place that it will be renamed to.
#[derive(Debug)]
pub struct LeasedFile {
    path: PathBuf,
    file: File,
    persisted: bool,
}

impl LeasedFile {
    /// Creates `directory/PREFIX…SUFFIX` with mode 0666 less the umask, locked.
    ///
    /// # Errors
    /// What the system answered.
    pub fn create(directory: &Path, prefix: &str, suffix: &str) -> Result<Self> {
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
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its final name, in place of what has that name, and writes the directory to the disk.
    ///
    /// # Errors
    /// What the system answered; then the file is removed and what had the name is as it was.
    pub fn persist(mut self, target: &Path) -> Result<()> {
        super::rename(&self.path, target)?;
        self.persisted = true;
        super::sync(super::parent(target))
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

/// A temporary directory.
#[derive(Debug)]
pub struct LeasedDirectory {
    path: PathBuf,
    lock: File,
    removed: bool,
}

impl LeasedDirectory {
    /// Creates `directory/PREFIX…` with mode 0700, locked.
    ///
    /// # Errors
    /// What the system answered.
    pub fn create(directory: &Path, prefix: &str) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let (path, lock) = create_locked(directory, prefix, "", |path| {
            super::create_dir_with_mode(path, 0o700)?;
            super::open_with(&options, &path.join(LOCK)).inspect_err(|_| {
                // A disk may have room for the one and not for the other.
                let _ = super::remove_dir(path);
            })
        })?;
        Ok(Self {
            path,
            lock,
            removed: false,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the directory at its path is still the one that was created: another program may have removed it, and created another one.
    #[must_use]
    pub fn is_there(&self) -> bool {
        is_still_there(&self.path.join(LOCK), &self.lock).unwrap_or(true)
    }

    /// Removes the directory with all that is in it.
    ///
    /// # Errors
    /// What the system answered.
    pub fn remove(mut self) -> Result<()> {
        self.removed = true;
        super::remove_tree(&self.path)
    }
}

impl Drop for LeasedDirectory {
    fn drop(&mut self) {
        if !self.removed
            && let Err(error) = super::remove_tree(&self.path)
        {
            tracing::warn!(error = %Chain(&error), "could not remove a work directory");
        }
    }
}

/// Creates something under a fresh name and locks its file. A cleaner may meet it between the two and take it for abandoned;
/// then the lock is the cleaner's, and another name is tried.
fn create_locked(
    directory: &Path,
    prefix: &str,
    suffix: &str,
    create: impl Fn(&Path) -> Result<File>,
) -> Result<(PathBuf, File)> {
    let mut failure = None;
    for attempt in 0..ATTEMPTS {
        let path = directory.join(format!("{prefix}{}-{attempt}{suffix}", std::process::id()));
        let file = match create(&path) {
            Ok(file) => file,
            // The name is taken, or a cleaner took the new directory away before its lock was in it.
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
        action: "make a temporary file in",
        path: directory.to_owned(),
        source: io::ErrorKind::AlreadyExists.into(),
    }))
}

/// The file that is locked: the leased file itself, or the one inside a leased directory.
fn lock_of(path: &Path) -> PathBuf {
    if path.is_dir() {
        path.join(LOCK)
    } else {
        path.to_owned()
    }
}

/// Whether a locked file still has its name.
fn is_still_there(path: &Path, file: &File) -> Result<bool> {
    let inode = file.metadata().at("examine", path)?.ino();
    Ok(super::lookup(path)?.is_some_and(|metadata| metadata.ino() == inode))
}

/// Makes a file where there is none, and holds it until the returned one is dropped. `None` when another process holds it.
///
/// # Errors
/// When the file cannot be opened or locked.
pub fn hold(path: &Path) -> Result<Option<File>> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits());
    let file = super::open_with(&options, path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).at("lock", path),
    }
}

/// Waits until nobody holds a lock on a file. `false` when somebody still does after `limit`, or when `stop` says so.
///
/// # Errors
/// When the file cannot be opened or locked. One that is not there is free.
pub fn wait_until_free(path: &Path, limit: Duration, stop: &dyn Fn() -> bool) -> Result<bool> {
    let file = match super::open(path) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(true),
        Err(error) => return Err(error),
    };
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if start.elapsed() < limit && !stop() => {
                // `flock` itself knows no limit of time.
                std::thread::sleep(LOCK_INTERVAL);
            }
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error).at("lock", path),
        }
    }
}

/// Removes what an earlier run has left in `directory` under names of this form, and says what it removed. What another
/// process still holds stays. So does what cannot be removed, under another name and with a warning: no run fails for it, and the
/// next one tries again.
///
/// Where a leased directory has a file `processes`, its owner's children may outlive it for a moment; they are waited for as
/// [`wait_until_free`] does.
pub fn remove_abandoned(
    directory: &Path,
    prefix: &str,
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
        // Held until it is gone, or its name could be taken meanwhile.
        let Some(_lock) = take_over(&path) else {
            continue;
        };
        if let Some((file, limit, stop)) = processes
            && !wait_until_free(&path.join(file), limit, stop).unwrap_or(true)
        {
            continue;
        }
        match remove_under_other_name(&path, prefix) {
            Ok(()) => removed.push(path),
            Err(error) => warn(&error),
        }
    }
    removed
}

fn warn(error: &Error) {
    tracing::warn!(
        error = %Chain(error),
        hint = error.hint(),
        "could not remove what an earlier run left; the next run tries again"
    );
}

/// The lock of something whose owner is gone. Only files and directories are ours; a FIFO or a link of such a name is not.
fn take_over(path: &Path) -> Option<File> {
    let kind = super::lookup(path).ok()??.file_type();
    let lock = if kind.is_dir() {
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
        // Its owner ended between making the directory and making the lock, or is about to make it: who makes it, has it.
        Err(error) if error.is_not_found() => {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            super::open_with(&options, &lock).ok()?
        }
        Err(_) => return None,
    };
    file.try_lock().ok()?;
    is_still_there(&lock, &file).ok()?.then_some(file)
}

/// Removes a tree under a name that no owner will try to lock while it is half gone.
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
    fn what_is_held_stays_and_what_is_abandoned_goes() {
        let scratch = tempfile::tempdir().unwrap();
        let held = LeasedDirectory::create(scratch.path(), ".ours-").unwrap();
        let file = LeasedFile::create(scratch.path(), ".ours-", ".partial").unwrap();
        std::fs::create_dir(scratch.path().join(".ours-dead")).unwrap();
        std::fs::write(scratch.path().join(".ours-dead/.lock"), "").unwrap();
        std::fs::write(scratch.path().join(".ours-1.partial"), "half").unwrap();
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
        assert!(!held.is_there(), "it is another one");

        let (held_path, file_path) = (held.path().to_owned(), file.path().to_owned());
        held.remove().unwrap();
        drop(file);
        assert!(!held_path.exists() && !file_path.exists());
        assert!(scratch.path().join("theirs").exists());
    }

    #[test]
    fn a_cleaner_never_takes_what_somebody_is_about_to_hold() {
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
    fn a_file_takes_its_final_name_at_once_and_replaces_what_was_there() {
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
