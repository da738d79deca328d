//! What a person sees while it works: lines for a log, and on a terminal a bar that lives above them.
//!
//! The lines that the Go agent prints begin here as they do there, for there are scripts that look for them.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::second_run;
use crate::compile::{Event, Phase};
use crate::diag::Elapsed;
use crate::release::{Name, Version};

/// Where there is no terminal, a package that takes long is mentioned this often.
const REMINDER: Duration = Duration::from_secs(60);

/// Tells a person how far the work is.
#[derive(Debug)]
pub struct Progress {
    bars: Option<MultiProgress>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By the numbers of their jobs.
    running: BTreeMap<usize, Running>,
    started: usize,
    total: usize,
}

#[derive(Debug)]
struct Running {
    label: String,
    since: Instant,
    reminded: Instant,
    phase: String,
    line: String,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Writes to stderr; with bars where that is a terminal.
    #[must_use]
    pub fn to_stderr(is_terminal: bool) -> Self {
        Self {
            bars: is_terminal
                .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr())),
            state: Mutex::default(),
        }
    }

    /// Prints lines, above the bars where there are any.
    pub fn line(&self, text: &str) {
        let print = || {
            // Nobody reads it: that is no reason to stop.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        };
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    /// So many packages are to be compiled.
    pub(super) fn expect(&self, total: usize) {
        let mut state = self.state();
        state.total = total;
        state.started = 0;
    }

    /// The job of a package begins.
    pub(super) fn start(&self, job: usize, name: &Name, version: &Version) {
        let mut state = self.state();
        state.started += 1;
        let position = format!("{} of {}", state.started, state.total);
        let label = format!("{name}/{version}");
        let now = Instant::now();
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_prefix(format!("[{position}] {name}"));
            bar
        });
        state.running.insert(
            job,
            Running {
                label: label.clone(),
                since: now,
                reminded: now,
                phase: String::new(),
                line: String::new(),
                bar,
            },
        );
        drop(state);
        self.line(&format!("Compiling package {label} ({position})"));
    }

    /// A job has ended, well or not.
    pub(super) fn end(&self, job: usize) {
        if let Some(running) = self.state().running.remove(&job)
            && let (Some(bar), Some(bars)) = (running.bar, &self.bars)
        {
            bar.finish_and_clear();
            bars.remove(&bar);
        }
    }

    /// The packages whose packaging scripts run.
    pub fn scripts(&self) -> Vec<String> {
        let is_running = |running: &&Running| running.phase == described(Phase::Packaging);
        let name = |running: &Running| match running.label.split_once('/') {
            Some((name, _version)) => name.to_owned(),
            None => running.label.clone(),
        };
        self.state()
            .running
            .values()
            .filter(is_running)
            .map(name)
            .collect()
    }

    /// The core tells something.
    pub(super) fn hear(&self, event: Event) {
        let (job, phase) = match event {
            Event::FirstRunFailed {
                package,
                first,
                running,
                ..
            } => return self.line(&second_run::failed(&package, &first, running)),
            Event::SecondRunStarted { package, .. } => {
                return self.line(&format!(
                    "Compiling package {package} again, alone and without restrictions"
                ));
            }
            Event::SecondRunSucceeded { package, first, .. } => {
                return self.line(&second_run::succeeded(&package, &first));
            }
            Event::Denied {
                package, denials, ..
            } => return self.line(&second_run::ignored(&package, &denials)),
            Event::Entered { job, phase, .. } => (job, Some(phase)),
            Event::Printed { job, line, .. } => {
                if let Some(running) = self.state().running.get_mut(&job) {
                    running.line = line;
                }
                (job, None)
            }
        };
        let mut state = self.state();
        let Some(running) = state.running.get_mut(&job) else {
            return;
        };
        if let Some(phase) = phase {
            running.phase = described(phase);
            if let Phase::SecondRun { .. } = phase {
                // It is the first run's.
                running.line.clear();
            }
        }
        if let Some(bar) = &running.bar {
            bar.set_message(match running.line.as_str() {
                "" => running.phase.clone(),
                line => format!("{}: {line}", running.phase),
            });
        }
    }

    /// Some time has gone by.
    pub(super) fn tick(&self) {
        let mut reminders = Vec::new();
        for running in self.state().running.values_mut() {
            match &running.bar {
                Some(bar) => bar.tick(),
                None if running.reminded.elapsed() >= REMINDER => {
                    running.reminded = Instant::now();
                    reminders.push(format!(
                        "Still compiling package {} after {}, {}{}{}",
                        running.label,
                        Elapsed(running.since.elapsed()),
                        running.phase,
                        if running.line.is_empty() { "" } else { ": " },
                        running.line
                    ));
                }
                None => {}
            }
        }
        for reminder in reminders {
            self.line(&reminder);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is shown is worth showing even after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn described(phase: Phase) -> String {
    let text = match phase {
        Phase::Waiting => "waiting for packages that are in its way",
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
        Phase::Packaging => "running its packaging script",
        Phase::Packing => "packing the result",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_package_is_shown_with_what_it_waits_for() {
        let progress = Progress::to_stderr(false);
        let (package, version) = (Name::parse("app").unwrap(), Version::parse("1").unwrap());
        progress.start(0, &package, &version);
        progress.hear(Event::Printed {
            job: 0,
            package: package.clone(),
            line: "make: *** [all] Error 1".to_owned(),
        });
        for (running, expected) in [
            (
                2,
                "waiting for 2 running packaging scripts before the second run",
            ),
            (
                1,
                "waiting for 1 running packaging script before the second run",
            ),
        ] {
            progress.hear(Event::Entered {
                job: 0,
                package: package.clone(),
                phase: Phase::SecondRun { running },
            });
            let state = progress.state();
            let shown = &state.running[&0];
            assert_eq!((shown.phase.as_str(), shown.line.as_str()), (expected, ""));
        }
    }
}
