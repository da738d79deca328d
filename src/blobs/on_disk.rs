//! File operations of transfers.

use super::AttemptError;
use crate::{fs, runtime};

/// Runs a file operation on a thread for blocking operations: the threads that handle requests must not wait for a disk.
pub(super) async fn on_disk<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> fs::Result<T> + Send + 'static,
) -> Result<T, AttemptError> {
    Ok(runtime::spawn_blocking(name, work).await??)
}
