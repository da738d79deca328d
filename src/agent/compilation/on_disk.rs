//! Runs the compiler's file operations.

use super::failure::Reason;
use crate::{fs, runtime};

/// Runs a file operation on a thread for blocking operations, so that the threads that handle
/// requests do not wait for the disk.
pub(super) async fn on_disk<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> fs::Result<T> + Send + 'static,
) -> Result<T, Reason> {
    let done = runtime::spawn_blocking(name, work).await;
    done.map_err(Reason::Task)?.map_err(Reason::Files)
}
