//! The marker and the lock file, after a script could change them.

use std::path::Path;

use crate::fs;

/// Unmounts what a script has mounted over a file of the agent, and clears the flags that protect the file and its directory from changes.
/// Does nothing to other kinds of files in its place.
pub(super) fn uncover(path: &Path) -> fs::Result<()> {
    while fs::is_mount_point(path)? {
        fs::unmount(path)?;
        tracing::warn!(path = %path.display(), "unmounted a file that a packaging script has mounted over one of the agent");
    }
    // If that is not allowed, the use of the file may be.
    let _ = fs::clear_flags(fs::parent(path));
    let _ = fs::clear_flags(path);
    Ok(())
}
