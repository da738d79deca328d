//! Tasks that a library starts itself and that nothing else can cancel.

use std::future::Future;
use std::io;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use super::TaskFailed;

/// A thread that runs tasks. Dropping the value ends the thread, and cancels the tasks at their next
/// `await`.
#[derive(Debug)]
pub(crate) struct IsolatedTasks {
    name: &'static str,
    handle: Handle,
    end: CancellationToken,
}

impl IsolatedTasks {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses a thread or a descriptor.
    pub(crate) fn start(name: &'static str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, end) = (runtime.handle().clone(), CancellationToken::new());
        let ended = end.clone();
        let thread = thread::Builder::new().name(name.to_owned());
        thread.spawn(move || runtime.block_on(ended.cancelled()))?;
        Ok(Self { name, handle, end })
    }

    /// Runs a task on the thread. Tasks that this task starts run there, too.
    ///
    /// # Errors
    /// If the task panicked or was canceled.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, TaskFailed> {
        let running = self.handle.spawn(task);
        running
            .await
            .map_err(|source| TaskFailed::new(self.name, source))
    }

    /// Ends the thread when it is canceled.
    pub(crate) fn end(&self) -> CancellationToken {
        self.end.clone()
    }
}

impl Drop for IsolatedTasks {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "as a library does")]
    async fn tasks_of_tasks_end_with_the_thread() {
        let tasks = IsolatedTasks::start("test").unwrap();
        let (sender, receiver) = oneshot::channel::<()>();
        let starting = tasks.run(async {
            tokio::spawn(async move {
                let _sender = sender;
                // Never waits, as a task that always has something to read.
                loop {
                    tokio::task::yield_now().await;
                }
            });
            7
        });
        assert_eq!(starting.await.unwrap(), 7);
        drop(tasks);
        assert!(receiver.await.is_err());
    }
}
