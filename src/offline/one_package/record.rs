//! Collects the facts of a run of one package for its report.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use super::inputs::Input;
use crate::compile::{Compiled, PrintedLine};
use crate::diag::Chain;
use crate::fs;
use crate::offline::call_record::{errors, timestamp};
use crate::offline::command::Command;
use crate::offline::error::OfflineError;
use crate::offline::failure::PackageFailure;
use crate::offline::failure_kind::{FailureKind, blame};
use crate::offline::package_events::{Listener, PackageEvents, seconds};
use crate::offline::report::hints_of;
use crate::package_job::{
    Agent, Blame, Blob, CompiledBlob, LogLine, PackageFailureReport, PackageJob, PackageReport,
    PackageResult, REPORT_VERSION, ReportedDependency,
};
use crate::process::Status;
use crate::release::Slug;

/// The facts of one run.
#[derive(Debug)]
pub(in crate::offline) struct OnePackageRecord {
    begun: Instant,
    begun_at: SystemTime,
    job: PackageJob,
    log: PathBuf,
    facts: Mutex<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    machine_stemcell: Option<String>,
    isolation: Option<&'static str>,
    /// The source and the dependencies, after all were read.
    inputs: Vec<Blob>,
    warnings: Vec<String>,
    events: Option<PackageEvents>,
    compiled: Option<CompiledBlob>,
    unrestricted: bool,
    /// Whether the log of an earlier run was removed, so that a log that exists now is of this run.
    has_no_older_log: bool,
}

impl OnePackageRecord {
    pub(super) fn new(job: &PackageJob, log: &Path) -> Self {
        Self {
            begun: Instant::now(),
            begun_at: SystemTime::now(),
            job: job.clone(),
            log: log.to_owned(),
            facts: Mutex::default(),
        }
    }

    pub(super) fn set_machine_stemcell(&self, stemcell: &Slug) {
        self.facts().machine_stemcell = Some(stemcell.to_string());
    }

    pub(super) fn set_isolation(&self, isolation: &'static str) {
        self.facts().isolation = Some(isolation);
    }

    pub(super) fn set_older_log_removed(&self) {
        self.facts().has_no_older_log = true;
    }

    pub(super) fn set_inputs(&self, inputs: &[Input]) {
        let blobs = inputs.iter().map(|input| Blob {
            size: input.size,
            sha1: input.digests.sha1().map(str::to_owned),
            sha256: input.digests.sha256().map(str::to_owned),
        });
        self.facts().inputs = blobs.collect();
    }

    pub(super) fn add_warning(&self, warning: String) {
        self.facts().warnings.push(warning);
    }

    pub(super) fn start(&self, events: PackageEvents) {
        self.facts().events = Some(events);
    }

    pub(super) fn end(&self, compiled: Option<&Compiled>) {
        if let Some(events) = &mut self.facts().events {
            events.end(compiled);
        }
    }

    pub(super) fn set_compiled(&self, blob: CompiledBlob, unrestricted: bool) {
        let mut facts = self.facts();
        (facts.compiled, facts.unrestricted) = (Some(blob), unrestricted);
    }

    /// Returns a listener that records the events of `compile`.
    pub(super) fn listener(self: &Arc<Self>) -> Listener {
        let record = Arc::clone(self);
        Arc::new(move |event| {
            if let Some(events) = &mut record.facts().events {
                events.on_event(event);
            }
        })
    }

    /// The report of the run.
    pub(in crate::offline) fn report(
        &self,
        result: &Result<(), OfflineError>,
        exit_code: u8,
    ) -> PackageReport {
        let facts = std::mem::take(&mut *self.facts());
        let error = result.as_ref().err();
        let events = facts.events.as_ref();
        let mut inputs = facts.inputs.into_iter();
        let stemcell = self.job.stemcell.as_ref().map(Slug::to_string);
        PackageReport {
            format_version: REPORT_VERSION,
            agent: Agent::this(),
            name: self.job.name.to_string(),
            version: self.job.version.to_string(),
            stemcell: stemcell.or_else(|| facts.machine_stemcell.clone()),
            machine_stemcell: facts.machine_stemcell,
            architecture: std::env::consts::ARCH.to_owned(),
            isolation: facts.isolation.map(str::to_owned),
            started: timestamp(self.begun_at),
            seconds: seconds(self.begun.elapsed()),
            result: match error {
                None => PackageResult::Compiled,
                Some(OfflineError::Stopped) => PackageResult::Stopped,
                Some(_) => PackageResult::Failed,
            },
            exit_code,
            failure_kind: error.and_then(FailureKind::of).map(blame),
            errors: error.map(errors).unwrap_or_default(),
            warnings: facts.warnings,
            source: inputs.next(),
            dependencies: dependencies(&self.job, inputs),
            compiled: facts.compiled,
            unrestricted: facts.unrestricted,
            phases: events.map(|it| it.phases(self.begun)).unwrap_or_default(),
            times: events.map(|it| it.seconds(self.begun)),
            script: events.and_then(|it| it.script),
            second_run: events.and_then(|it| it.second_run.clone()),
            has_log: facts.has_no_older_log && fs::lookup(&self.log).is_ok_and(|it| it.is_some()),
            last_lines: events.map(|it| it.last_lines.clone()).unwrap_or_default(),
            failure: error.and_then(failure),
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        // The facts stay usable after a panic in another thread.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn dependencies(
    job: &PackageJob,
    mut blobs: impl Iterator<Item = Blob>,
) -> Vec<ReportedDependency> {
    let dependencies = job.dependencies.iter();
    let dependencies = dependencies.map(|it| ReportedDependency {
        name: it.name.to_string(),
        version: it.version.to_string(),
        blob: blobs.next(),
    });
    dependencies.collect()
}

/// Why the package was not compiled. `None` after a stop.
fn failure(error: &OfflineError) -> Option<PackageFailureReport> {
    let kind = blame(FailureKind::of(error)?);
    let hints = hints_of(error, Command::CompilePackage);
    Some(match error {
        OfflineError::Package(package) => of_package(package, kind, hints),
        other => PackageFailureReport {
            kind,
            message: Chain(other).to_string(),
            exit_code: None,
            signal: None,
            error_line: None,
            last_lines: Vec::new(),
            hints,
        },
    })
}

fn of_package(failure: &PackageFailure, kind: Blame, hints: Vec<String>) -> PackageFailureReport {
    let script = failure.source.script();
    PackageFailureReport {
        kind,
        message: Chain(&failure.source).to_string(),
        exit_code: script.and_then(|script| match script.status {
            Status::Exited(code) => Some(code),
            Status::Signaled(_) => None,
        }),
        signal: script.and_then(|script| script.status.signal_name()),
        error_line: failure.error_line.as_ref().map(line),
        last_lines: script
            .map(|script| script.tail.lines.clone())
            .unwrap_or_default(),
        hints,
    }
}

fn line(line: &PrintedLine) -> LogLine {
    LogLine {
        number: line.number,
        text: line.text.clone(),
    }
}
