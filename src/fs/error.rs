//! Errors of file operations, with the operation, the path and the error of the system.

use std::io;
use std::path::{Path, PathBuf};

/// The action in errors about mounts that a script left.
pub(super) const UNMOUNT: &str = "unmount";

/// The action in errors about files below a mount that a script left.
pub(super) const CROSS_MOUNT: &str = "read through the mount at";

/// The action in errors about a tree that would contain its own copy.
pub(super) const COPY_INTO_ITSELF: &str = "copy a tree into itself at";

/// The action in errors about files that `chattr` protects.
pub(super) const CLEAR_FLAGS: &str = "clear the immutable or append-only flag of";

/// A failed file operation.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} `{}`", path.display())]
pub struct Error {
    /// The operation, worded to follow "failed to".
    pub action: &'static str,
    /// The path of the file.
    pub path: PathBuf,
    /// The error of the system.
    pub source: io::Error,
}

impl Error {
    /// `action` completes the sentence "failed to …".
    #[must_use]
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the file does not exist.
    #[must_use]
    pub(crate) fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether the operation failed because a mount inside a tree must not be read.
    #[must_use]
    pub(crate) fn is_mount(&self) -> bool {
        self.action == CROSS_MOUNT
    }

    /// Whether a tree cannot be copied because the copy would be inside it.
    #[must_use]
    pub(crate) fn is_copy_of_itself(&self) -> bool {
        self.action == COPY_INTO_ITSELF
    }

    /// Whether the disk (or the quota) is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        is_no_space(&self.source)
    }

    /// What the user can do about the error. `None` if that depends on more than the operation and
    /// the path.
    #[must_use]
    pub(crate) fn hint(&self) -> Option<String> {
        let path = self.path.display();
        match self.action {
            UNMOUNT => Some(format!(
                "a script mounted something there: run `umount {path}` (`fusermount -u {path}` for FUSE) as the user who mounted it, or as root; \
                 nothing below it was removed"
            )),
            CROSS_MOUNT => Some(format!(
                "a script mounted something at `{path}`: unmount it at the end of the script, or copy its files"
            )),
            CLEAR_FLAGS => Some(format!("run `chattr -i -a {path}` as root")),
            _ => None,
        }
    }
}

/// Whether the disk (or the quota) is full.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The result of a file operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Adds the operation and the path to an I/O result.
pub trait Context<T> {
    /// `action` completes the sentence "failed to …".
    ///
    /// # Errors
    /// The same error, with the action and the path.
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::new(action, path, source))
    }
}

impl<T> Context<T> for nix::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(io::Error::from).at(action, path)
    }
}

/// Turns the error about a missing file into `None`.
///
/// # Errors
/// The other errors of the operation.
pub(crate) fn if_there<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a full disk (or quota) is the cause of an error, in any of its sources.
#[must_use]
pub(crate) fn is_no_space_behind(error: &(dyn std::error::Error + 'static)) -> bool {
    is_behind(error, is_no_space)
}

/// Whether a read-only file system is the cause of an error, in any of its sources.
#[must_use]
pub(crate) fn is_read_only_behind(error: &(dyn std::error::Error + 'static)) -> bool {
    is_behind(error, |error| {
        error.kind() == io::ErrorKind::ReadOnlyFilesystem
    })
}

fn is_behind(
    error: &(dyn std::error::Error + 'static),
    wanted: impl Fn(&io::Error) -> bool,
) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(&wanted) {
            return true;
        }
        next = error.source();
    }
    false
}
