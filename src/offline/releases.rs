//! Compiles the packages of all releases in one graph, and assembles each release as soon as its last package is done.

mod cached;
mod fallback;
mod remote;
mod server_cache;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::assemble::{self, AssembleError};
use super::cached_packages::{self, CachedPackages};
use super::call_record::CallRecord;
use super::compiled_release::CompiledBlob;
use super::durations::Durations;
use super::elsewhere::Elsewhere;
use super::error::{Incomplete, OfflineError};
use super::failed_logs::FailedLogs;
use super::failure::{FailureCause, PackageFailure};
use super::failures::Failures;
use super::graph::PackageNode;
use super::ids::{NodeId, ReleaseId};
use super::ledger::{CompleteRelease, Ledger, ReleaseJob};
use super::logs::PackageLogs;
use super::machines::{Compiler, Machines};
use super::packages;
use super::progress::{Progress, Took};
use super::report;
use super::scheduling::{Planned, expected, schedule};
use super::script_warnings;
use super::verify::WrittenFile;
use crate::compile::{
    CompileError, Compiled, Id, Limits, MEMORY_FLOOR, PackageEvent, Schedule, ScheduleCaller,
};
use crate::diag::{Chain, Elapsed};
use crate::fs;
use crate::release::{Name, Slug};
use crate::runtime::{self, TaskSet};

/// The stemcell for which releases are compiled, and the progress display, record and cancellation that they share.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub stemcell: &'a Slug,
    /// The same stemcell, but only if the run has several.
    pub one_of_several: Option<&'a Slug>,
    pub progress: &'a Progress,
    /// Collects the facts for the report.
    pub record: &'a CallRecord,
    pub cancel: &'a CancellationToken,
    /// The package of `--shell`, if given: only this package and its dependencies are compiled.
    pub only: Option<&'a Name>,
}

/// Compiles and assembles releases. Returns the compiled releases that were written, also after a failure.
///
/// `machines` is `None` when no release has source packages.
pub(super) async fn compile_all(
    target: &Target<'_>,
    releases: BTreeMap<ReleaseId, ReleaseJob>,
    machines: Option<Machines<'_>>,
) -> (BTreeMap<ReleaseId, PathBuf>, Result<(), OfflineError>) {
    let mut written = BTreeMap::new();
    let found = match machines {
        Some(machines) => find(target, &releases, machines).await,
        None => Ok((Vec::new(), CachedPackages::none())),
    };
    let (nodes, cached) = match found {
        Ok(found) => found,
        Err(error) => return (written, Err(error)),
    };
    let mut run = Run {
        target,
        stop: target.cancel.child_token(),
        ledger: Ledger::new(releases, nodes),
        cached,
        failures: Failures::default(),
        assembling: TaskSet::new("assemble"),
        durations: Durations::default(),
        elsewhere: Elsewhere::default(),
        copies_failed_logs: machines.is_some_and(Machines::copies_failed_logs),
        keep_going: machines.is_some_and(Machines::keep_going),
    };
    match machines {
        Some(machines) => run.compile(machines).await,
        None => run.assemble_complete(),
    }
    let result = run.finish(&mut written).await;
    (written, result)
}

/// The packages of all releases, and those that are in the cache.
async fn find<'a>(
    target: &Target<'_>,
    releases: &BTreeMap<ReleaseId, ReleaseJob>,
    machines: Machines<'a>,
) -> Result<(Vec<(PackageNode, PackageLogs)>, CachedPackages<'a>), OfflineError> {
    let to = (target.progress, target.cancel);
    let with = (machines.logs(), machines.source_dates());
    let mut nodes = packages::merge(releases, with, to.0, to.1).await?;
    if let Some(package) = target.only {
        nodes = packages::needed_by(package, nodes);
    }
    let cached = CachedPackages::find(machines.cache(), &nodes, releases, target.only, to).await?;
    Ok((nodes, cached))
}

/// The compilation of all releases for one stemcell.
struct Run<'a> {
    target: &'a Target<'a>,
    /// Stops compiling. Canceled by the user, and when a disk is full, a result cannot be written or a similar failure makes it pointless to
    /// continue. Only the user cancels `target.cancel`.
    stop: CancellationToken,
    ledger: Ledger,
    cached: CachedPackages<'a>,
    failures: Failures,
    assembling: TaskSet<ReleaseId, Result<Option<WrittenFile>, AssembleError>>,
    durations: Durations,
    elsewhere: Elsewhere,
    /// Whether the logs of failed packages are copied to the output directory.
    copies_failed_logs: bool,
    /// Whether packages that do not depend on a failed one are still compiled.
    keep_going: bool,
}

impl ScheduleCaller for Run<'_> {
    fn on_event(&mut self, event: PackageEvent) {
        match event {
            PackageEvent::Started(id) => self.start(id.into()),
            PackageEvent::Fetched(id) => self.take_fetched(id.into()),
            PackageEvent::Ended(id, result) => {
                let (id, took) = (id.into(), self.target.progress.end(id.index()));
                if !self.is_from_server(id) {
                    self.target.record.set_ended(id, &result);
                }
                self.end(id, *result, took);
            }
        }
    }

    fn still_wants(&self, id: Id) -> bool {
        self.can_complete(id.into())
    }
}

impl Run<'_> {
    async fn compile(&mut self, machines: Machines<'_>) {
        let progress = self.target.progress;
        self.durations = Durations::read(machines.logs()).unwrap_or_else(|error| {
            progress.warn(&format!(
                "Warning: could not read how long packages took in the previous run: {}",
                Chain(&error)
            ));
            Durations::default()
        });
        self.announce();
        match machines {
            Machines::Here(compiler) => self.compile_here(compiler).await,
            Machines::Elsewhere(compiler) => self.compile_elsewhere(compiler).await,
        }
        progress.hide_bars();
        let durations = std::mem::take(&mut self.durations);
        let logs = machines.logs().to_owned();
        let writing = runtime::spawn_blocking("durations", move || durations.write(&logs));
        if let Ok(Err(error)) = writing.await {
            progress.warn(&format!(
                "Warning: could not save the durations of packages for the next run: {}",
                Chain(&error)
            ));
        }
    }

    /// Compiles all packages on this machine.
    async fn compile_here(&mut self, compiler: &Compiler) {
        self.take_cached();
        if let Some(server) = &compiler.server {
            self.look_up(server).await;
        }
        let schedule = self.schedule(compiler);
        self.assemble_complete();
        self.run_schedule(schedule, compiler).await;
    }

    async fn run_schedule(&mut self, schedule: Schedule, compiler: &Compiler) {
        let limits = Limits {
            jobs: compiler.jobs,
            memory_floor: MEMORY_FLOOR,
            keep_going: compiler.keep_going,
        };
        let stop = self.stop.clone();
        let progress = self.target.progress;
        let running = schedule.run(&compiler.context, &limits, &stop, self);
        progress.with_reminders(running).await;
    }

    /// Prints the first lines of the compilation.
    fn announce(&self) {
        let packages = self.ledger.packages().iter();
        let (sources, cached) = (self.ledger.sources(), self.cached.count());
        let progress = self.target.progress;
        progress.expect(sources - cached);
        let shared = packages.filter(|it| !it.node.others.is_empty()).count();
        if shared > 0 {
            progress.line(&format!(
                "{} the same in several releases and compiled only once",
                match shared {
                    1 => "One package is".to_owned(),
                    more => format!("{more} packages are"),
                }
            ));
        }
        if cached > 0 {
            progress.line(&cached_packages::count_line(cached, sources));
        }
        if sources > 0 {
            progress.line("Starting packages compilation");
        }
    }

    /// The schedule of all packages. Its package ids are equal to those of the ledger.
    fn schedule(&self, compiler: &Compiler) -> Schedule {
        let packages = self.ledger.packages();
        let expected = expected(packages.iter().map(|it| &it.node), &self.durations);
        let packages = packages.iter().enumerate().zip(expected);
        let packages = packages.map(|((index, record), expected)| Planned {
            node: &record.node,
            origin: self.origin(NodeId::from_index(index), record),
            expected,
            is_cached: record.is_cached,
        });
        schedule(
            packages,
            compiler.context.sandbox.is_shared(),
            compiler.jobs,
        )
    }

    fn start(&mut self, node: NodeId) {
        self.ledger.set_started(node);
        let record = self.ledger.record(node);
        let package = record.node.package();
        let is_compiled_here = record.is_compiled_here();
        if !self.is_from_server(node) {
            self.target.record.set_started(node, is_compiled_here);
        }
        if is_compiled_here {
            record.logs.remove();
            self.failed_logs(node).remove(package.name());
            // With a single release and stemcell, omit their names, which add no information.
            let stemcell = self.target.one_of_several;
            let mut releases = match self.ledger.release_count() {
                0 | 1 if stemcell.is_none() => Vec::new(),
                _ => {
                    let releases = self.ledger.releases_of(node);
                    releases.map(|release| release.label()).collect()
                }
            };
            if let (Some(stemcell), Some(last)) = (stemcell, releases.last_mut()) {
                let _ = write!(last, " with stemcell {stemcell}");
            }
            self.target
                .progress
                .start(node.index(), package.name(), package.version(), &releases);
        }
    }

    fn end(
        &mut self,
        node: NodeId,
        result: Result<Option<Compiled>, CompileError>,
        took: Option<Took>,
    ) {
        match result {
            Ok(None) => self.ledger.set_installed(node),
            Ok(Some(compiled)) => match CompiledBlob::new(&compiled) {
                Some(blob) => {
                    let warnings = self.report_compiled(node, &compiled, &blob, took);
                    let blob = Arc::new(blob);
                    let (record, cancel) = (self.ledger.record(node), self.target.cancel);
                    let facts = (&blob, warnings.clone());
                    self.cached.store(node, record, &compiled, facts, cancel);
                    self.store_on_server(node, &compiled, &blob, &warnings);
                    self.ledger.set_compiled(node, &blob);
                }
                None => {
                    let package = self.ledger.package(node).name().clone();
                    self.ledger.set_failed(node);
                    self.failures.push(OfflineError::NoDigest { package });
                    self.stop.cancel();
                }
            },
            Err(CompileError::Stopped { .. } | CompileError::ReplacedByShell { .. }) => {
                self.ledger.set_stopped(node)
            }
            Err(source) => self.fail_package(node, source.into()),
        }
        self.ledger.record(node).logs.link();
        self.assemble_complete();
    }

    fn report_compiled(
        &mut self,
        node: NodeId,
        compiled: &Compiled,
        blob: &CompiledBlob,
        took: Option<Took>,
    ) -> Vec<String> {
        let package = self.ledger.package(node);
        let (name, version) = (package.name(), package.version());
        let progress = self.target.progress;
        progress.add_compiled(&format!(
            "Finished compiling release {name}/{version} BlobstoreID={} after {}",
            blob.digest,
            took.unwrap_or(Took {
                total: compiled.elapsed,
                waited: Duration::ZERO,
            })
        ));
        let findings = compiled.findings.iter();
        let findings = findings.map(|finding| format!("Warning: package {name}: {finding}"));
        let of_script = compiled.script.iter();
        let of_script = of_script.flat_map(|end| script_warnings::of(name, end));
        let warnings: Vec<String> = findings.chain(of_script).collect();
        warnings.iter().for_each(|warning| progress.warn(warning));
        self.durations.add(name, version, compiled.elapsed);
        warnings
    }

    fn fail_package(&mut self, node: NodeId, source: FailureCause) {
        self.ledger.set_failed(node);
        let record = self.ledger.record(node);
        let package = record.node.package();
        let releases = self.ledger.releases_of(node);
        let failure = PackageFailure {
            blob: (package.path.clone(), package.blob.size),
            releases: releases.map(|it| it.name_and_version()).collect(),
            package: (package.name().clone(), package.version().clone()),
            log: record.logs.has_own().then(|| record.logs.own.clone()),
            error_line: None,
            source,
        };
        if !self.target.cancel.is_cancelled() {
            self.announce_failure(&failure);
        }
        let copies = self.copies_failed_logs.then(|| self.failed_logs(node));
        self.failures.push_package(failure, copies);
    }

    /// Where the log of a package is copied to if it fails.
    fn failed_logs(&self, node: NodeId) -> FailedLogs {
        self.ledger.failed_logs(node, self.target.one_of_several)
    }

    fn announce_failure(&self, failure: &PackageFailure) {
        let (name, version) = &failure.package;
        let running = self.ledger.running();
        let running = running.filter(|it| !self.is_fetchable(*it)).count();
        let ends_run = self.stop.is_cancelled() || failure.source.ends_run();
        let next = if self.keep_going && !ends_run {
            "Continuing with packages that do not depend on it".to_owned()
        } else if running > 0 && self.failures.is_empty() {
            let plural = if running == 1 { "" } else { "s" };
            format!("Stopping {running} running package{plural}")
        } else if self.failures.is_empty() && self.is_fetching() {
            "Fetching the other packages of releases that can be completed".to_owned()
        } else {
            return;
        };
        self.target.progress.failure(&format!(
            "Package {name}/{version} failed: {}. {next}",
            report::cause(&failure.source)
        ));
    }

    /// Starts to assemble the releases of which all packages are done.
    fn assemble_complete(&mut self) {
        if self.target.cancel.is_cancelled() {
            return;
        }
        for complete in self.ledger.take_complete(self.target.stemcell) {
            self.announce_assembly(&complete);
            self.assemble(complete);
        }
    }

    /// Prints the lines about the end of a release's compilation together, so that no line of another release comes between them.
    fn announce_assembly(&self, complete: &CompleteRelease) {
        let label = complete.source.label();
        let archiving = format!(
            "Archiving compiled BOSH Release {label} with stemcell {}",
            self.target.stemcell
        );
        let progress = self.target.progress;
        match complete.started {
            Some(started) => {
                let of = match self.ledger.release_count() {
                    1 => String::new(),
                    _ => format!("Compiled all packages of release {label}\n"),
                };
                progress.success(&format!(
                    "{of}Finished packages compilation after {}\n{archiving}",
                    Elapsed(started.elapsed())
                ));
            }
            None => progress.line(&archiving),
        }
    }

    fn assemble(&mut self, complete: CompleteRelease) {
        let (cancel, stop) = (self.target.cancel.clone(), self.stop.clone());
        let shared = self.ledger.shared_blobs();
        let wants_digests = self.target.record.results.wants_digests();
        self.assembling.spawn_blocking(complete.id, move || {
            let CompleteRelease {
                source,
                compiled,
                output,
                blobs,
                ..
            } = complete;
            let start = Instant::now();
            let done = assemble::assemble(
                &compiled.manifest,
                &source.carried,
                &compiled.packages,
                &output,
                wants_digests,
                &cancel,
            );
            match &done {
                Ok(_) => {
                    let ms = start.elapsed().as_millis();
                    tracing::debug!(output = %output.display(), ms, "assembled and verified the release");
                    // Remove only the blobs that no other release still needs.
                    let unused = blobs.into_iter().filter_map(Arc::into_inner);
                    let carried = source.carried.iter().filter_map(|it| it.blob.as_ref());
                    let carried = carried.map(|blob| blob.file.clone());
                    let carried = carried.filter(|file| !shared.contains(file));
                    remove_all(unused.map(|it| it.blob.file).chain(carried));
                }
                // Stop compiling: if the disk is full, for example, no other result can be written either.
                Err(_) => stop.cancel(),
            }
            done
        });
    }

    /// Waits for the releases that are being assembled, and returns all failures.
    async fn finish(
        mut self,
        written: &mut BTreeMap<ReleaseId, PathBuf>,
    ) -> Result<(), OfflineError> {
        while let Some((id, result)) = self.assembling.next().await {
            let output = self.ledger.job(id).output.clone();
            match result {
                Ok(Ok(digests)) => {
                    if let Some(digests) = digests {
                        self.target.record.results.set_written(id, &digests);
                    }
                    written.insert(id, output);
                }
                Ok(Err(source)) => {
                    self.failures
                        .push(OfflineError::Assemble { output, source });
                }
                Err(error) => self.failures.push(error.into()),
            }
        }
        let to = (self.target.progress, self.target.cancel);
        self.finish_storing().await;
        self.cached.finish(to).await;
        self.target.record.set_packages(&self.ledger);
        let failures = self.failures.finish(self.target.progress).await;
        if self.target.cancel.is_cancelled() {
            return Err(OfflineError::Stopped);
        }
        if failures.is_empty() {
            return Ok(());
        }
        Err(OfflineError::Incomplete(Box::new(Incomplete {
            releases: self.ledger.unfinished(),
            failures,
        })))
    }
}

/// Removes unused files. A failure is only logged, because the removal of the work directory fails for the same reason and is reported.
fn remove_all(files: impl Iterator<Item = PathBuf>) {
    for file in files {
        if let Err(error) = fs::remove_file_if_there(&file) {
            tracing::debug!(%error, "could not remove an unused file");
        }
    }
}
