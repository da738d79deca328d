//! Moves whole directory trees.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::io::Errno;

use super::Result;
use super::copy::copy_tree;
use super::remove::{clear_flags, remove_tree};

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
/// If an immutable or append-only flag of the tree's root or of its parent prevents the rename, it
/// is cleared.
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
        // Moving a directory changes its `..`, so the directory itself must be writable.
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
