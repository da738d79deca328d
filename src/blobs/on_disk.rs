//! Runs the file operations of blob transfers.

use super::AttemptError;
use crate::{fs, runtime};

/// Runs a file operation on a thread for blocking operations, so that the threads that handle
/// requests do not wait for the disk.
pub(super) async fn on_disk<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> fs::Result<T> + Send + 'static,
) -> Result<T, AttemptError> {
    Ok(runtime::spawn_blocking(name, work).await??)
}
