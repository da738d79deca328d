//! Shows the progress of a run on stderr: lines for a log and, on a terminal, a bar per running package.
//!
//! Scripts search the output for the Go agent's lines, so those lines keep the Go agent's wording.

mod bars;
mod queue;
mod running;
mod screen;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::bars::{bottom_line, clock, spinner};
use self::queue::PATIENCE;
use self::running::Running;
pub(super) use self::running::Took;
use self::screen::Screen;
use super::messages::Messages;
use super::paint::Kind;
use super::{changed, second_run, shell};
use crate::compile::{Event, Phase, ScriptLines};
use crate::release::{Name, Version};

/// How often to check whether a reminder is due.
const TICK: Duration = Duration::from_secs(1);

/// Without a terminal, the interval of reminders about a running package.
const REMINDER: Duration = Duration::from_secs(60);

/// Prints the progress of a run to stderr. Another thread writes, so that no caller waits for stderr.
#[derive(Debug)]
pub struct Progress {
    screen: Screen,
    state: Arc<Mutex<ProgressState>>,
}

#[derive(Debug, Default)]
struct ProgressState {
    /// The running packages by their numbers.
    running: BTreeMap<usize, Running>,
    started: usize,
    ended: usize,
    compiled: usize,
    total: usize,
    /// The start of the compilation, once its number of packages is known.
    since: Option<Instant>,
    has_bars: bool,
}

impl Progress {
    /// Creates a display on stderr.
    #[must_use]
    pub fn to_stderr(messages: Messages) -> Self {
        let state = Arc::<Mutex<ProgressState>>::default();
        let bars = {
            let state = Arc::clone(&state);
            Arc::new(move |rows| lock(&state).bars(Instant::now(), rows))
        };
        Self {
            screen: Screen::new(messages, bars),
            state,
        }
    }

    /// Prints one or more lines about a step above the bars, or holds them back while the terminal is in use. `--quiet` leaves them out.
    pub(super) fn line(&self, text: &str) {
        self.screen.line(Kind::Step, text);
    }

    /// Like [`line`](Self::line), but about a result.
    pub(super) fn success(&self, text: &str) {
        self.screen.line(Kind::Success, text);
    }

    /// Prints a warning or a message about a failure, even with `--quiet`.
    pub fn warn(&self, text: &str) {
        self.screen.line(Kind::Notice, text);
    }

    /// Prints the first line about a failure.
    pub(super) fn failure(&self, text: &str) {
        self.screen.line(Kind::Failure, text);
    }

    /// Prints the text of [`report`](super::report()).
    pub fn report(&self, text: &str) {
        self.screen.report(text);
    }

    /// Waits until everything is printed.
    pub async fn flushed(&self) {
        self.screen.flushed().await;
    }

    /// Blocks the thread until everything is printed, for `limit` at most.
    pub fn flush_within(&self, limit: Duration) {
        self.screen.flush_within(limit);
    }

    /// Prints the messages that were held back during a shell.
    pub fn resume(&self) {
        self.screen.resume();
    }

    /// Removes the bars, because the compilation has ended.
    pub fn hide_bars(&self) {
        self.state().has_bars = false;
        self.screen.redraw();
    }

    /// The receiver for the output of scripts. `None` if the output is not printed.
    pub(super) fn script_lines(self: &Arc<Self>) -> Option<ScriptLines> {
        if !self.screen.messages().is_verbose {
            return None;
        }
        let progress = Arc::clone(self);
        Some(Arc::new(move |package| {
            let (progress, package) = (Arc::clone(&progress), Arc::from(package.as_str()));
            let mut patience = PATIENCE;
            Box::new(move |line| progress.screen.output(&package, line, &mut patience))
        }))
    }

    /// Sets the number of packages to compile.
    pub(super) fn expect(&self, total: usize) {
        let mut state = self.state();
        state.total = total;
        state.started = 0;
        state.ended = 0;
        state.since = Some(Instant::now());
        state.has_bars = total > 0;
    }

    /// Adds a package to the number of packages to compile.
    pub(super) fn expect_another(&self) {
        let mut state = self.state();
        state.total += 1;
        state.has_bars = true;
    }

    /// The number of compiled packages, and the number of packages to compile. `None` if the compilation has not begun.
    #[must_use]
    pub fn compiled(&self) -> Option<(usize, usize)> {
        let state = self.state();
        state.since.map(|_| (state.compiled, state.total))
    }

    /// Counts a compiled package and prints a line about it.
    pub(super) fn add_compiled(&self, text: &str) {
        self.state().compiled += 1;
        self.success(text);
    }

    /// Reports the start of a package. `job` is its number, `releases` are the releases with the package, if the run has
    /// several.
    pub(super) fn start(&self, job: usize, name: &Name, version: &Version, releases: &[String]) {
        let mut state = self.state();
        state.started += 1;
        let position = format!("{} of {}", state.started, state.total);
        let label = format!("{name}/{version}");
        let of = match releases {
            [] => String::new(),
            [only] => format!(" for release {only}"),
            several => format!(" for releases {}", several.join(", ")),
        };
        let now = Instant::now();
        state.running.insert(
            job,
            Running {
                name: name.to_string(),
                label: format!("{label}{of}"),
                since: now,
                reminded: now,
                phase: None,
                entered: now,
                waited: Duration::ZERO,
                line: String::new(),
            },
        );
        drop(state);
        self.line(&format!("Compiling package {label} ({position}){of}"));
    }

    /// Removes an ended package, successful or not. Returns how long it took, if it was started.
    pub(super) fn end(&self, job: usize) -> Option<Took> {
        let mut state = self.state();
        let running = state.running.remove(&job)?;
        state.ended += 1;
        Some(running.took(Instant::now()))
    }

    /// The packages whose packaging scripts are running.
    pub fn scripts(&self) -> Vec<String> {
        let is_running = |running: &&Running| running.phase == Some(Phase::Packaging);
        let state = self.state();
        let running = state.running.values().filter(is_running);
        running.map(|it| it.name.clone()).collect()
    }

    /// Shows an event of `compile`.
    pub(super) fn show(&self, event: Event) {
        let (job, phase) = match event {
            Event::Entered { job, phase, .. } => (job, Some(phase)),
            Event::Printed { job, line, .. } => {
                // Ignore output that arrives after the phase has ended.
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
                self.warn(&shell::opened(&package, failed.as_ref()));
                self.screen.hold();
                return;
            }
            Event::ShellEnded { package, .. } => {
                self.resume();
                self.warn(&shell::ended(&package));
                return;
            }
            event => {
                if let Some(text) = message(event) {
                    self.warn(&text);
                }
                return;
            }
        };
        if let (Some(running), Some(phase)) = (self.state().running.get_mut(&job), phase) {
            running.enter(phase, Instant::now());
        }
    }

    /// Prints reminders while `work` runs.
    pub(super) async fn with_reminders(&self, work: impl Future<Output = ()>) {
        tokio::pin!(work);
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                // Cancel-safe: the same future is polled in the next round.
                () = &mut work => return,
                // Cancel-safe per docs on `tick`.
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    /// Prints reminders that are due.
    fn tick(&self) {
        if self.screen.messages().is_terminal {
            return;
        }
        let mut reminders = Vec::new();
        let now = Instant::now();
        for running in self.state().running.values_mut() {
            if running.reminded.elapsed() >= REMINDER {
                running.reminded = now;
                reminders.push(running.reminder(now));
            }
        }
        for reminder in reminders {
            self.line(&reminder);
        }
    }

    fn state(&self) -> MutexGuard<'_, ProgressState> {
        lock(&self.state)
    }
}

impl ProgressState {
    /// The lines at the bottom of a terminal with `rows` rows.
    fn bars(&self, now: Instant, rows: usize) -> Vec<String> {
        let Some(since) = self.since.filter(|_| self.has_bars) else {
            return Vec::new();
        };
        // Leave some rows for messages. With too few rows, the terminal would scroll each time the bars are drawn.
        let most = match rows {
            0..=2 => return Vec::new(),
            3..=5 => 1,
            rows => rows / 2,
        };
        let shown = match self.running.len() {
            more if more > most => most - 1,
            all => all,
        };
        let mut lines: Vec<String> = self
            .running
            .values()
            .take(shown)
            .map(|it| it.bar(now))
            .collect();
        if shown < self.running.len() {
            lines.push(format!("  and {} more", self.running.len() - shown));
        }
        let elapsed = now.saturating_duration_since(since);
        let waiting = self.running.values().filter(|it| it.is_waiting()).count();
        let running = self.running.len() - waiting;
        lines.push(bottom_line(
            (self.ended, self.total),
            (running, waiting),
            elapsed,
        ));
        lines
    }
}

impl Running {
    /// The line of a running package.
    fn bar(&self, now: Instant) -> String {
        let elapsed = now.saturating_duration_since(self.since);
        let (picture, clock) = (spinner(elapsed), clock(elapsed));
        // If there is a line of output, show only that: it says more than the phase, and a terminal may be narrow.
        let doing = match self.line.trim() {
            "" => self.doing(),
            line => line.to_owned(),
        };
        format!("{picture} {} {clock} {doing}", self.name)
    }
}

/// Locks the state, which stays usable after a panic in another thread.
fn lock(state: &Mutex<ProgressState>) -> MutexGuard<'_, ProgressState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The message for an event. `None` for an event that is shown in another way or not at all.
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
        Event::CopyChangedInUse {
            package,
            dependency,
            changed,
            ..
        } => changed::copy_in_use(&package, &dependency, &changed),
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
    fn bars_fit_into_half_of_the_terminal() {
        let progress = Progress::to_stderr(Messages::default());
        progress.expect(6);
        for (job, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
            let name = Name::parse(name).unwrap();
            progress.start(job, &name, &Version::parse("1").unwrap(), &[]);
        }
        progress.end(4);
        let bars = |rows| progress.state().bars(Instant::now(), rows);
        let all = bars(50);
        assert_eq!(all.len(), 5);
        assert!(all[0].ends_with(" a 0:00 waiting to start"), "{all:?}");
        assert_eq!(all[4], "1 of 6 · 0 running, 4 waiting · 0:00");
        let some = bars(6);
        assert_eq!(some.len(), 4);
        assert_eq!(some[2], "  and 2 more");
        progress.hide_bars();
        assert!(bars(50).is_empty());
    }

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
