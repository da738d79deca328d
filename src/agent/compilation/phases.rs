//! Tracks the phases of a compile request, and logs the events of the compile core. `get_task` reports
//! the current phase, and the log has one line for each phase, with its duration.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::agent::tasks::TaskProgress;
use crate::compile::{Changed, Denial, Event, FirstRun, Phase};
use crate::release::Name;
use crate::sandbox::ScriptEnd;

/// The log messages about a dependency whose files were changed.
const TREE: &str = "an installed package was changed; installing it again";
const COPY: &str = "the copy of a dependency was changed; copying it again";
const COPY_IN_USE: &str = "the copy of a dependency was changed while a package was compiled";

/// The maximum number of denials (accesses that the isolation refused) or of last lines of a script
/// that are logged.
const LOGGED: usize = 5;

/// The phases of one compile request.
#[derive(Debug)]
pub(super) struct Phases {
    progress: Arc<TaskProgress>,
    current: Mutex<Option<(&'static str, Instant)>>,
}

impl Phases {
    pub(super) fn new(progress: &Arc<TaskProgress>) -> Arc<Self> {
        Arc::new(Self {
            progress: Arc::clone(progress),
            current: Mutex::new(None),
        })
    }

    /// Ends the current phase and enters another one.
    pub(super) fn enter(&self, phase: &'static str) {
        self.end();
        self.progress.enter(phase);
        *self.current() = Some((phase, Instant::now()));
    }

    /// Ends the current phase.
    pub(super) fn end(&self) {
        if let Some((phase, since)) = self.current().take() {
            tracing::info!(phase, seconds = seconds(since), "phase ended");
        }
    }

    /// Shows a text as the last line of the task's progress.
    pub(super) fn report(&self, text: &str) {
        self.progress.printed(text);
    }

    /// Handles an event of the compile core.
    pub(super) fn handle_event(&self, event: &Event) {
        match event {
            Event::Entered { phase, .. } => self.enter(match phase {
                Phase::Unpacking => "unpacking",
                Phase::Installing => "installing",
                // In these phases, the script waits for its first or second run.
                Phase::Waiting | Phase::Ready | Phase::SecondRun { .. } => "waiting",
                Phase::Packaging => "packaging",
                Phase::Packing => "packing",
                // This phase occurs only in `bosh-agent compile` with a server that compiles
                // packages.
                Phase::Queued => "queued",
                Phase::Downloading => "downloading",
            }),
            Event::FirstRunFailed { first, .. } => self.log_first_run(first),
            Event::RunWithCopies { lines, .. } => {
                let line = lines.first().map_or("", |line| line.text.as_str());
                tracing::warn!(
                    line,
                    "compiling the package again with copies of its dependencies"
                );
            }
            Event::SecondRunSucceeded { first, .. } => {
                tracing::warn!(log = %first.log.display(), "the package compiled only in its second run, without restrictions");
                self.log_denials(&first.denials);
                for dependency in &first.undeclared {
                    tracing::warn!(dependency = %dependency, "the first run of the script used a package that is not a declared dependency");
                }
            }
            Event::Denied { denials, .. } => self.log_denials(denials),
            Event::TreeChanged {
                dependency,
                changed,
                ..
            } => self.log_changed(dependency, changed, TREE),
            Event::CopyChanged {
                dependency,
                changed,
                ..
            } => self.log_changed(dependency, changed, COPY),
            Event::CopyChangedInUse {
                dependency,
                changed,
                ..
            } => self.log_changed(dependency, changed, COPY_IN_USE),
            Event::Kept { directory, .. } => {
                tracing::info!(directory = %directory.display(), "keeping the directories of the failed package until the next compile");
            }
            Event::SecondRunStarted { .. }
            | Event::ShellOpened { .. }
            | Event::ShellEnded { .. }
            | Event::ScriptEnded { .. } => {}
            Event::Printed { line, .. } => self.progress.printed(line),
        }
    }

    /// Logs problems that a successful script left behind.
    pub(super) fn log_end(&self, end: &ScriptEnd) {
        if end.left_behind > 0 {
            tracing::warn!(
                processes = end.left_behind,
                "the packaging script left processes running, which were stopped"
            );
        }
        if end.not_ended > 0 {
            tracing::warn!(
                processes = end.not_ended,
                "could not stop processes of the packaging script, which belong to another user"
            );
        }
        if let Some(failure) = &end.output.log_failure {
            tracing::warn!(%failure, "the log of the packaging script is incomplete");
        }
    }

    /// Logs why a restricted first run failed, before the script is run again.
    fn log_first_run(&self, first: &FirstRun) {
        let tail = &first.tail.lines;
        for line in &tail[tail.len().saturating_sub(LOGGED)..] {
            tracing::warn!(line, "one of the last lines of the restricted run");
        }
        let log = first.log.display();
        tracing::warn!(failure = first.failure, %log, "running the script again without restrictions");
    }

    /// Logs which files of a dependency were changed.
    fn log_changed(&self, dependency: &Name, changed: &Changed, what: &'static str) {
        tracing::warn!(%dependency, changes = %changed.difference, suspects = %changed.suspects, "{what}");
    }

    /// Logs the first denials of a script. If the restrictions may have caused some of the denials,
    /// logs only those.
    fn log_denials(&self, denials: &[Denial]) {
        let any_caused = denials.iter().any(Denial::may_be_caused_by_rules);
        let shown = denials
            .iter()
            .filter(|denial| !any_caused || denial.may_be_caused_by_rules());
        for denial in shown.take(LOGGED) {
            let paths: Vec<String> = denial
                .closed
                .iter()
                .map(|(path, _)| path.display().to_string())
                .collect();
            tracing::warn!(
                line = denial.line,
                paths = paths.join(", "),
                "a restricted script was denied access"
            );
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<(&'static str, Instant)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The seconds since a time, with milliseconds.
pub(super) fn seconds(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
}
