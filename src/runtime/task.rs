//! Tasks with a name and an owner. No other module may start tasks.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that starts tasks: it names them and ties them to their owner"
)]

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::{Id, JoinHandle, JoinSet};
use tracing::Instrument;

/// A running task. Awaiting it returns the task's result; dropping it cancels the task at its next
/// `await`.
///
/// A blocking task that has begun cannot be canceled, and continues after a drop.
#[derive(Debug)]
#[must_use = "dropping a task cancels it"]
pub struct Task<T> {
    name: &'static str,
    handle: JoinHandle<T>,
}

/// A task that panicked or was canceled.
#[derive(Debug, thiserror::Error)]
#[error("the task `{name}` ended without a result")]
pub struct TaskFailed {
    name: &'static str,
    source: tokio::task::JoinError,
}

impl TaskFailed {
    pub(super) fn new(name: &'static str, source: tokio::task::JoinError) -> Self {
        Self { name, source }
    }
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

impl<T> Task<T> {
    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Lets the task continue without an owner. Without this call, dropping the handle cancels the
    /// task, even a blocking one that has not begun.
    pub fn detach(self) {
        std::mem::forget(self);
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Starts a task. Its log lines contain its name.
pub fn spawn<T: Send + 'static>(
    name: &'static str,
    future: impl Future<Output = T> + Send + 'static,
) -> Task<T> {
    let handle = tokio::spawn(future.instrument(tracing::info_span!("task", name)));
    Task { name, handle }
}

/// Runs blocking work (file operations, hashing, compression) on a thread for blocking work.
pub fn spawn_blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Task<T> {
    let span = tracing::info_span!("blocking", name);
    let handle = tokio::task::spawn_blocking(move || span.in_scope(work));
    Task { name, handle }
}

/// A set of running tasks, each with a key. Dropping the set cancels the tasks at their next
/// `await`.
#[derive(Debug)]
pub struct TaskSet<K, T> {
    name: &'static str,
    tasks: JoinSet<T>,
    keys: HashMap<Id, K>,
}

impl<K, T: Send + 'static> TaskSet<K, T> {
    /// An empty set. `name` is the name of all tasks in it.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            tasks: JoinSet::new(),
            keys: HashMap::new(),
        }
    }

    /// The number of tasks that [`next`](Self::next) has not returned yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// The keys of the tasks that [`next`](Self::next) has not returned yet.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.keys.values()
    }

    /// Whether [`len`](Self::len) is zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Starts a task.
    pub fn spawn(&mut self, key: K, future: impl Future<Output = T> + Send + 'static) {
        let future = future.instrument(tracing::info_span!("task", name = self.name));
        let handle = self.tasks.spawn(future);
        self.keys.insert(handle.id(), key);
    }

    /// Starts blocking work on a thread for blocking work.
    pub fn spawn_blocking(&mut self, key: K, work: impl FnOnce() -> T + Send + 'static) {
        let span = tracing::info_span!("blocking", name = self.name);
        let handle = self.tasks.spawn_blocking(move || span.in_scope(work));
        self.keys.insert(handle.id(), key);
    }

    /// Waits for the next task to end and returns its key and result; `None` if there are no tasks.
    /// Cancel-safe, as `JoinSet::join_next` is.
    pub async fn next(&mut self) -> Option<(K, Result<T, TaskFailed>)> {
        loop {
            let (id, result) = match self.tasks.join_next_with_id().await? {
                Ok((id, result)) => (id, Ok(result)),
                Err(source) => {
                    let name = self.name;
                    (source.id(), Err(TaskFailed { name, source }))
                }
            };
            if let Some(key) = self.keys.remove(&id) {
                return Some((key, result));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn set_returns_every_task_with_its_key() {
        let mut set = TaskSet::new("test");
        set.spawn("good", async { 1 });
        set.spawn_blocking("blocking", || 2);
        set.spawn("bad", async { panic!("as it should") });
        let mut results = HashMap::new();
        while let Some((key, result)) = set.next().await {
            results.insert(key, result.ok());
        }
        assert!(set.is_empty());
        let expected = [("good", Some(1)), ("blocking", Some(2)), ("bad", None)];
        assert_eq!(results, HashMap::from(expected));
    }
}
