//! The state of a package that is being compiled, for the progress display: its phase, and how long it took.

use std::time::{Duration, Instant};

use crate::compile::Phase;
use crate::diag::Elapsed;

/// The minimum duration of a wait that is reported.
const REPORTED_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Running {
    pub(super) name: String,
    /// Name and version, and the releases with the package if the run has several.
    pub(super) label: String,
    /// When the package started.
    pub(super) since: Instant,
    /// When the last reminder about the package was printed; at first, when the package started.
    pub(super) reminded: Instant,
    /// The current phase. `None` before the first one.
    pub(super) phase: Option<Phase>,
    /// When the current phase began.
    pub(super) entered: Instant,
    /// How long the package waited in earlier phases.
    pub(super) waited: Duration,
    /// The last line that the script printed in the current phase.
    pub(super) line: String,
}

/// How long a package took since its `Compiling package` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::offline) struct Took {
    /// The time from start to end, including waiting.
    pub total: Duration,
    /// How long the package waited for others.
    pub waited: Duration,
}

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", Elapsed(self.total))?;
        if self.waited >= REPORTED_WAIT {
            write!(f, " ({} of it waiting)", Elapsed(self.waited))?;
        }
        Ok(())
    }
}

impl Running {
    pub(super) fn enter(&mut self, phase: Phase, now: Instant) {
        self.waited = self.waited_until(now);
        self.phase = Some(phase);
        self.entered = now;
        // Clear the line of the script, because it does not describe the next phase.
        self.line.clear();
    }

    fn waited_until(&self, now: Instant) -> Duration {
        let current = match self.is_waiting() {
            true => now.saturating_duration_since(self.entered),
            false => Duration::ZERO,
        };
        self.waited + current
    }

    pub(super) fn is_waiting(&self) -> bool {
        match self.phase {
            None
            | Some(Phase::Waiting | Phase::Ready | Phase::Queued | Phase::SecondRun { .. }) => true,
            Some(
                Phase::Unpacking
                | Phase::Installing
                | Phase::Packaging
                | Phase::Packing
                | Phase::Downloading,
            ) => false,
        }
    }

    pub(super) fn took(&self, now: Instant) -> Took {
        Took {
            total: now.saturating_duration_since(self.since),
            waited: self.waited_until(now),
        }
    }

    /// The current phase, with the last line of the script.
    pub(super) fn doing(&self) -> String {
        match self.line.as_str() {
            "" => described(self.phase),
            line => format!("{}: {line}", described(self.phase)),
        }
    }

    pub(super) fn reminder(&self, now: Instant) -> String {
        format!(
            "Still compiling package {} after {}, {}",
            self.label,
            self.took(now),
            self.doing()
        )
    }
}

/// The text of a phase.
fn described(phase: Option<Phase>) -> String {
    let Some(phase) = phase else {
        return "waiting to start".to_owned();
    };
    let text = match phase {
        Phase::Waiting => "waiting for packages that use the same directories",
        Phase::SecondRun { running: 1 } => {
            "waiting for 1 running packaging script before the second run"
        }
        Phase::SecondRun { running } => {
            return format!(
                "waiting for {running} running packaging scripts before the second run"
            );
        }
        Phase::Unpacking => "unpacking the source",
        Phase::Installing => "installing dependencies",
        Phase::Ready => "waiting for another script to end",
        Phase::Queued => "waiting for a machine",
        Phase::Packaging => "running its packaging script",
        Phase::Packing => "packing the result",
        Phase::Downloading => "downloading the result",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(since: Instant) -> Running {
        Running {
            name: "app".to_owned(),
            label: "app/1".to_owned(),
            since,
            reminded: since,
            phase: None,
            entered: since,
            waited: Duration::ZERO,
            line: String::new(),
        }
    }

    #[test]
    fn reminder_and_end_measure_the_same_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut app = running(start);
        app.enter(Phase::Unpacking, at(2));
        app.enter(Phase::Ready, at(3));
        assert_eq!(
            app.reminder(at(60)),
            "Still compiling package app/1 after 1m00s (59.0s of it waiting), waiting for another script to end"
        );
        app.enter(Phase::Packaging, at(70));
        app.line = "+ make".to_owned();
        assert_eq!(
            app.reminder(at(120)),
            "Still compiling package app/1 after 2m00s (1m09s of it waiting), running its packaging script: + make"
        );
        assert_eq!(app.took(at(125)).to_string(), "2m05s (1m09s of it waiting)");
    }

    #[test]
    fn last_line_of_the_script_goes_with_its_phase() {
        let start = Instant::now();
        let mut app = running(start);
        app.enter(Phase::Packaging, start);
        app.line = "+ make install".to_owned();
        app.enter(Phase::Packing, start);
        assert_eq!(app.doing(), "packing the result");
        app.enter(Phase::SecondRun { running: 2 }, start);
        assert!(
            app.doing()
                .starts_with("waiting for 2 running packaging scripts")
        );
        assert_eq!(
            app.took(start + Duration::from_millis(1500)).to_string(),
            "1.5s (1.5s of it waiting)"
        );
    }
}
