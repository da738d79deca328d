//! Progress of a run: lines for a log and, on a terminal, a bar per running package.
//!
//! Scripts look for the Go agent's lines, so those lines keep the Go agent's wording.

mod running;
mod screen;
mod stream;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use self::running::Running;
pub(super) use self::running::Took;
use self::screen::Screen;
use self::stream::PATIENCE;
use super::messages::Messages;
use super::{changed, second_run, shell};
use crate::compile::{Event, Phase, ScriptLines};
use crate::release::{Name, Version};
use crate::runtime;

/// Without a terminal, the interval of reminders about a running package.
const REMINDER: Duration = Duration::from_secs(60);

/// Prints the progress of a run to stderr.
#[derive(Debug)]
pub struct Progress {
    screen: Screen,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The running packages by job number.
    running: BTreeMap<usize, Running>,
    started: usize,
    total: usize,
}

impl Progress {
    /// Writes to stderr.
    #[must_use]
    pub fn to_stderr(messages: Messages) -> Self {
        Self {
            screen: Screen::new(messages),
            state: Mutex::default(),
        }
    }

    /// Prints one or more lines above the bars, or holds them back while the terminal is in use.
    pub fn line(&self, text: &str) {
        self.screen.line(text);
    }

    /// Prints the output of scripts that is still in the queue.
    pub fn flush(&self) {
        self.screen.flush();
    }

    /// Prints what was held back.
    pub fn resume(&self) {
        self.screen.resume();
    }

    /// Receives the output of scripts, if it is to be printed.
    pub(super) fn script_lines(self: &Arc<Self>) -> Option<ScriptLines> {
        if !self.screen.messages().is_verbose {
            return None;
        }
        let printer = Arc::downgrade(self);
        // The process does not wait for this thread: stderr may accept nothing.
        runtime::spawn_blocking("script output", move || {
            while let Some(progress) = printer.upgrade() {
                progress.screen.print_stream();
            }
        })
        .detach();
        let progress = Arc::clone(self);
        Some(Arc::new(move |package| {
            let (progress, package) = (Arc::clone(&progress), package.to_string());
            let mut patience = PATIENCE;
            Box::new(move |line| progress.screen.stream(&package, line, &mut patience))
        }))
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
        let bar = self.screen.bars().map(|bars| {
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
        if let (Some(bar), Some(bars)) = (running.bar, self.screen.bars()) {
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
                self.screen.hold();
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
        | Event::ScriptEnded { .. }
        | Event::ShellOpened { .. }
        | Event::ShellEnded { .. } => return None,
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_a_waiting_package_is_not_shown() {
        let progress = Progress::to_stderr(Messages::default());
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
        let progress = Progress::to_stderr(Messages::default());
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
