//! File operations of async functions run on blocking threads: a file system that does not respond must not block the threads of the
//! runtime.

use std::sync::Arc;

use super::error::SandboxError;
use crate::diag::Chain;
use crate::runtime;

/// Runs `work` on a blocking thread. It continues if the returned future is dropped.
pub(super) async fn blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> Result<T, SandboxError> + Send + 'static,
) -> Result<T, SandboxError> {
    runtime::spawn_blocking(name, work).await?
}

/// The result of blocking work. Dropping it undoes the work, unless [`keep`](Self::keep) was called: a caller that is canceled drops the
/// result.
pub(super) struct UndoOnDrop<T, F: FnOnce(&T) -> Result<(), SandboxError>> {
    value: Arc<T>,
    undo: Option<F>,
}

impl<T, F: FnOnce(&T) -> Result<(), SandboxError>> UndoOnDrop<T, F> {
    pub(super) fn new(value: T, undo: F) -> Self {
        Self {
            value: Arc::new(value),
            undo: Some(undo),
        }
    }

    pub(super) fn keep(mut self) -> Arc<T> {
        self.undo = None;
        Arc::clone(&self.value)
    }
}

impl<T, F: FnOnce(&T) -> Result<(), SandboxError>> Drop for UndoOnDrop<T, F> {
    fn drop(&mut self) {
        if let Some(undo) = self.undo.take()
            && let Err(error) = undo(&self.value)
        {
            tracing::warn!(
                error = %Chain(&error),
                "could not remove the directories of a canceled package"
            );
        }
    }
}
