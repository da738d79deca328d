//! Tasks: actions that take too long for a direct reply. The reply to the request that starts a
//! task contains the task's ID, and the Director polls for the result with `get_task`.

mod file;
mod progress;

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use uuid::Uuid;

pub(crate) use progress::TaskProgress;

use crate::config::Hidden;
use crate::runtime::{self, Task};

/// How long a result is kept after the last `get_task`. A Director that lost its connection polls
/// again within minutes. This limit and the next two are applied when a task starts.
const KEPT_FOR: Duration = Duration::from_secs(3600);

/// The maximum number of results that are kept. The least recently polled result is removed first.
const KEPT: usize = 1000;

/// The maximum size of all results that are kept, in bytes.
const KEPT_BYTES: usize = 8 << 20;

/// The maximum number of concurrent tasks. It is a safeguard, because a Director normally starts
/// one task at a time.
const RUNNING: usize = 1000;

/// The maximum number of requests that wait for the end of a task; further ones are answered at once.
const WAITING: usize = 64;

/// The state that a running task shares with the task table.
#[derive(Debug, Clone)]
pub(crate) struct TaskContext {
    /// Canceled by `cancel_task` and when the agent stops.
    pub cancel: CancellationToken,
    /// Canceled by `cancel_task` only.
    pub requested: CancellationToken,
    /// The progress that `get_task` reports while the task runs.
    pub progress: Arc<TaskProgress>,
}

/// Whether `cancel_task` can stop a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancellation {
    /// The task ends soon after its [`TaskContext::cancel`] is canceled.
    Supported,
    /// The task is short and cannot be canceled.
    Unsupported,
}

/// A task to start.
#[derive(Debug)]
pub(crate) struct TaskOptions {
    /// The method's name in the protocol.
    pub method: String,
    /// The request, which may contain secrets, if the agent can start the task again after a restart.
    /// Otherwise `None`: after a restart, the task is reported as failed.
    pub request: Option<Hidden<Vec<u8>>>,
    /// Whether `cancel_task` can stop the task.
    pub cancellation: Cancellation,
}

/// The result of a task: its value, or why it failed.
pub type TaskOutcome = Result<Value, TaskFailure>;

/// Why a task failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFailure {
    /// The text of the task's error.
    pub message: String,
    /// The ID of a blob with the log of the failure. A Director appends the blob to the text, and deletes it.
    pub log: Option<String>,
}

impl From<String> for TaskFailure {
    /// A failure without a log.
    fn from(message: String) -> Self {
        Self { message, log: None }
    }
}

/// Why a task cannot be started, reported or canceled. Most texts are the same as in the Go agent,
/// because operators search logs for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TaskError {
    /// No task has this ID.
    #[error("Task with id {id} could not be found")]
    Unknown {
        /// The requested ID.
        id: String,
    },
    /// The task failed.
    #[error("Task {id} result: {}", failure.message)]
    Failed {
        /// The task's ID.
        id: String,
        /// Why the task failed.
        failure: TaskFailure,
    },
    /// The task cannot be canceled.
    #[error("not supported")]
    NotCancelable,
    /// Too many tasks are running.
    #[error("{RUNNING} tasks are running already")]
    TooMany,
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

/// All tasks of the agent.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: Mutex<TaskTable>,
    file: file::TaskFile,
    /// Canceled once, when the agent stops.
    stopping: CancellationToken,
    /// Limits the number of requests in [`Tasks::wait`].
    waiting: Semaphore,
}

#[derive(Debug, Default)]
struct TaskTable {
    entries: HashMap<String, TaskEntry>,
}

#[derive(Debug)]
enum TaskEntry {
    Running(RunningTask),
    Ended {
        outcome: TaskOutcome,
        /// The size of the outcome in bytes.
        size: usize,
        /// The time of the last `get_task`, or of the task's end if there was none.
        polled: Instant,
    },
}

#[derive(Debug)]
struct RunningTask {
    options: TaskOptions,
    context: TaskContext,
    /// Canceled when the result is in the table.
    ended: CancellationToken,
    /// Dropping the handle cancels the task. `None` while [`Tasks::stop`] waits for the task.
    handle: Option<Task<()>>,
}

/// A resumable task that was interrupted when the previous process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interrupted {
    /// The task's ID, with which the Director still polls.
    pub id: String,
    /// The method's name in the protocol.
    pub method: String,
    /// The request that started the task.
    pub request: Hidden<Vec<u8>>,
}

impl Tasks {
    /// Loads the tasks of the agent's previous process. Finished tasks keep their results.
    /// Interrupted tasks that can be resumed are returned, for [`resume`](Self::resume); other
    /// interrupted tasks are recorded as failed.
    ///
    /// If the file cannot be read, this is logged and ignored, so that new tasks can still be
    /// started.
    #[must_use]
    pub(crate) fn load(path: &Path) -> (Self, Vec<Interrupted>) {
        let (file, saved) = file::TaskFile::load(path);
        let mut table = TaskTable::default();
        let mut interrupted = Vec::new();
        for task in saved {
            let outcome = match task.outcome {
                Some(outcome) => outcome,
                None if !task.request.expose().is_empty() => {
                    interrupted.push(Interrupted {
                        id: task.id,
                        method: task.method,
                        request: task.request,
                    });
                    continue;
                }
                None => {
                    let failure = TaskFailure::from(format!(
                        "the agent ended while {} was running, and has been started again",
                        task.method
                    ));
                    // Save the failure, because the Director may not poll before another restart.
                    file.note_end(&task.id, &Err(failure.clone()));
                    Err(failure)
                }
            };
            table.entries.insert(task.id, TaskEntry::ended(outcome));
        }
        let shared = Shared {
            table: Mutex::new(table),
            file,
            stopping: CancellationToken::new(),
            waiting: Semaphore::new(WAITING),
        };
        let tasks = Self {
            shared: Arc::new(shared),
        };
        (tasks, interrupted)
    }

    /// Starts a task. Returns the value for the reply.
    ///
    /// # Errors
    /// If too many tasks are running, or the agent is stopping.
    pub(crate) async fn start<F: Future<Output = TaskOutcome> + Send + 'static>(
        &self,
        options: TaskOptions,
        work: impl FnOnce(TaskContext) -> F,
    ) -> Result<Value, TaskError> {
        let id = Uuid::new_v4().to_string();
        self.spawn(&id, options, work)?;
        self.save().await;
        Ok(running(&id, None))
    }

    /// Starts a task of the previous process again, with the same ID.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub(crate) fn resume<F: Future<Output = TaskOutcome> + Send + 'static>(
        &self,
        interrupted: Interrupted,
        work: impl FnOnce(TaskContext) -> F,
    ) -> Result<(), TaskError> {
        let options = TaskOptions {
            method: interrupted.method,
            request: Some(interrupted.request),
            cancellation: Cancellation::Unsupported,
        };
        self.spawn(&interrupted.id, options, work)
    }

    fn spawn<F: Future<Output = TaskOutcome> + Send + 'static>(
        &self,
        id: &str,
        options: TaskOptions,
        work: impl FnOnce(TaskContext) -> F,
    ) -> Result<(), TaskError> {
        let context = TaskContext {
            cancel: self.shared.stopping.child_token(),
            requested: CancellationToken::new(),
            progress: Arc::default(),
        };
        let mut table = self.table();
        // Check this under the lock: `stop` waits for every task in the table, so none may be added
        // afterwards.
        if self.shared.stopping.is_cancelled() {
            return Err(TaskError::Stopping);
        }
        table.remove_old_results(Instant::now());
        let is_running = |entry: &&TaskEntry| matches!(entry, TaskEntry::Running(_));
        if table.entries.values().filter(is_running).count() >= RUNNING {
            return Err(TaskError::TooMany);
        }
        // The log lines of the task contain its ID.
        let span = tracing::error_span!("order", task = %id);
        let work = work(context.clone()).instrument(span);
        let (tasks, own) = (self.clone(), id.to_owned());
        // Keep the table locked until the entry is in it, so that a task that ends at once finds
        // its entry.
        let handle = runtime::spawn("task", async move {
            let outcome = work.await;
            tasks.end(&own, outcome).await;
        });
        table.entries.insert(
            id.to_owned(),
            TaskEntry::Running(RunningTask {
                options,
                context,
                ended: CancellationToken::new(),
                handle: Some(handle),
            }),
        );
        Ok(())
    }

    async fn end(&self, id: &str, outcome: TaskOutcome) {
        // Write the result to the file before a Director can poll it. Otherwise, an agent that is
        // killed in between could report another result later.
        self.shared.file.note_end(id, &outcome);
        self.save().await;
        if let Some(entry) = self.table().entries.get_mut(id) {
            let old = std::mem::replace(entry, TaskEntry::ended(outcome));
            if let TaskEntry::Running(task) = &old {
                task.ended.cancel();
            }
            // This drops the handle of the current task, which is canceled at its next `await`.
            // There must be no `await` after this line.
            drop(old);
        }
    }

    /// Like [`get`](Self::get), but if the task is running, first waits for its end, at most `limit`.
    /// A Director asks at once and then pauses for a second, so a short task would take a second
    /// without this. Does not wait if many requests wait already, nor when the agent stops.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) async fn wait(&self, id: &str, limit: Duration) -> Result<Value, TaskError> {
        let ended = match self.table().entries.get(id) {
            Some(TaskEntry::Running(task)) => Some(task.ended.clone()),
            _ => None,
        };
        if let Some(ended) = ended
            && let Ok(_place) = self.shared.waiting.try_acquire()
        {
            tokio::select! {
                () = ended.cancelled() => {}
                () = self.shared.stopping.cancelled() => {}
                () = tokio::time::sleep(limit) => {}
            }
        }
        self.get(id)
    }

    /// Canceled when the agent stops.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.shared.stopping
    }

    /// The value for the reply to `get_task`.
    ///
    /// # Errors
    /// If no task has this ID, or if the task failed.
    pub(crate) fn get(&self, id: &str) -> Result<Value, TaskError> {
        let mut table = self.table();
        match table.entries.get_mut(id).ok_or_else(|| unknown(id))? {
            TaskEntry::Running(task) => Ok(running(id, Some(&task.context.progress))),
            TaskEntry::Ended {
                outcome, polled, ..
            } => {
                *polled = Instant::now();
                outcome.clone().map_err(|failure| TaskError::Failed {
                    id: id.to_owned(),
                    failure,
                })
            }
        }
    }

    /// Cancels a task, unless it has ended.
    ///
    /// # Errors
    /// If no task has this ID, or if the task cannot be canceled.
    pub(crate) fn cancel(&self, id: &str) -> Result<(), TaskError> {
        let table = self.table();
        match table.entries.get(id).ok_or_else(|| unknown(id))? {
            TaskEntry::Ended { .. } => Ok(()),
            TaskEntry::Running(task) => match task.options.cancellation {
                Cancellation::Supported => {
                    task.context.requested.cancel();
                    task.context.cancel.cancel();
                    Ok(())
                }
                Cancellation::Unsupported => Err(TaskError::NotCancelable),
            },
        }
    }

    /// Refuses new tasks, cancels all running ones, and waits at most `limit` until they have
    /// ended. Returns whether all have ended.
    pub(crate) async fn stop(&self, limit: Duration) -> bool {
        self.shared.stopping.cancel();
        let handles: Vec<Task<()>> = {
            let mut table = self.table();
            let entries = table.entries.values_mut();
            entries
                .filter_map(|entry| match entry {
                    TaskEntry::Running(task) => task.handle.take(),
                    TaskEntry::Ended { .. } => None,
                })
                .collect()
        };
        let all = futures_util::future::join_all(handles);
        tokio::time::timeout(limit, all).await.is_ok()
    }

    async fn save(&self) {
        let unfinished = || -> Vec<file::Unfinished> {
            let table = self.table();
            let running = |(id, entry): (&String, &TaskEntry)| match entry {
                TaskEntry::Running(task) => Some(file::Unfinished {
                    id: id.clone(),
                    method: task.options.method.clone(),
                    request: task.options.request.clone().unwrap_or_default(),
                }),
                TaskEntry::Ended { .. } => None,
            };
            table.entries.iter().filter_map(running).collect()
        };
        self.shared.file.save(unfinished).await;
    }

    fn table(&self) -> MutexGuard<'_, TaskTable> {
        self.shared
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl TaskTable {
    /// Makes room for one more result: removes results that were not polled for [`KEPT_FOR`], and
    /// the least recently polled ones in excess of [`KEPT`] and [`KEPT_BYTES`].
    fn remove_old_results(&mut self, now: Instant) {
        let mut ended: Vec<(Instant, String, usize)> = self
            .entries
            .iter()
            .filter_map(|(id, entry)| match entry {
                TaskEntry::Ended { polled, size, .. } => Some((*polled, id.clone(), *size)),
                TaskEntry::Running(_) => None,
            })
            .collect();
        ended.sort();
        let mut bytes = 0;
        for (index, (polled, id, size)) in ended.into_iter().rev().enumerate() {
            bytes += size;
            let is_old = now.saturating_duration_since(polled) > KEPT_FOR;
            if index >= KEPT - 1 || bytes > KEPT_BYTES || is_old {
                self.entries.remove(&id);
            }
        }
    }
}

impl TaskEntry {
    fn ended(outcome: TaskOutcome) -> Self {
        Self::Ended {
            size: size(&outcome),
            outcome,
            polled: Instant::now(),
        }
    }
}

/// The approximate size of an outcome in bytes.
fn size(outcome: &TaskOutcome) -> usize {
    match outcome {
        Ok(value) => value.to_string().len(),
        Err(failure) => failure.message.len(),
    }
}

fn unknown(id: &str) -> TaskError {
    TaskError::Unknown { id: id.to_owned() }
}

/// The value that makes a Director poll again. It must not contain the key `value`, because a
/// Director would take that for the result.
fn running(id: &str, progress: Option<&TaskProgress>) -> Value {
    let mut reply = json!({ "agent_task_id": id, "state": "running" });
    if let Some(progress) = progress.and_then(TaskProgress::shown) {
        reply["progress"] = progress;
    }
    reply
}

#[cfg(test)]
mod tests;
