//! Mounts `/proc` on a machine or in a chroot without it. Without `/proc`, the agent cannot find and stop processes, set the owner maps of
//! user namespaces, or start itself again.

use super::mount;
use super::step::StepError;
use crate::fs;

/// Whether `/proc` is mounted and shows this process.
#[must_use]
pub(crate) fn has_proc() -> bool {
    fs::lookup("/proc/self/exe".as_ref()).is_ok_and(|found| found.is_some())
}

/// Mounts `/proc` in a new mount namespace, for this process and those that it starts. This process must have one thread.
///
/// # Errors
/// This user may not mount, or the directory `/proc` does not exist.
pub(crate) fn mount_proc_before_threads() -> Result<(), StepError> {
    mount::separate()?;
    mount::mount_proc()
}
