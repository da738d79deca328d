//! `tasks.json`: a file with the agent's tasks, from which the next process of the agent loads
//! them.
//!
//! The file is an object with one entry per task, in the Go agent's format (`TaskID`, `Method`,
//! `Payload` in base64), so that either agent can replace the other. A task that has ended also has
//! an `Outcome`, which the Go agent ignores.

use std::collections::VecDeque;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{TaskFailure, TaskOutcome};
use crate::config::Hidden;
use crate::diag::Chain;
use crate::fs::Context as _;
use crate::{fs, runtime};

/// The number of results that are saved. After a restart of the agent, a Director polls only for the
/// latest task.
const SAVED: usize = 20;

/// The largest result that is saved, in bytes.
const MAX_RESULT: usize = 256 * 1024;

/// The file, and the results that it contains.
#[derive(Debug)]
pub(super) struct TaskFile {
    path: PathBuf,
    ended: Mutex<VecDeque<(String, TaskOutcome)>>,
    /// Locked while the file is written, so that an older state cannot overwrite a newer one.
    writing: tokio::sync::Mutex<()>,
}

/// A running task, as the file contains it. `request` is empty if the task cannot be resumed.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub id: String,
    pub method: String,
    pub request: Hidden<Vec<u8>>,
}

/// A task in the file. A task without an outcome was running when the process ended.
#[derive(Debug)]
pub(super) struct SavedTask {
    pub id: String,
    pub method: String,
    pub request: Hidden<Vec<u8>>,
    pub outcome: Option<TaskOutcome>,
}

impl TaskFile {
    /// Reads the file. If that fails, logs the error and starts without tasks.
    pub(super) fn load(path: &Path) -> (Self, Vec<SavedTask>) {
        let saved = read(path).unwrap_or_else(|reason| {
            tracing::warn!(path = %path.display(), reason, "cannot read the tasks of the last process");
            Vec::new()
        });
        let ended = saved
            .iter()
            .filter_map(|task| Some((task.id.clone(), task.outcome.clone()?)))
            .collect();
        let file = Self {
            path: path.to_owned(),
            ended: Mutex::new(ended),
            writing: tokio::sync::Mutex::new(()),
        };
        (file, saved)
    }

    /// Adds a result. The next [`save`](Self::save) writes it.
    pub(super) fn note_end(&self, id: &str, outcome: &TaskOutcome) {
        if super::size(outcome) > MAX_RESULT {
            return;
        }
        let mut ended = self.ended();
        ended.push_back((id.to_owned(), outcome.clone()));
        while ended.len() > SAVED {
            ended.pop_front();
        }
    }

    /// Writes the file. A failure is only logged, because a full disk must not stop tasks.
    pub(super) async fn save(&self, unfinished: impl Fn() -> Vec<Unfinished>) {
        let _turn = self.writing.lock().await;
        let bytes = self.contents(unfinished());
        let path = self.path.clone();
        let writing = runtime::spawn_blocking("tasks.json", move || write(&path, &bytes));
        match writing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = %Chain(&error), "failed to write tasks.json"),
            Err(error) => tracing::warn!(error = %Chain(&error), "failed to write tasks.json"),
        }
    }

    fn contents(&self, unfinished: Vec<Unfinished>) -> Vec<u8> {
        let mut tasks = Map::new();
        for task in unfinished {
            let payload = STANDARD.encode(task.request.expose());
            tasks.insert(
                task.id.clone(),
                json!({ "TaskID": task.id, "Method": task.method, "Payload": payload }),
            );
        }
        // Insert results last, because a task that is ending is in both lists.
        for (id, outcome) in self.ended().iter() {
            let outcome = match outcome {
                Ok(value) => json!({ "value": value }),
                Err(failure) => json!({ "error": failure.message, "log": failure.log }),
            };
            tasks.insert(
                id.clone(),
                json!({ "TaskID": id, "Method": "", "Payload": "", "Outcome": outcome }),
            );
        }
        Value::Object(tasks).to_string().into_bytes()
    }

    fn ended(&self) -> MutexGuard<'_, VecDeque<(String, TaskOutcome)>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the file by renaming, so that a reader finds either the old file or the new one. The file
/// is not flushed to the disk, because it is needed after a restart of the agent only: after a
/// restart of the machine, no script is running.
fn write(path: &Path, bytes: &[u8]) -> fs::Result<()> {
    let new = path.with_extension("json.new");
    let mut options = std::fs::OpenOptions::new();
    // The file may contain requests with secrets, so only the owner may read it.
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = fs::open_with(&options, &new)?;
    file.write_all(bytes).at("write", &new)?;
    fs::rename(&new, path)
}

fn read(path: &Path) -> Result<Vec<SavedTask>, String> {
    let bytes = fs::if_there(fs::read(path)).map_err(|error| Chain(&error).to_string())?;
    let Some(bytes) = bytes else {
        return Ok(Vec::new());
    };
    // Do not show the text of the error, because it may contain parts of the file.
    let tasks: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|error| {
        format!(
            "invalid JSON at line {}, column {}",
            error.line(),
            error.column()
        )
    })?;
    let saved = tasks.into_iter().map(|(id, task)| {
        let text = |key: &str| task[key].as_str().unwrap_or_default();
        let error = task["Outcome"]["error"].as_str();
        let outcome = match (error, task["Outcome"].get("value")) {
            (Some(error), _) => Some(Err(TaskFailure {
                message: error.to_owned(),
                log: task["Outcome"]["log"].as_str().map(str::to_owned),
            })),
            (None, Some(value)) => Some(Ok(value.clone())),
            (None, None) => None,
        };
        SavedTask {
            id,
            method: text("Method").to_owned(),
            request: Hidden::new(STANDARD.decode(text("Payload")).unwrap_or_default()),
            outcome,
        }
    });
    Ok(saved.collect())
}
