//! The phases of a compile: reported by `get_task`, and logged with their durations.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::agent::tasks::TaskProgress;
use crate::compile::{Event, Phase};
use crate::release::Name;

/// The phases of one compile.
#[derive(Debug)]
pub(super) struct Phases {
    package: Name,
    progress: Arc<TaskProgress>,
    current: Mutex<Option<(&'static str, Instant)>>,
}

impl Phases {
    pub(super) fn new(package: &Name, progress: &Arc<TaskProgress>) -> Arc<Self> {
        Arc::new(Self {
            package: package.clone(),
            progress: Arc::clone(progress),
            current: Mutex::new(None),
        })
    }

    /// Ends the current phase and enters another.
    pub(super) fn enter(&self, phase: &'static str) {
        self.end();
        self.progress.enter(phase);
        *self.current() = Some((phase, Instant::now()));
    }

    /// Ends the current phase.
    pub(super) fn end(&self) {
        if let Some((phase, since)) = self.current().take() {
            let seconds = format!("{:.3}", since.elapsed().as_secs_f64());
            tracing::info!(package = %self.package, phase, seconds, "phase ended");
        }
    }

    /// Handles an event of the compile core.
    pub(super) fn hear(&self, event: &Event) {
        match event {
            Event::Entered { phase, .. } => self.enter(match phase {
                Phase::Unpacking => "unpacking",
                Phase::Installing => "installing",
                Phase::Waiting | Phase::Ready | Phase::SecondRun { .. } => "waiting",
                Phase::Packaging => "packaging",
                Phase::Packing => "packing",
            }),
            Event::FirstRunFailed { first, .. } => {
                tracing::warn!(package = %self.package, failure = first.failure, "running the script again without restrictions");
            }
            Event::RunWithCopies { lines, .. } => {
                let line = lines.first().map_or("", |line| line.text.as_str());
                tracing::warn!(package = %self.package, line, "compiling the package again with copies of its dependencies");
            }
            Event::TreeChanged {
                dependency,
                changed,
                ..
            } => {
                tracing::warn!(package = %dependency, changes = %changed.difference, suspects = %changed.suspects, "an installed package was changed; installing it again");
            }
            Event::CopyChanged { .. }
            | Event::CopyChangedInUse { .. }
            | Event::SecondRunStarted { .. }
            | Event::SecondRunSucceeded { .. }
            | Event::Denied { .. }
            | Event::Kept { .. }
            | Event::ShellOpened { .. }
            | Event::ShellEnded { .. }
            | Event::ScriptEnded { .. } => {}
            Event::Printed { line, .. } => self.progress.printed(line),
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<(&'static str, Instant)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
