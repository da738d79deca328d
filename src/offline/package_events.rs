//! Records the events of a package that `compile` reports: its phases, the runs of its script, its result.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::call_report::Machine;
use crate::cluster::{Built, Fetched};
use crate::compile::{self, Compiled, Event};
use crate::diag::printable;
use crate::package_job::{Blob, Phase, PhaseName, Script, SecondRun, SecondRunWith, Seconds};

/// The maximum number of last lines of a compiled package's script in a report.
pub(super) const LOG_LINES: usize = 20;

/// Receives the events of `compile` before they are shown.
pub(super) type Listener = Arc<dyn Fn(&Event) + Send + Sync>;

/// The recorded events of a package.
#[derive(Debug)]
pub(super) struct PackageEvents {
    pub started: Instant,
    ended: Option<Instant>,
    /// Each phase with its start.
    phases: Vec<(PhaseName, Instant)>,
    pub script: Option<Script>,
    /// The second run of the script, if it was announced and has not started.
    announced: Option<SecondRun>,
    pub second_run: Option<SecondRun>,
    pub compiled: Option<Blob>,
    pub last_lines: Vec<String>,
    /// The machine of a server that compiled the package.
    pub machine: Option<Machine>,
}

impl PackageEvents {
    /// Records a package that starts now, with its first phase.
    pub(super) fn start(first: PhaseName) -> Self {
        let now = Instant::now();
        Self {
            started: now,
            ended: None,
            phases: vec![(first, now)],
            script: None,
            announced: None,
            second_run: None,
            compiled: None,
            last_lines: Vec::new(),
            machine: None,
        }
    }

    /// Records the end of the package, and its result, if it was compiled.
    pub(super) fn end(&mut self, compiled: Option<&Compiled>) {
        self.ended = Some(Instant::now());
        let Some(compiled) = compiled else { return };
        self.compiled = Some(Blob {
            size: compiled.size,
            sha1: compiled.digests.sha1().map(str::to_owned),
            sha256: compiled.digests.sha256().map(str::to_owned),
        });
        if let Some(end) = &compiled.script {
            self.last_lines = end.output.tail.clone().shortened(LOG_LINES).lines;
        }
    }

    /// Records the end of the package on another machine, and its result, if it was compiled.
    pub(super) fn end_elsewhere(&mut self, fetched: Option<&Fetched>) {
        self.ended = Some(Instant::now());
        let Some(fetched) = fetched else { return };
        self.compiled = Some(Blob {
            size: fetched.built.package.size,
            sha1: fetched.digests.sha1().map(str::to_owned),
            sha256: fetched.digests.sha256().map(str::to_owned),
        });
        self.set_machine(&fetched.built);
        let report = &fetched.built.report;
        self.script = report.script;
        self.second_run = report.second_run.clone();
        let lines = report.last_lines.iter().take(LOG_LINES);
        self.last_lines = lines.map(|line| printable(line)).collect();
    }

    /// Records the machine that compiled the package. If it did so in this run, its times replace the phases that this machine has
    /// recorded. The clocks of the machines may differ, so the times are counted back from the start of the download.
    fn set_machine(&mut self, built: &Built) {
        let machine = &built.machine;
        let rounded = |it: Option<Duration>| it.map(seconds);
        self.machine = Some(Machine {
            name: Some(machine.name.clone()).filter(|it| !it.is_empty()),
            cached: built.is_cached,
            queued: rounded(machine.queued),
            fetching: rounded(machine.fetching),
            executing: rounded(machine.executing),
            storing: rounded(machine.storing),
        });
        let (Some(executing), false) = (machine.executing, built.is_cached) else {
            return;
        };
        let downloading = self.phases.iter().rev();
        let mut downloading = downloading.filter(|(name, _)| *name == PhaseName::Pack);
        let Some((_, arrived)) = downloading.next().copied() else {
            return;
        };
        let before = |at: Instant, time: Duration| {
            at.checked_sub(time)
                .map_or(self.started, |it| it.max(self.started))
        };
        let storing = before(arrived, machine.storing.unwrap_or_default());
        let script = before(storing, executing);
        let unpack = before(script, machine.fetching.unwrap_or_default());
        self.phases = vec![
            (PhaseName::Wait, self.started),
            (PhaseName::Unpack, unpack),
            (PhaseName::Script, script),
            (PhaseName::Pack, storing),
        ];
    }

    /// Records an event of the package.
    pub(super) fn on_event(&mut self, event: &Event) {
        match event {
            Event::Entered { phase, .. } => {
                self.phases.push((phase_name(*phase), Instant::now()));
            }
            Event::ScriptEnded { elapsed, usage, .. } => {
                self.script = Some(Script {
                    seconds: seconds(*elapsed),
                    user_seconds: seconds(usage.user),
                    system_seconds: seconds(usage.system),
                    max_memory: usage.max_resident,
                });
            }
            Event::FirstRunFailed { first, .. } => {
                self.announced = Some(SecondRun {
                    with: SecondRunWith::NoRestrictions,
                    reason: first.failure.clone(),
                });
            }
            Event::SecondRunStarted { .. } => self.second_run = self.announced.take(),
            Event::RunWithCopies { lines, .. } => {
                let lines: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
                self.second_run = Some(SecondRun {
                    with: SecondRunWith::CopiedDependencies,
                    reason: lines.join("\n"),
                });
            }
            Event::SecondRunSucceeded { .. }
            | Event::Denied { .. }
            | Event::TreeChanged { .. }
            | Event::CopyChanged { .. }
            | Event::CopyChangedInUse { .. }
            | Event::Kept { .. }
            | Event::ShellOpened { .. }
            | Event::ShellEnded { .. }
            | Event::Printed { .. } => {}
        }
    }

    /// The phases up to the end of the package or, before it, up to now. Times are relative to `begun`, the start of the run.
    pub(super) fn phases(&self, begun: Instant) -> Vec<Phase> {
        let ended = self.ended.unwrap_or_else(Instant::now);
        let starts = self.phases.iter().map(|(_, start)| *start);
        let ends = starts.skip(1).chain([ended]);
        let phases = self
            .phases
            .iter()
            .zip(ends)
            .map(|((name, start), end)| Phase {
                name: *name,
                start: seconds(start.saturating_duration_since(begun)),
                seconds: seconds(end.saturating_duration_since(*start)),
            });
        phases.collect()
    }

    /// The sums of the phases' times, in seconds.
    pub(super) fn seconds(&self, begun: Instant) -> Seconds {
        let mut sums = Seconds::default();
        for phase in self.phases(begun) {
            *match phase.name {
                PhaseName::Wait => &mut sums.wait,
                PhaseName::Unpack => &mut sums.unpack,
                PhaseName::Script => &mut sums.script,
                PhaseName::Pack => &mut sums.pack,
            } += phase.seconds;
            sums.total += phase.seconds;
        }
        let rounded = [sums.total, sums.wait, sums.unpack, sums.script, sums.pack].map(rounded);
        let [total, wait, unpack, script, pack] = rounded;
        Seconds {
            total,
            wait,
            unpack,
            script,
            pack,
        }
    }
}

/// The name of a phase in reports.
fn phase_name(phase: compile::Phase) -> PhaseName {
    match phase {
        compile::Phase::Waiting
        | compile::Phase::Ready
        | compile::Phase::Queued
        | compile::Phase::SecondRun { .. } => PhaseName::Wait,
        compile::Phase::Unpacking | compile::Phase::Installing => PhaseName::Unpack,
        compile::Phase::Packaging => PhaseName::Script,
        compile::Phase::Packing | compile::Phase::Downloading => PhaseName::Pack,
    }
}

/// Rounds to milliseconds, which are precise enough.
pub(super) fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// A duration in seconds, rounded as in reports.
pub(super) fn seconds(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64())
}
