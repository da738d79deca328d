//! Progress of a run: lines for a log and, on a terminal, a bar per running package.
//!
//! Scripts look for the Go agent's lines, so those lines keep the Go agent's wording.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{changed, second_run, shell};
use crate::compile::{Event, Phase};
use crate::diag::Elapsed;
use crate::release::{Name, Version};

/// Without a terminal, the interval of reminders about a running package.
const REMINDER: Duration = Duration::from_secs(60);

/// Shorter waits are not reported.
const REPORTED_WAIT: Duration = Duration::from_secs(1);

/// Prints the progress of a run to stderr.
#[derive(Debug)]
pub struct Progress {
    bars: Option<MultiProgress>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The running packages by job number.
    running: BTreeMap<usize, Running>,
    started: usize,
    total: usize,
    /// The lines to print when the terminal is free again; `None` while it is free.
    held: Option<Vec<String>>,
}

#[derive(Debug)]
struct Running {
    label: String,
    since: Instant,
    reminded: Instant,
    /// `None` before the first phase.
    phase: Option<Phase>,
    /// When the current phase began.
    entered: Instant,
    /// How long the package waited in earlier phases.
    waited: Duration,
    /// The last line that the script printed in the current phase.
    line: String,
    bar: Option<ProgressBar>,
}

/// How long a package took since its `Compiling package` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Took {
    /// From start to end, waiting included.
    pub total: Duration,
    /// How long it waited for other packages.
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
    fn enter(&mut self, phase: Phase, now: Instant) {
        self.waited = self.waited_until(now);
        self.phase = Some(phase);
        self.entered = now;
        // A line of the script does not describe any other phase.
        self.line.clear();
    }

    fn waited_until(&self, now: Instant) -> Duration {
        let current = match self.is_waiting() {
            true => now.saturating_duration_since(self.entered),
            false => Duration::ZERO,
        };
        self.waited + current
    }

    fn is_waiting(&self) -> bool {
        match self.phase {
            None | Some(Phase::Waiting | Phase::Ready | Phase::SecondRun { .. }) => true,
            Some(Phase::Unpacking | Phase::Installing | Phase::Packaging | Phase::Packing) => false,
        }
    }

    fn took(&self, now: Instant) -> Took {
        Took {
            total: now.saturating_duration_since(self.since),
            waited: self.waited_until(now),
        }
    }

    /// The current phase, with the last line of the script.
    fn doing(&self) -> String {
        match self.line.as_str() {
            "" => described(self.phase),
            line => format!("{}: {line}", described(self.phase)),
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
    /// Writes to stderr, with bars if it is a terminal.
    #[must_use]
    pub fn to_stderr(is_terminal: bool) -> Self {
        Self {
            bars: is_terminal
                .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr())),
            state: Mutex::default(),
        }
    }

    /// Prints one or more lines above the bars, or holds them back while the terminal is in use.
    pub fn line(&self, text: &str) {
        if let Some(held) = &mut self.state().held {
            held.push(text.to_owned());
            return;
        }
        let print = || {
            // A closed stderr must not stop the run.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        };
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    /// Prints nothing until [`resume`](Self::resume): a shell uses the terminal.
    fn hold(&self) {
        if let Some(bars) = &self.bars {
            // A terminal that is gone shows no bars.
            let _ = bars.clear();
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
        self.state().held = Some(Vec::new());
    }

    /// Prints what was held back.
    pub fn resume(&self) {
        let held = self.state().held.take();
        let Some(held) = held else {
            return;
        };
        if let Some(bars) = &self.bars {
            bars.set_draw_target(ProgressDrawTarget::stderr());
        }
        for line in held {
            self.line(&line);
        }
    }

    /// Sets the number of packages to compile.
    pub(super) fn expect(&self, total: usize) {
        let mut state = self.state();
        state.total = total;
        state.started = 0;
    }

    /// Reports the start of a job. `releases` are the releases with the package, if the run has
    /// several.
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
                phase: None,
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

    /// Removes an ended job, successful or not. Returns how long it took, if it was started.
    pub(super) fn end(&self, job: usize) -> Option<Took> {
        let running = self.state().running.remove(&job)?;
        let took = running.took(Instant::now());
        if let (Some(bar), Some(bars)) = (running.bar, &self.bars) {
            bar.finish_and_clear();
            bars.remove(&bar);
        }
        Some(took)
    }

    /// The packages whose packaging scripts are running.
    pub fn scripts(&self) -> Vec<String> {
        let is_running = |running: &&Running| running.phase == Some(Phase::Packaging);
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

    /// Shows an event of the compile core.
    pub(super) fn show(&self, event: Event) {
        let (job, phase) = match event {
            Event::Entered { job, phase, .. } => (job, Some(phase)),
            Event::Printed { job, line, .. } => {
                // Output that arrives late belongs to a phase that has ended.
                if let Some(running) = self.state().running.get_mut(&job)
                    && !running.is_waiting()
                {
                    running.line = line;
                }
                (job, None)
            }
            Event::ShellOpened {
                package, failed, ..
            } => {
                self.line(&shell::opened(&package, failed.as_ref()));
                self.hold();
                return;
            }
            Event::ShellEnded { package, .. } => {
                self.resume();
                self.line(&shell::ended(&package));
                return;
            }
            event => {
                if let Some(text) = message(event) {
                    self.line(&text);
                }
                return;
            }
        };
        let mut state = self.state();
        let Some(running) = state.running.get_mut(&job) else {
            return;
        };
        if let Some(phase) = phase {
            running.enter(phase, Instant::now());
        }
        if let Some(bar) = &running.bar {
            bar.set_message(running.doing());
        }
    }

    /// Moves the bars and prints reminders that are due.
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
        // The state stays usable after a panic in another thread.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lines for an event; none for the progress of a script.
fn message(event: Event) -> Option<String> {
    let text = match event {
        Event::FirstRunFailed {
            package,
            first,
            running,
            ..
        } => second_run::failed(&package, &first, running),
        Event::SecondRunStarted { package, .. } => {
            format!("Compiling package {package} again, alone and without restrictions")
        }
        Event::SecondRunSucceeded { package, first, .. } => second_run::succeeded(&package, &first),
        Event::Denied {
            package, denials, ..
        } => second_run::ignored(&package, &denials),
        Event::RunWithCopies {
            package,
            lines,
            log,
            ..
        } => second_run::with_copies(&package, &lines, &log),
        Event::TreeChanged {
            dependency,
            changed,
            ..
        } => changed::tree(&dependency, &changed),
        Event::CopyChanged {
            dependency,
            changed,
            ..
        } => changed::copy(&dependency, &changed),
        Event::Kept {
            package,
            directory,
            bytes,
            ..
        } => shell::kept(&package, &directory, bytes),
        Event::Entered { .. }
        | Event::Printed { .. }
        | Event::ShellOpened { .. }
        | Event::ShellEnded { .. } => return None,
    };
    Some(text)
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
        Phase::Packaging => "running its packaging script",
        Phase::Packing => "packing the result",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(since: Instant) -> Running {
        Running {
            label: "app/1".to_owned(),
            since,
            reminded: since,
            phase: None,
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

    #[test]
    fn line_of_a_waiting_package_is_not_shown() {
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
        progress.show(entered(Phase::Packaging));
        progress.show(printed());
        let doing = || progress.state().running[&0].doing();
        assert_eq!(doing(), "running its packaging script: + make");
        progress.show(entered(Phase::SecondRun { running: 1 }));
        progress.show(printed());
        assert!(!doing().contains("make"), "{}", doing());
        assert!(progress.end(0).is_some());
        assert!(progress.end(0).is_none());
    }

    #[test]
    fn waiting_package_names_the_reason() {
        let progress = Progress::to_stderr(false);
        let (package, version) = (Name::parse("app").unwrap(), Version::parse("1").unwrap());
        progress.start(0, &package, &version, &[]);
        progress.show(Event::Printed {
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
            progress.show(Event::Entered {
                job: 0,
                package: package.clone(),
                phase: Phase::SecondRun { running },
            });
            let state = progress.state();
            assert_eq!(state.running[&0].doing(), expected);
        }
    }
}
