//! The progress of a running task, as `get_task` reports it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

/// The maximum length of a reported line, in characters.
const LINE_LIMIT: usize = 200;

/// The current phase of a task, and the last line of its script's output or of messages about the phase.
#[derive(Debug, Default)]
pub(crate) struct TaskProgress {
    current: Mutex<Option<CurrentPhase>>,
}

#[derive(Debug)]
struct CurrentPhase {
    phase: &'static str,
    since: Instant,
    last_line: Option<String>,
}

impl TaskProgress {
    /// Enters a phase.
    pub(crate) fn enter(&self, phase: &'static str) {
        *self.current() = Some(CurrentPhase {
            phase,
            since: Instant::now(),
            last_line: None,
        });
    }

    /// Records a line that the task's script printed, or a message about the current phase, as the last line.
    pub(crate) fn printed(&self, line: &str) {
        if let Some(current) = self.current().as_mut() {
            current.last_line = Some(line.chars().take(LINE_LIMIT).collect());
        }
    }

    /// The phase, the seconds since its start, and the last line; `None` before the first phase.
    pub(super) fn shown(&self) -> Option<Value> {
        let current = self.current();
        let current = current.as_ref()?;
        let mut shown =
            json!({ "phase": current.phase, "seconds": current.since.elapsed().as_secs() });
        if let Some(line) = &current.last_line {
            shown["last_line"] = json!(line);
        }
        Some(shown)
    }

    fn current(&self) -> MutexGuard<'_, Option<CurrentPhase>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
