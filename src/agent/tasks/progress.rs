//! What is told of a task while it runs.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

/// How many characters of a line are told.
const LINE_LIMIT: usize = 200;

/// Where a task stands.
#[derive(Debug, Default)]
pub struct Progress {
    step: Mutex<Option<Step>>,
}

#[derive(Debug)]
struct Step {
    phase: &'static str,
    since: Instant,
    last_line: Option<String>,
}

impl Progress {
    /// The task enters a phase.
    pub fn enter(&self, phase: &'static str) {
        *self.step() = Some(Step {
            phase,
            since: Instant::now(),
            last_line: None,
        });
    }

    /// Its script has printed something.
    pub fn printed(&self, line: &str) {
        if let Some(step) = self.step().as_mut() {
            step.last_line = Some(line.chars().take(LINE_LIMIT).collect());
        }
    }

    /// Phase, seconds in it, and the last line; `None` before the first phase.
    pub(super) fn shown(&self) -> Option<Value> {
        let step = self.step();
        let step = step.as_ref()?;
        let mut shown = json!({ "phase": step.phase, "seconds": step.since.elapsed().as_secs() });
        if let Some(line) = &step.last_line {
            shown["last_line"] = json!(line);
        }
        Some(shown)
    }

    fn step(&self) -> MutexGuard<'_, Option<Step>> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
