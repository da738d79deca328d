//! File operations of the compiler.

use super::failure::Reason;
use crate::{fs, runtime};

/// Runs a file operation on a thread for blocking operations: the threads that handle requests must not wait for a disk.
pub(super) async fn on_disk<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> fs::Result<T> + Send + 'static,
) -> Result<T, Reason> {
    let done = runtime::spawn_blocking(name, work).await;
    done.map_err(Reason::Task)?.map_err(Reason::Files)
}
