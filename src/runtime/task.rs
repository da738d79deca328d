//! Tasks with a name and an owner: the only place that starts any.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that starts tasks: it names them and ties them to their owner"
)]

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::JoinHandle;
use tracing::Instrument;

/// A running task. Awaiting it gives its result; dropping it ends it at its next await.
///
/// A blocking task cannot be ended from outside: dropped, it runs on to its end.
#[derive(Debug)]
#[must_use = "a task ends when it is dropped"]
pub struct Task<T> {
    name: &'static str,
    handle: JoinHandle<T>,
}

/// A task that gave no result.
#[derive(Debug, thiserror::Error)]
#[error("the task `{name}` ended without a result")]
pub struct TaskFailed {
    name: &'static str,
    source: tokio::task::JoinError,
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskFailed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let name = self.name;
        Pin::new(&mut self.handle)
            .poll(context)
            .map_err(|source| TaskFailed { name, source })
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Starts a task. Its log lines carry its name.
pub fn spawn<T: Send + 'static>(
    name: &'static str,
    future: impl Future<Output = T> + Send + 'static,
) -> Task<T> {
    let handle = tokio::spawn(future.instrument(tracing::info_span!("task", name)));
    Task { name, handle }
}

/// Runs what blocks (files, hashes, compression) beside the tasks.
pub fn spawn_blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Task<T> {
    let span = tracing::info_span!("blocking", name);
    let handle = tokio::task::spawn_blocking(move || span.in_scope(work));
    Task { name, handle }
}
