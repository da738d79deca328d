//! Checks at the start of a run that the files can be written that it writes at its end.

use std::io;
use std::path::Path;

use crate::fs;

/// Checks that a file can be written, and creates its directory. `action` names the operation in the error.
///
/// # Errors
/// The directory is not writable, or there is something other than a file at the path: a device must not be replaced.
pub(super) fn check_target(action: &'static str, path: &Path) -> fs::Result<()> {
    let directory = fs::parent(path);
    fs::create_dir_all(directory)?;
    fs::check_writable(directory)?;
    let refusal = match fs::lookup(path)? {
        Some(found) if !found.is_file() => "it is not a file",
        Some(_) if is_mount(path)? => "it is a mount, and cannot be replaced: mount its directory",
        Some(_) | None => return Ok(()),
    };
    let refusal = io::Error::other(refusal);
    Err(fs::Error::new(action, path, refusal))
}

/// Whether a file is a mount point, as with `docker run -v FILE:FILE`.
fn is_mount(path: &Path) -> fs::Result<bool> {
    let path = fs::canonicalize(path)?;
    // Without /proc, mounts are unknown.
    Ok(fs::mount_points().is_ok_and(|mounts| mounts.iter().any(|mount| mount.path == path)))
}
