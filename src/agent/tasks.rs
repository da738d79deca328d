//! Tasks: actions that take too long to be answered in one reply. The reply to a request that starts one has the task's id; a Director polls
//! for the result with `get_task`.

mod file;
mod progress;

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) use progress::TaskProgress;

use crate::config::Hidden;
use crate::runtime::{self, Task};

/// How long a result is kept after the last `get_task`, unless there are too many results. A Director that lost its connection
/// polls again within minutes.
const KEPT_FOR: Duration = Duration::from_secs(3600);

/// How many results are kept. When there is one more, the least recently polled one is removed.
const KEPT: usize = 1000;

/// The maximum number of concurrent tasks. It is a safeguard: a Director normally starts one at a time.
const RUNNING: usize = 1000;

/// How a running task communicates with the task table.
#[derive(Debug, Clone)]
pub(crate) struct TaskContext {
    /// Canceled by `cancel_task` and when the agent stops.
    pub cancel: CancellationToken,
    /// Reported by `get_task` while the task runs.
    pub progress: Arc<TaskProgress>,
}

/// Whether `cancel_task` can stop a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancellation {
    /// The task stops when its [`TaskContext::cancel`] is canceled.
    Supported,
    /// The task is short and runs to its end.
    Unsupported,
}

/// A task to start.
#[derive(Debug)]
pub(crate) struct TaskOptions {
    /// The method's name in the protocol.
    pub method: String,
    /// The request, if the task is to be resumed after a restart of the agent. It may contain secrets.
    pub request: Option<Hidden<Vec<u8>>>,
    /// Whether `cancel_task` can stop it.
    pub cancellation: Cancellation,
}

/// The end of a task: its value, or the text of its error.
pub type TaskOutcome = Result<Value, String>;

/// Why a task cannot be started, reported or canceled. Most texts are the Go agent's, which operators search for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TaskError {
    /// No task has this id.
    #[error("Task with id {id} could not be found")]
    Unknown {
        /// The requested id.
        id: String,
    },
    /// The task failed.
    #[error("Task {id} result: {error}")]
    Failed {
        /// The task's id.
        id: String,
        /// The text of the task's error.
        error: String,
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
        /// When the task ended, or the last `get_task` after that.
        polled: Instant,
    },
}

#[derive(Debug)]
struct RunningTask {
    options: TaskOptions,
    context: TaskContext,
    /// Dropping it ends the task. `None` once [`Tasks::stop`] waits for it.
    handle: Option<Task<()>>,
}

/// A task that the end of the last process interrupted, and that is to be resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interrupted {
    /// The task's id, which the Director still polls.
    pub id: String,
    /// The method's name in the protocol.
    pub method: String,
    /// The request that started the task.
    pub request: Hidden<Vec<u8>>,
}

impl Tasks {
    /// Loads the tasks of the agent's last process. Finished tasks keep their results. Of the interrupted tasks, those that
    /// can be resumed are returned, for [`resume`](Self::resume); the others have failed.
    ///
    /// A file that cannot be read is logged and ignored: new tasks must not depend on it.
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
                    let error = format!(
                        "the agent ended while {} was running, and has been started again",
                        task.method
                    );
                    // Saved, because the Director may poll only after another restart.
                    file.note_end(&task.id, &Err(error.clone()));
                    Err(error)
                }
            };
            table.entries.insert(task.id, TaskEntry::ended(outcome));
        }
        let shared = Shared {
            table: Mutex::new(table),
            file,
            stopping: CancellationToken::new(),
        };
        let tasks = Self {
            shared: Arc::new(shared),
        };
        (tasks, interrupted)
    }

    /// Starts a task. Returns the value of the reply.
    ///
    /// # Errors
    /// When too many tasks are running, or the agent is stopping.
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

    /// Starts a task of the last process again, under its id.
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
            progress: Arc::default(),
        };
        let mut table = self.table();
        // Checked under the lock: `stop` waits for every task in the table, and none is added after it.
        if self.shared.stopping.is_cancelled() {
            return Err(TaskError::Stopping);
        }
        table.remove_old_results(Instant::now());
        let is_running = |entry: &&TaskEntry| matches!(entry, TaskEntry::Running(_));
        if table.entries.values().filter(is_running).count() >= RUNNING {
            return Err(TaskError::TooMany);
        }
        let work = work(context.clone());
        let (tasks, own) = (self.clone(), id.to_owned());
        // The table stays locked until it has the entry, so that a task which ends at once finds it.
        let handle = runtime::spawn("task", async move {
            let outcome = work.await;
            tasks.end(&own, outcome).await;
        });
        table.entries.insert(
            id.to_owned(),
            TaskEntry::Running(RunningTask {
                options,
                context,
                handle: Some(handle),
            }),
        );
        Ok(())
    }

    async fn end(&self, id: &str, outcome: TaskOutcome) {
        // The file has the result before a Director does: an agent that is killed in between must not report another one later.
        self.shared.file.note_end(id, &outcome);
        self.save().await;
        if let Some(entry) = self.table().entries.get_mut(id) {
            // This drops the handle of the current task, which cancels it at its next `await`. There is none after this line.
            *entry = TaskEntry::ended(outcome);
        }
    }

    /// The value of the reply to `get_task`.
    ///
    /// # Errors
    /// When no task has this id, and when the task failed.
    pub(crate) fn get(&self, id: &str) -> Result<Value, TaskError> {
        let mut table = self.table();
        match table.entries.get_mut(id).ok_or_else(|| unknown(id))? {
            TaskEntry::Running(task) => Ok(running(id, Some(&task.context.progress))),
            TaskEntry::Ended { outcome, polled } => {
                *polled = Instant::now();
                outcome.clone().map_err(|error| TaskError::Failed {
                    id: id.to_owned(),
                    error,
                })
            }
        }
    }

    /// Cancels a task, unless it has ended.
    ///
    /// # Errors
    /// When no task has this id, and when the task cannot be canceled.
    pub(crate) fn cancel(&self, id: &str) -> Result<(), TaskError> {
        let table = self.table();
        match table.entries.get(id).ok_or_else(|| unknown(id))? {
            TaskEntry::Ended { .. } => Ok(()),
            TaskEntry::Running(task) => match task.options.cancellation {
                Cancellation::Supported => {
                    task.context.cancel.cancel();
                    Ok(())
                }
                Cancellation::Unsupported => Err(TaskError::NotCancelable),
            },
        }
    }

    /// Cancels all tasks, waits until they have ended, but not longer than `limit`, and refuses new ones. Returns whether all
    /// have ended.
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
    /// Makes room for one more task among the results: removes those that were not polled for [`KEPT_FOR`], and the least
    /// recently polled beyond [`KEPT`].
    fn remove_old_results(&mut self, now: Instant) {
        let mut ended: Vec<(Instant, String)> = self
            .entries
            .iter()
            .filter_map(|(id, entry)| match entry {
                TaskEntry::Ended { polled, .. } => Some((*polled, id.clone())),
                TaskEntry::Running(_) => None,
            })
            .collect();
        ended.sort();
        let excess = ended.len().saturating_sub(KEPT - 1);
        for (index, (polled, id)) in ended.into_iter().enumerate() {
            if index < excess || now.saturating_duration_since(polled) > KEPT_FOR {
                self.entries.remove(&id);
            }
        }
    }
}

impl TaskEntry {
    fn ended(outcome: TaskOutcome) -> Self {
        Self::Ended {
            outcome,
            polled: Instant::now(),
        }
    }
}

fn unknown(id: &str) -> TaskError {
    TaskError::Unknown { id: id.to_owned() }
}

/// The value that tells a Director to poll again. It has no key `value`: a Director would take that for the result.
fn running(id: &str, progress: Option<&TaskProgress>) -> Value {
    let mut reply = json!({ "agent_task_id": id, "state": "running" });
    if let Some(progress) = progress.and_then(TaskProgress::shown) {
        reply["progress"] = progress;
    }
    reply
}

#[cfg(test)]
mod tests;
