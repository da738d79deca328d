//! Makes the marker and the lock file usable after scripts, which can cover or protect them.

use std::path::Path;

use crate::fs;

/// Unmounts file systems that a script has mounted over a file of the agent, and clears the flags that protect the file and its directory
/// from changes. Another kind of file in its place stays.
pub(super) fn uncover(path: &Path) -> fs::Result<()> {
    unmount_all(path)?;
    // Ignore a failure: the file may be usable nevertheless.
    let _ = fs::clear_flags(fs::parent(path));
    let _ = fs::clear_flags(path);
    Ok(())
}

/// Unmounts everything that a script has mounted at a path of the agent.
pub(super) fn unmount_all(path: &Path) -> fs::Result<()> {
    while fs::is_mount_point(path)? {
        fs::unmount(path)?;
        tracing::warn!(path = %path.display(), "unmounted a file system that a packaging script has mounted over a file or directory of the agent");
    }
    Ok(())
}
