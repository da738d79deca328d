//! What a person sees while it works: lines for a log, and on a terminal a bar that lives above them.
//!
//! The lines that the Go agent prints begin here as they do there, for there are scripts that look for them.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

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
    phase: &'static str,
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
                phase: "",
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
        if let Event::Retried {
            package,
            failure,
            undeclared,
            ..
        } = &event
        {
            let names: Vec<&str> = undeclared.iter().map(Name::as_str).collect();
            let undeclared = match names.join(", ") {
                none if none.is_empty() => none,
                names => format!("; it speaks of undeclared packages: {names}"),
            };
            self.line(&format!(
                "Warning: {failure} where it reaches nothing but its declared dependencies{undeclared}. {package} is tried \
                 once more by itself, with nothing kept from it"
            ));
        }
        let mut state = self.state();
        let (Event::Entered { job, .. } | Event::Retried { job, .. } | Event::Printed { job, .. }) =
            &event;
        let Some(running) = state.running.get_mut(job) else {
            return;
        };
        match event {
            Event::Retried { .. } => {}
            Event::Entered { phase, .. } => running.phase = described(phase),
            Event::Printed { line, .. } => running.line = line,
        }
        if let Some(bar) = &running.bar {
            bar.set_message(match running.line.as_str() {
                "" => running.phase.to_owned(),
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

fn described(phase: Phase) -> &'static str {
    match phase {
        Phase::Unpacking => "unpacking the source",
        Phase::Installing => "installing dependencies",
        Phase::Ready => "waiting for another script to end",
        Phase::Packaging => "running its packaging script",
        Phase::Packing => "packing the result",
    }
}
