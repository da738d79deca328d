//! Tasks: what takes longer than a reply may. A request that starts one is answered with its id; `get_task` asks for the
//! result again and again.

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

pub use progress::Progress;

use crate::config::Hidden;
use crate::runtime::{self, Task};

/// How long the result of a task that nobody asks for any more is kept at the least. A Director that has lost its bus asks
/// again within minutes.
const KEPT_FOR: Duration = Duration::from_secs(3600);

/// How many results are kept at the most. Past that the ones that were asked for the longest ago go.
const KEPT: usize = 1000;

/// How many tasks may be on their way. A Director starts one after another.
const RUNNING: usize = 1000;

/// What a task is told, and what it tells.
#[derive(Debug, Clone)]
pub struct TaskContext {
    /// Called when the task is to stop.
    pub cancel: CancellationToken,
    /// What the reply to `get_task` says while it runs.
    pub progress: Arc<Progress>,
}

/// What is known of how a task may be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It heeds its cancellation.
    WhenTold,
    /// It runs to its end, which is near.
    Never,
}

/// A task to start.
#[derive(Debug)]
pub struct Order {
    /// The request's method.
    pub method: String,
    /// The request, where the task is to be done again by the agent's next process when this one ends before it. It may hold
    /// keys.
    pub again: Option<Hidden<Vec<u8>>>,
    /// Whether it can be stopped.
    pub stop: Stop,
}

/// What a task came to: its value, or the text of its error.
pub type Outcome = Result<Value, String>;

/// Why a request about a task cannot be granted. The texts are the Go agent's; Directors' users look for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// There is no such task.
    #[error("Task with id {id} could not be found")]
    Unknown {
        /// The id that was asked for.
        id: String,
    },
    /// It has failed.
    #[error("Task {id} result: {error}")]
    Failed {
        /// Its id.
        id: String,
        /// Its error.
        error: String,
    },
    /// It cannot be stopped.
    #[error("not supported")]
    NotCancellable,
    /// Too many are on their way.
    #[error("{RUNNING} tasks are running already")]
    TooMany,
    /// The agent is about to end.
    #[error("the agent is stopping")]
    Stopping,
}

/// All tasks of the agent.
#[derive(Debug, Clone)]
pub struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    file: file::TaskFile,
    /// Called once, when the agent ends.
    stopping: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    method: String,
    again: Option<Hidden<Vec<u8>>>,
    stop: Stop,
    state: State,
    context: TaskContext,
    /// When it ended, or was last asked for after its end.
    asked: Instant,
    /// Its work; dropping it would end it.
    work: Option<Task<()>>,
}

#[derive(Debug)]
enum State {
    Running,
    Ended(Outcome),
}

/// A task of a process that has ended, found in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interrupted {
    /// Its id, which the Director goes on asking for.
    pub id: String,
    /// Its method.
    pub method: String,
    /// Its request.
    pub again: Hidden<Vec<u8>>,
}

impl Tasks {
    /// Takes over from the agent's last process: what it finished is known again, and what it had not finished has failed.
    /// The tasks that are to be done again are given back; [`resume`](Self::resume) starts them.
    ///
    /// A file that cannot be read is as good as none: nobody can do anything about it, and new tasks must not wait for it.
    #[must_use]
    pub fn load(path: &Path) -> (Self, Vec<Interrupted>) {
        let (file, remembered) = file::TaskFile::load(path);
        let mut table = Table::default();
        let mut again = Vec::new();
        for task in remembered {
            let outcome = match task.outcome {
                Some(outcome) => outcome,
                None if !task.again.expose().is_empty() => {
                    again.push(Interrupted {
                        id: task.id,
                        method: task.method,
                        again: task.again,
                    });
                    continue;
                }
                None => {
                    let error = format!(
                        "the agent ended while {} was running, and has been started again",
                        task.method
                    );
                    // For a Director that asks only after one more start.
                    file.note_end(&task.id, &Err(error.clone()));
                    Err(error)
                }
            };
            table
                .entries
                .insert(task.id, Entry::ended(task.method, outcome));
        }
        let shared = Shared {
            table: Mutex::new(table),
            file,
            stopping: CancellationToken::new(),
        };
        let tasks = Self {
            shared: Arc::new(shared),
        };
        (tasks, again)
    }

    /// Starts a task. The value is what the request is answered with.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start<F: Future<Output = Outcome> + Send + 'static>(
        &self,
        order: Order,
        work: impl FnOnce(TaskContext) -> F,
    ) -> Result<Value, TaskError> {
        let id = Uuid::new_v4().to_string();
        self.begin(&id, order, work)?;
        self.save().await;
        Ok(running(&id, None))
    }

    /// Starts a task of the last process again, under its id.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn resume<F: Future<Output = Outcome> + Send + 'static>(
        &self,
        interrupted: Interrupted,
        work: impl FnOnce(TaskContext) -> F,
    ) -> Result<(), TaskError> {
        let order = Order {
            method: interrupted.method,
            again: Some(interrupted.again),
            stop: Stop::Never,
        };
        self.begin(&interrupted.id, order, work)
    }

    fn begin<F: Future<Output = Outcome> + Send + 'static>(
        &self,
        id: &str,
        order: Order,
        work: impl FnOnce(TaskContext) -> F,
    ) -> Result<(), TaskError> {
        let context = TaskContext {
            cancel: self.shared.stopping.child_token(),
            progress: Arc::default(),
        };
        let mut table = self.table();
        // Under the lock: what is in the table when the agent stops is waited for, and nothing comes after.
        if self.shared.stopping.is_cancelled() {
            return Err(TaskError::Stopping);
        }
        table.forget(Instant::now());
        let is_running = |entry: &&Entry| matches!(entry.state, State::Running);
        if table.entries.values().filter(is_running).count() >= RUNNING {
            return Err(TaskError::TooMany);
        }
        let running = work(context.clone());
        let tasks = self.clone();
        let own = id.to_owned();
        // The table is locked until the entry is in it, so that even work that ends at once finds it.
        let work = runtime::spawn("task", async move {
            let outcome = running.await;
            tasks.end(&own, outcome).await;
        });
        table.entries.insert(
            id.to_owned(),
            Entry {
                method: order.method,
                again: order.again,
                stop: order.stop,
                state: State::Running,
                context,
                asked: Instant::now(),
                work: Some(work),
            },
        );
        Ok(())
    }

    async fn end(&self, id: &str, outcome: Outcome) {
        // Told only when the file knows it, too: an agent that is killed in between must not tell something else later.
        self.shared.file.note_end(id, &outcome);
        self.save().await;
        if let Some(entry) = self.table().entries.get_mut(id) {
            entry.state = State::Ended(outcome);
            entry.asked = Instant::now();
            // It is this very task that runs here: letting go of it ends it at its next await, of which there is none.
            entry.work = None;
        }
    }

    /// What `get_task` is answered with.
    ///
    /// # Errors
    /// When there is no such task, and the task's own error.
    pub fn get(&self, id: &str) -> Result<Value, TaskError> {
        let mut table = self.table();
        let entry = table.entries.get_mut(id).ok_or_else(|| unknown(id))?;
        match &entry.state {
            State::Running => Ok(running(id, Some(&entry.context.progress))),
            State::Ended(outcome) => {
                entry.asked = Instant::now();
                outcome.clone().map_err(|error| TaskError::Failed {
                    id: id.to_owned(),
                    error,
                })
            }
        }
    }

    /// Has a task stopped. One that has ended is left alone.
    ///
    /// # Errors
    /// When there is no such task, and when it cannot be stopped.
    pub fn cancel(&self, id: &str) -> Result<(), TaskError> {
        let table = self.table();
        let entry = table.entries.get(id).ok_or_else(|| unknown(id))?;
        match (&entry.state, entry.stop) {
            (State::Ended(_), _) => Ok(()),
            (State::Running, Stop::WhenTold) => {
                entry.context.cancel.cancel();
                Ok(())
            }
            (State::Running, Stop::Never) => Err(TaskError::NotCancellable),
        }
    }

    /// Stops all tasks and waits for their ends, at most as long as `limit`. None begins any more. Tells whether all have
    /// ended.
    pub async fn stop(&self, limit: Duration) -> bool {
        self.shared.stopping.cancel();
        let works: Vec<Task<()>> = {
            let mut table = self.table();
            let entries = table.entries.values_mut();
            entries.filter_map(|entry| entry.work.take()).collect()
        };
        let all = futures_util::future::join_all(works);
        tokio::time::timeout(limit, all).await.is_ok()
    }

    async fn save(&self) {
        let unfinished = || -> Vec<file::Unfinished> {
            let table = self.table();
            let running = |(id, entry): (&String, &Entry)| match entry.state {
                State::Running => Some(file::Unfinished {
                    id: id.clone(),
                    method: entry.method.clone(),
                    again: entry.again.clone().unwrap_or_default(),
                }),
                State::Ended(_) => None,
            };
            table.entries.iter().filter_map(running).collect()
        };
        self.shared.file.save(unfinished).await;
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.shared
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Lets go of results that nobody asks for any more.
    fn forget(&mut self, now: Instant) {
        let mut ended: Vec<(Instant, String)> = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.state, State::Ended(_)))
            .map(|(id, entry)| (entry.asked, id.clone()))
            .collect();
        ended.sort();
        let excess = ended.len().saturating_sub(KEPT - 1);
        for (index, (asked, id)) in ended.into_iter().enumerate() {
            if index < excess || now.saturating_duration_since(asked) > KEPT_FOR {
                self.entries.remove(&id);
            }
        }
    }
}

impl Entry {
    fn ended(method: String, outcome: Outcome) -> Self {
        Self {
            method,
            again: None,
            stop: Stop::Never,
            state: State::Ended(outcome),
            context: TaskContext {
                cancel: CancellationToken::new(),
                progress: Arc::default(),
            },
            asked: Instant::now(),
            work: None,
        }
    }
}

fn unknown(id: &str) -> TaskError {
    TaskError::Unknown { id: id.to_owned() }
}

/// What tells a Director that it has to ask again. It must have no key `value`: the Director would take that for the result.
fn running(id: &str, progress: Option<&Progress>) -> Value {
    let mut reply = json!({ "agent_task_id": id, "state": "running" });
    if let Some(progress) = progress.and_then(Progress::shown) {
        reply["progress"] = progress;
    }
    reply
}

#[cfg(test)]
mod tests;
