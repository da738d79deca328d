//! `tasks.json`: what the next process of the agent must know of this one's tasks.
//!
//! An object with one entry for each task, in the Go agent's form (`TaskID`, `Method`, `Payload` in base64), so that either
//! agent can follow the other. A task that has ended has `Outcome` beside it, which the Go agent ignores.

use std::collections::VecDeque;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::Outcome;
use crate::config::Hidden;
use crate::diag::Chain;
use crate::fs::Context as _;
use crate::{fs, runtime};

/// How many results outlive the process. A Director that asks after a restart asks for the last one.
const REMEMBERED: usize = 20;

/// A result that is larger, in bytes, does not.
const LARGEST: usize = 256 * 1024;

/// The file, and the results that it holds.
#[derive(Debug)]
pub(super) struct TaskFile {
    path: PathBuf,
    ended: Mutex<VecDeque<(String, Outcome)>>,
    /// Held while the file is written, so that no older state overwrites a newer one.
    writing: tokio::sync::Mutex<()>,
}

/// A task that runs.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub id: String,
    pub method: String,
    pub again: Hidden<Vec<u8>>,
}

/// A task in the file. Without an outcome it had not ended.
#[derive(Debug)]
pub(super) struct Remembered {
    pub id: String,
    pub method: String,
    pub again: Hidden<Vec<u8>>,
    pub outcome: Option<Outcome>,
}

impl TaskFile {
    /// Reads the file. What cannot be read is told in the log and left out.
    pub(super) fn load(path: &Path) -> (Self, Vec<Remembered>) {
        let remembered = read(path).unwrap_or_else(|reason| {
            tracing::warn!(path = %path.display(), reason, "the tasks of the last process are unknown");
            Vec::new()
        });
        let ended = remembered
            .iter()
            .filter_map(|task| Some((task.id.clone(), task.outcome.clone()?)))
            .collect();
        let file = Self {
            path: path.to_owned(),
            ended: Mutex::new(ended),
            writing: tokio::sync::Mutex::new(()),
        };
        (file, remembered)
    }

    /// Notes a result for the next writing.
    pub(super) fn note_end(&self, id: &str, outcome: &Outcome) {
        let size = match outcome {
            Ok(value) => value.to_string().len(),
            Err(error) => error.len(),
        };
        if size > LARGEST {
            return;
        }
        let mut ended = self.ended();
        ended.push_back((id.to_owned(), outcome.clone()));
        while ended.len() > REMEMBERED {
            ended.pop_front();
        }
    }

    /// Writes the file. A disk that is full stops no task: it is told in the log.
    pub(super) async fn save(&self, unfinished: impl Fn() -> Vec<Unfinished>) {
        let _turn = self.writing.lock().await;
        let bytes = self.contents(unfinished());
        let path = self.path.clone();
        let writing = runtime::spawn_blocking("tasks.json", move || write(&path, &bytes));
        match writing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = %Chain(&error), "tasks.json is not written"),
            Err(error) => tracing::warn!(error = %Chain(&error), "tasks.json is not written"),
        }
    }

    fn contents(&self, unfinished: Vec<Unfinished>) -> Vec<u8> {
        let mut tasks = Map::new();
        for task in unfinished {
            let payload = STANDARD.encode(task.again.expose());
            tasks.insert(
                task.id.clone(),
                json!({ "TaskID": task.id, "Method": task.method, "Payload": payload }),
            );
        }
        // Last: a task that is about to end is in both lists.
        for (id, outcome) in self.ended().iter() {
            let outcome = match outcome {
                Ok(value) => json!({ "value": value }),
                Err(error) => json!({ "error": error }),
            };
            tasks.insert(
                id.clone(),
                json!({ "TaskID": id, "Method": "", "Payload": "", "Outcome": outcome }),
            );
        }
        Value::Object(tasks).to_string().into_bytes()
    }

    fn ended(&self) -> MutexGuard<'_, VecDeque<(String, Outcome)>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By renaming, so that a reader finds the old file or the new one. It does not wait for the disk: what it guards against is
/// the end of the process, not of the machine, whose tasks are lost with it.
fn write(path: &Path, bytes: &[u8]) -> fs::Result<()> {
    let new = path.with_extension("json.new");
    let mut options = std::fs::OpenOptions::new();
    // Requests with keys may be in it.
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = fs::open_with(&options, &new)?;
    file.write_all(bytes).at("write", &new)?;
    fs::rename(&new, path)
}

fn read(path: &Path) -> Result<Vec<Remembered>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        Err(error) => return Err(Chain(&error).to_string()),
    };
    // The error's own text may show a part of the file.
    let tasks: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|error| {
        format!(
            "no JSON object (line {}, column {})",
            error.line(),
            error.column()
        )
    })?;
    let remembered = tasks.into_iter().map(|(id, task)| {
        let text = |key: &str| task[key].as_str().unwrap_or_default();
        let error = task["Outcome"]["error"].as_str();
        let outcome = match (error, task["Outcome"].get("value")) {
            (Some(error), _) => Some(Err(error.to_owned())),
            (None, Some(value)) => Some(Ok(value.clone())),
            (None, None) => None,
        };
        Remembered {
            id,
            method: text("Method").to_owned(),
            again: Hidden::new(STANDARD.decode(text("Payload")).unwrap_or_default()),
            outcome,
        }
    });
    Ok(remembered.collect())
}
