//! The marker and the lock file, after a script could change them.

use std::path::Path;

use crate::fs;

/// Unmounts what a script has mounted over a file of the agent, and clears the flags that protect the file and its directory from changes.
/// Does nothing to other kinds of files in its place.
pub(super) fn uncover(path: &Path) -> fs::Result<()> {
    unmount_all(path)?;
    // If that is not allowed, the use of the file may be.
    let _ = fs::clear_flags(fs::parent(path));
    let _ = fs::clear_flags(path);
    Ok(())
}

/// Unmounts everything that a script has mounted at a path of the agent.
pub(super) fn unmount_all(path: &Path) -> fs::Result<()> {
    while fs::is_mount_point(path)? {
        fs::unmount(path)?;
        tracing::warn!(path = %path.display(), "unmounted what a packaging script has mounted over a file or directory of the agent");
    }
    Ok(())
}
