//! Collects the facts of a run for its report: releases, packages, events and errors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use super::call_report::{
    Agent, Blame, Blob, CallReport, CallResult, FORMAT_VERSION, Failure, File, Output, Package,
    PackageStatus, PhaseName, Release, ReleasePackage, ReleaseStatus,
};
use super::checked::CheckedRelease;
use super::documents::{Documented, DocumentedPart, Shared, blob};
use super::error::OfflineError;
use super::failure::PackageFailure;
use super::failure_kind::{FailureKind, blame};
use super::graph::PackageNode;
use super::ids::{NodeId, ReleaseId};
use super::known::Hit;
use super::ledger::{Ledger, PackageRecord, PackageState};
use super::local_result::Times;
use super::package_events::{LOG_LINES, Listener, PackageEvents, seconds};
use super::rebuild_differences::PackageDifference;
use super::result_files::ResultFiles;
use super::summary;
use crate::cluster::{Fetched, RemoteFailure};
use crate::compile::{CompileError, Compiled, Event, first_log};
use crate::diag::Chain;
use crate::process::{Status, printable};
use crate::release::Slug;

/// The facts of one run.
#[derive(Debug)]
pub(super) struct CallRecord {
    begun: Instant,
    begun_at: SystemTime,
    facts: Mutex<Facts>,
    pub results: ResultFiles,
}

#[derive(Debug, Default)]
struct Facts {
    stemcell: Option<Slug>,
    /// The digest of the stemcell image.
    image: Option<String>,
    isolation: Option<&'static str>,
    jobs: Option<usize>,
    /// Why the server was given up, if this machine compiled the rest.
    fallback: Option<String>,
    inputs: Vec<PathBuf>,
    releases: BTreeMap<ReleaseId, Release>,
    written: Vec<ReleaseId>,
    /// The releases, if documents are wanted.
    documented: BTreeMap<ReleaseId, Documented>,
    /// The times and events of each package, by the index of the package.
    runs: BTreeMap<usize, PackageEvents>,
    /// The packages from caches, the last lines of their logs, and the names of the caches, by their indices.
    cached: BTreeMap<usize, (Blob, Vec<String>, String)>,
    /// Why packages are not in the cache.
    cache_misses: BTreeMap<usize, String>,
    packages: Vec<Package>,
}

impl CallRecord {
    pub(super) fn new() -> Self {
        Self::begun(Instant::now(), SystemTime::now())
    }

    /// Creates the records for the parts of one run, one for each stemcell. Their times are relative to the start of the run.
    pub(super) fn several(count: usize) -> Vec<Arc<Self>> {
        let (begun, begun_at) = (Instant::now(), SystemTime::now());
        let records = (0..count).map(|_| Arc::new(Self::begun(begun, begun_at)));
        records.collect()
    }

    fn begun(begun: Instant, begun_at: SystemTime) -> Self {
        Self {
            begun,
            begun_at,
            facts: Mutex::default(),
            results: ResultFiles::default(),
        }
    }

    pub(super) fn set_inputs(&self, inputs: &[PathBuf]) {
        self.facts().inputs = inputs.to_vec();
    }

    /// Records the stemcell, and the digest of its image.
    pub(super) fn set_stemcell(&self, stemcell: Slug, image: Option<String>) {
        let mut facts = self.facts();
        (facts.stemcell, facts.image) = (Some(stemcell), image);
    }

    /// The isolation tier, and the maximum number of packages that are compiled concurrently; `None` if nothing is compiled.
    pub(super) fn compiler(&self) -> (Option<&'static str>, Option<usize>) {
        let facts = self.facts();
        (facts.isolation, facts.jobs)
    }

    pub(super) fn set_compiler(&self, isolation: &'static str, jobs: usize) {
        let mut facts = self.facts();
        (facts.isolation, facts.jobs) = (Some(isolation), Some(jobs));
    }

    /// Records why the server was given up and this machine compiles the rest.
    pub(super) fn set_given_up(&self, reason: String) {
        self.facts().fallback = Some(reason);
    }

    /// Adds a release. `status` is its status after its result was written.
    pub(super) fn add_release(
        &self,
        id: ReleaseId,
        release: &CheckedRelease,
        output: &Path,
        status: ReleaseStatus,
    ) {
        let packages = release.packages.iter().map(|package| ReleasePackage {
            name: package.name().to_string(),
            version: package.version().to_string(),
            precompiled: !package.is_source(),
            reused_from: package.reused_from.as_deref().map(text),
        });
        let mut facts = self.facts();
        let release = Release {
            name: release.manifest.name.to_string(),
            version: release.manifest.version.to_string(),
            stemcell: facts.stemcell.as_ref().map(ToString::to_string),
            input: text(&release.tarball),
            output: text(output),
            status,
            packages: packages.collect(),
        };
        facts.releases.insert(id, release);
    }

    /// Records a release for documents about its result.
    pub(super) fn set_documented(&self, id: ReleaseId, release: Documented) {
        self.facts().documented.insert(id, release);
    }

    /// The releases that were written, for documents about their results, in the order of the report's outputs.
    pub(super) fn take_documented(&self) -> DocumentedPart {
        let mut facts = self.facts();
        let mut documented = std::mem::take(&mut facts.documented);
        let written = facts.written.iter();
        let written = written.filter(|id| facts.releases.contains_key(id));
        let releases = written.filter_map(|id| documented.remove(id)).collect();
        let shared = facts.stemcell.clone().map(|stemcell| Shared {
            stemcell,
            image: facts.image.clone(),
            started: self.begun_at,
        });
        (releases, shared)
    }

    /// The names of a release's packages that were compiled before the run.
    pub(super) fn precompiled(&self, id: ReleaseId) -> BTreeSet<String> {
        let facts = self.facts();
        let packages = facts.releases.get(&id).into_iter();
        let packages = packages.flat_map(|it| &it.packages);
        let precompiled = packages.filter(|it| it.precompiled);
        precompiled.map(|it| it.name.clone()).collect()
    }

    pub(super) fn set_written(&self, releases: impl Iterator<Item = ReleaseId>) {
        self.facts().written = releases.collect();
    }

    /// Records the start of a package. `is_source` is whether it is compiled, not only installed.
    pub(super) fn set_started(&self, node: NodeId, is_source: bool) {
        let first = match is_source {
            true => PhaseName::Wait,
            false => PhaseName::Unpack,
        };
        let run = PackageEvents::start(first);
        self.facts().runs.insert(node.index(), run);
    }

    pub(super) fn set_ended(&self, node: NodeId, result: &Result<Option<Compiled>, CompileError>) {
        if let Some(run) = self.facts().runs.get_mut(&node.index()) {
            run.end(result.as_ref().ok().and_then(Option::as_ref));
        }
    }

    /// Records the end of a package that another machine compiled.
    pub(super) fn set_ended_elsewhere(
        &self,
        node: NodeId,
        result: &Result<Box<Fetched>, RemoteFailure>,
    ) {
        if let Some(run) = self.facts().runs.get_mut(&node.index()) {
            run.end_elsewhere(result.as_deref().ok());
        }
    }

    /// What has been recorded about a package so far.
    pub(super) fn times(&self, node: NodeId) -> Times {
        let facts = self.facts();
        let Some(run) = facts.runs.get(&node.index()) else {
            return Times::default();
        };
        Times {
            seconds: run.seconds(self.begun),
            phases: run.phases(self.begun),
            script: run.script,
            second_run: run.second_run.clone(),
            last_lines: run.last_lines.clone(),
        }
    }

    /// The start of the run, in the format of reports.
    pub(super) fn started(&self) -> String {
        timestamp(self.begun_at)
    }

    /// Records a package that was downloaded from a server.
    pub(super) fn set_downloaded(&self, node: NodeId, fetched: &Fetched) {
        let mut facts = self.facts();
        let new = || PackageEvents::start(PhaseName::Pack);
        let run = facts.runs.entry(node.index()).or_insert_with(new);
        run.end_elsewhere(Some(fetched));
    }

    pub(super) fn set_cached(&self, node: NodeId, hit: &Hit) {
        // Another user may have written these lines to the cache, so limit and escape them.
        let lines = hit.entry.last_lines.iter().take(LOG_LINES);
        let lines = lines.map(|line| printable(line.as_bytes())).collect();
        let cache = hit.origin.name();
        let facts = (blob(&hit.blob.blob), lines, cache);
        self.facts().cached.insert(node.index(), facts);
    }

    pub(super) fn set_cache_miss(&self, node: NodeId, reason: &str) {
        let reason = reason.to_owned();
        self.facts().cache_misses.insert(node.index(), reason);
    }

    /// Returns a listener that records the events of `compile`.
    pub(super) fn listener(self: &Arc<Self>) -> Listener {
        let record = Arc::clone(self);
        Arc::new(move |event| record.on_event(event))
    }

    /// Records an event of a package.
    pub(super) fn on_event(&self, event: &Event) {
        if let Some(run) = self.facts().runs.get_mut(&event.job()) {
            run.on_event(event);
        }
    }

    /// Records the packages, when all of them have ended.
    pub(super) fn set_packages(&self, ledger: &Ledger) {
        let mut facts = self.facts();
        let mut packages: Vec<Package> = Vec::new();
        for (id, record) in ledger.packages().iter().enumerate() {
            let dependencies = record.node.dependencies.iter();
            let is_skipped = dependencies.clone().any(|dependency| {
                let status = packages[dependency.index()].status;
                matches!(status, PackageStatus::Failed | PackageStatus::Skipped)
            });
            let (package, run) = (record.node.package(), facts.runs.get(&id));
            let cached = facts.cached.get(&id);
            let has_log = run.is_some() || cached.is_some();
            let releases = ledger.releases_of(NodeId::from_index(id));
            let log = |log: &Path| crate::fs::lookup(log).ok().flatten().map(|_| text(log));
            packages.push(Package {
                id,
                name: package.name().to_string(),
                version: package.version().to_string(),
                stemcell: facts.stemcell.as_ref().map(ToString::to_string),
                releases: releases.map(CheckedRelease::label).collect(),
                status: status(record, is_skipped),
                precompiled: !package.is_source(),
                dependencies: dependencies.map(|it| it.index()).collect(),
                source: blob(&package.blob),
                cached: cached.is_some(),
                cached_from: cached.map(|(_, _, cache)| cache.clone()),
                machine: run.and_then(|run| run.machine.clone()),
                cache_miss: facts.cache_misses.get(&id).cloned(),
                compiled: match cached {
                    Some((blob, ..)) => Some(blob.clone()),
                    None => run.and_then(|run| run.compiled.clone()),
                },
                started: run.map(|run| seconds(run.started - self.begun)),
                seconds: run.map(|run| run.seconds(self.begun)),
                phases: run.map(|run| run.phases(self.begun)).unwrap_or_default(),
                script: run.and_then(|run| run.script),
                second_run: run.and_then(|run| run.second_run.clone()),
                log: has_log.then(|| log(&record.logs.own)).flatten(),
                first_log: run.and_then(|_| log(&first_log(&record.logs.own))),
                last_lines: match (cached, run) {
                    (Some((_, lines, _)), _) => lines.clone(),
                    (None, Some(run)) => run.last_lines.clone(),
                    (None, None) => Vec::new(),
                },
                failure: None,
            });
        }
        for (package, record) in packages.iter().zip(ledger.packages()) {
            facts.document(package, &record.node);
        }
        facts.packages = packages;
    }

    /// The lines that summarize the packages that were compiled; none for a single package. `is_complete` is whether the run succeeded.
    pub(super) fn summary_lines(&self, is_complete: bool) -> Vec<String> {
        let facts = self.facts();
        summary::lines(
            &facts.packages,
            facts.jobs,
            self.begun.elapsed(),
            is_complete,
        )
    }

    /// The report of the run, without the sizes and digests of inputs, and of results that the run has not written.
    pub(super) fn report(&self, result: &Result<(), OfflineError>, exit_code: u8) -> CallReport {
        let facts = std::mem::take(&mut *self.facts());
        let stemcell = facts.stemcell.as_ref().map(ToString::to_string);
        let mut releases = facts.releases;
        for (id, release) in &mut releases {
            if !facts.written.contains(id) {
                release.status = ReleaseStatus::Unfinished;
            }
        }
        let written = facts.written.iter();
        let written = written.filter_map(|id| Some((id, releases.get(id)?)));
        let outputs = written.map(|(id, release)| Output {
            name: release.name.clone(),
            version: release.version.clone(),
            stemcell: stemcell.clone(),
            file: self.results.take(*id, release.output.clone()),
        });
        let outputs = outputs.collect();
        let mut packages = facts.packages;
        let error = result.as_ref().err();
        let own = error.and_then(|error| match error {
            OfflineError::Stemcells(stemcells) => stemcells.of(facts.stemcell.as_ref()?),
            only => Some(only),
        });
        for failure in own.into_iter().flat_map(OfflineError::failures) {
            if let OfflineError::Package(package) = failure {
                add_failure(&mut packages, package, failure);
            }
        }
        CallReport {
            format_version: FORMAT_VERSION,
            agent: Agent::this(),
            stemcell,
            isolation: facts.isolation,
            jobs: facts.jobs,
            fallback: facts.fallback,
            started: timestamp(self.begun_at),
            seconds: seconds(self.begun.elapsed()),
            result: match error {
                None if exit_code == 0 => CallResult::Written,
                Some(OfflineError::Stopped) => CallResult::Stopped,
                _ => CallResult::Failed,
            },
            exit_code,
            failure_kind: error.and_then(FailureKind::of).map(blame),
            errors: error.map(errors).unwrap_or_default(),
            inputs: facts.inputs.iter().map(|it| unread(text(it))).collect(),
            outputs,
            releases: releases.into_values().collect(),
            critical_path: summary::critical_path(&packages),
            summary: summary::of(&packages),
            packages,
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        // The facts stay usable after a panic in another thread.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    /// Records a package for the documents of the releases that have it.
    fn document(&mut self, package: &Package, node: &PackageNode) {
        for place in node.uses() {
            if let Some(release) = self.documented.get_mut(&place.release) {
                release.add(place.package.name(), package);
            }
        }
    }
}

fn status(record: &PackageRecord, is_skipped: bool) -> PackageStatus {
    match record.state() {
        PackageState::Done if record.node.package().is_source() => PackageStatus::Compiled,
        PackageState::Done => PackageStatus::Installed,
        PackageState::Failed => PackageStatus::Failed,
        PackageState::Running | PackageState::Stopped => PackageStatus::Stopped,
        PackageState::Waiting if is_skipped => PackageStatus::Skipped,
        PackageState::Waiting => PackageStatus::NotStarted,
    }
}

/// Adds a failure to the package that failed.
fn add_failure(packages: &mut [Package], failed: &PackageFailure, error: &OfflineError) {
    let (name, version) = (failed.package.0.to_string(), failed.package.1.to_string());
    let releases = failed.releases.iter();
    let releases: Vec<String> = releases
        .map(|(name, version)| format!("{name}/{version}"))
        .collect();
    let package = packages.iter_mut().find(|it| {
        it.status == PackageStatus::Failed
            && it.failure.is_none()
            && (&it.name, &it.version, &it.releases) == (&name, &version, &releases)
    });
    let Some(package) = package else { return };
    let (script, reported) = (failed.source.script(), failed.source.reported());
    package.failure = Some(Failure {
        kind: FailureKind::of(error).map_or(Blame::Script, blame),
        message: Chain(&failed.source).to_string(),
        exit_code: match script.map(|script| script.status) {
            Some(Status::Exited(code)) => Some(code),
            Some(Status::Signaled(_)) => None,
            None => reported.and_then(|it| it.exit_code),
        },
        signal: match script {
            Some(script) => script.status.signal_name(),
            None => reported.and_then(|it| it.signal.clone()),
        },
        error_line: failed.error_line.clone(),
        last_lines: match (script, reported) {
            (Some(script), _) => script.tail.lines.clone(),
            (None, Some(reported)) => reported.last_lines.clone(),
            (None, None) => Vec::new(),
        },
        log: failed.log.as_deref().map(text),
    });
}

/// A line for each error.
pub(super) fn errors(error: &OfflineError) -> Vec<String> {
    let of = |failure: &OfflineError| match failure {
        OfflineError::Input(problems) => problems
            .iter()
            .map(|it| format!("{}: {}", it.path.display(), Chain(&it.kind)))
            .collect(),
        OfflineError::NotReproducible(found) => {
            let packages = found.packages.iter().map(PackageDifference::lines);
            packages.collect()
        }
        other => vec![Chain(other).to_string()],
    };
    match error {
        OfflineError::Stemcells(stemcells) => {
            let failed = stemcells.failed.iter().flat_map(|(stemcell, error)| {
                let lines = errors(error).into_iter();
                lines.map(move |line| format!("stemcell {stemcell}: {line}"))
            });
            failed.collect()
        }
        other => other.failures().iter().flat_map(of).collect(),
    }
}

fn unread(path: String) -> File {
    File {
        path,
        ..File::default()
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A time in the format of reports: RFC 3339, in UTC, with milliseconds.
pub(super) fn timestamp(time: SystemTime) -> String {
    let time = chrono::DateTime::<chrono::Utc>::from(time);
    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
