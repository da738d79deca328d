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

/// Waiting for less is not mentioned.
const WORTH_TELLING: Duration = Duration::from_secs(1);

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
    phase: Shown,
    /// When the phase began, and how long it waited in phases before.
    entered: Instant,
    waited: Duration,
    /// The last line that the script printed in this phase.
    line: String,
    bar: Option<ProgressBar>,
}

/// A phase, as a person reads it.
#[derive(Debug, Clone, Copy)]
struct Shown {
    text: &'static str,
    is_waiting: bool,
}

/// Before the first phase: the place where the package is compiled may be taken.
const BEGINNING: Shown = Shown {
    text: "waiting for a place to be compiled in",
    is_waiting: true,
};

/// Between a first and a second run of a script.
const AGAIN: Shown = Shown {
    text: "waiting for the other scripts to end, to be tried once more by itself",
    is_waiting: true,
};

/// How long a package took, from the line that says that it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Took {
    /// All of it.
    pub total: Duration,
    /// How long it only waited for others.
    pub waited: Duration,
}

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", Elapsed(self.total))?;
        if self.waited >= WORTH_TELLING {
            write!(f, " ({} of it waiting)", Elapsed(self.waited))?;
        }
        Ok(())
    }
}

impl Running {
    fn enter(&mut self, phase: Shown, now: Instant) {
        self.waited = self.waited_until(now);
        self.phase = phase;
        self.entered = now;
        // What the script printed says nothing of another phase.
        self.line.clear();
    }

    fn waited_until(&self, now: Instant) -> Duration {
        let current = match self.phase.is_waiting {
            true => now.saturating_duration_since(self.entered),
            false => Duration::ZERO,
        };
        self.waited + current
    }

    fn took(&self, now: Instant) -> Took {
        Took {
            total: now.saturating_duration_since(self.since),
            waited: self.waited_until(now),
        }
    }

    /// What it is doing, with the last line of its script.
    fn doing(&self) -> String {
        match self.line.as_str() {
            "" => self.phase.text.to_owned(),
            line => format!("{}: {line}", self.phase.text),
        }
    }

    fn reminder(&self, now: Instant) -> String {
        format!(
            "Still compiling package {} after {}, {}",
            self.label,
            self.took(now),
            self.doing()
        )
    }
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

    /// The job of a package begins. Where a call has several releases, those that have the package are named.
    pub(super) fn start(&self, job: usize, name: &Name, version: &Version, releases: &[String]) {
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
                phase: BEGINNING,
                entered: now,
                waited: Duration::ZERO,
                line: String::new(),
                bar,
            },
        );
        drop(state);
        let of = match releases {
            [] => String::new(),
            [only] => format!(" for release {only}"),
            several => format!(" for releases {}", several.join(", ")),
        };
        self.line(&format!("Compiling package {label} ({position}){of}"));
    }

    /// A job has ended, well or not. Returns how long it took, if it was started.
    pub(super) fn end(&self, job: usize) -> Option<Took> {
        let running = self.state().running.remove(&job)?;
        let took = running.took(Instant::now());
        if let (Some(bar), Some(bars)) = (running.bar, &self.bars) {
            bar.finish_and_clear();
            bars.remove(&bar);
        }
        Some(took)
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
            Event::Retried { .. } => running.enter(AGAIN, Instant::now()),
            Event::Entered { phase, .. } => running.enter(described(phase), Instant::now()),
            // One that comes late is of a phase that has ended.
            Event::Printed { line, .. } if !running.phase.is_waiting => running.line = line,
            Event::Printed { .. } => {}
        }
        if let Some(bar) = &running.bar {
            bar.set_message(running.doing());
        }
    }

    /// Some time has gone by.
    pub(super) fn tick(&self) {
        let mut reminders = Vec::new();
        let now = Instant::now();
        for running in self.state().running.values_mut() {
            match &running.bar {
                Some(bar) => bar.tick(),
                None if running.reminded.elapsed() >= REMINDER => {
                    running.reminded = now;
                    reminders.push(running.reminder(now));
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

fn described(phase: Phase) -> Shown {
    let text = match phase {
        Phase::Unpacking => "unpacking the source",
        Phase::Installing => "installing dependencies",
        Phase::Ready => "waiting for another script to end",
        Phase::Packaging => "running its packaging script",
        Phase::Packing => "packing the result",
    };
    Shown {
        text,
        is_waiting: phase == Phase::Ready,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(since: Instant) -> Running {
        Running {
            label: "app/1".to_owned(),
            since,
            reminded: since,
            phase: BEGINNING,
            entered: since,
            waited: Duration::ZERO,
            line: String::new(),
            bar: None,
        }
    }

    #[test]
    fn reminder_and_end_measure_the_same_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut app = running(start);
        app.enter(described(Phase::Unpacking), at(2));
        app.enter(described(Phase::Ready), at(3));
        assert_eq!(
            app.reminder(at(60)),
            "Still compiling package app/1 after 1m00s (59.0s of it waiting), waiting for another script to end"
        );
        app.enter(described(Phase::Packaging), at(70));
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
        app.enter(described(Phase::Packaging), start);
        app.line = "+ make install".to_owned();
        app.enter(described(Phase::Packing), start);
        assert_eq!(app.doing(), "packing the result");
        app.enter(AGAIN, start);
        assert!(app.doing().starts_with("waiting for the other scripts"));
        assert_eq!(
            app.took(start + Duration::from_millis(1500)).to_string(),
            "1.5s (1.5s of it waiting)"
        );
    }

    #[test]
    fn line_that_arrives_while_a_package_waits_is_not_shown() {
        let progress = Progress::to_stderr(false);
        progress.expect(1);
        let parse = |text| Name::parse(text).unwrap();
        progress.start(0, &parse("app"), &Version::parse("1").unwrap(), &[]);
        let entered = |phase| Event::Entered {
            job: 0,
            package: parse("app"),
            phase,
        };
        let printed = || Event::Printed {
            job: 0,
            package: parse("app"),
            line: "+ make".to_owned(),
        };
        progress.hear(entered(Phase::Packaging));
        progress.hear(printed());
        let doing = || progress.state().running[&0].doing();
        assert_eq!(doing(), "running its packaging script: + make");
        progress.hear(Event::Retried {
            job: 0,
            package: parse("app"),
            failure: String::new(),
            undeclared: Vec::new(),
        });
        progress.hear(printed());
        assert!(!doing().contains("make"), "{}", doing());
        assert!(progress.end(0).is_some());
        assert!(progress.end(0).is_none());
    }
}
