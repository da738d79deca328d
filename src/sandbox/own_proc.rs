//! A `/proc` for a machine or a changed root that has none mounted. Without it no process can be found and ended, no owners set in a
//! user namespace, and this program not started again.

use super::mounts;
use super::spec::StepError;
use crate::fs;

/// Whether `/proc` is mounted and has this process.
#[must_use]
pub fn has_proc() -> bool {
    fs::lookup("/proc/self/exe".as_ref()).is_ok_and(|found| found.is_some())
}

/// Mounts `/proc` for this process, which must have one thread, and all that it starts, in a mount namespace of their own.
///
/// # Errors
/// When this user may not mount, and when there is no directory `/proc`.
pub fn mount_proc_before_threads() -> Result<(), StepError> {
    mounts::separate()?;
    mounts::mount_proc()
}
