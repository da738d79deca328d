//! The releases of a call on their way: their packages in one graph, and each assembled as soon as its last package is done.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::assemble::{self, AssembleError, PackageBlob};
use super::durations::Durations;
use super::error::OfflineError;
use super::failure::{Incomplete, PackageFailure, UnfinishedRelease};
use super::graph::{self, Node};
use super::identity::{self, Identities};
use super::inspect::Listed;
use super::open::Blob;
use super::progress::{Progress, Took};
use super::release::Release;
use crate::compile::{
    self, CompileError, Compiled, Context, Id, Limits, MEMORY_FLOOR, Origin, Schedule, Told,
    first_log,
};
use crate::diag::{Chain, Elapsed};
use crate::fs;
use crate::release::{Digests, Manifest, Name, Slug, Version};
use crate::runtime::{self, TaskSet};
use crate::sandbox::ScriptEnd;

/// How often the progress is drawn.
const TICK: Duration = Duration::from_millis(120);

/// What packages are compiled with.
#[derive(Debug)]
pub(super) struct Compiler {
    pub context: Arc<Context>,
    /// So many packages at once.
    pub jobs: NonZeroUsize,
    /// Where logs of packaging scripts stay.
    pub logs: PathBuf,
}

/// What is the same for all releases of a call.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub stemcell: &'a Slug,
    pub progress: &'a Progress,
    pub cancel: &'a CancellationToken,
}

/// Compiles and assembles releases. Returns the results that have been written, by the releases' places, whatever became of
/// the others.
pub(super) async fn carry_out(
    call: &Call<'_>,
    releases: Vec<Release>,
    compiler: Option<&Compiler>,
) -> (Vec<Option<PathBuf>>, Result<(), OfflineError>) {
    let mut written = releases.iter().map(|_| None).collect();
    let stop = call.cancel.child_token();
    let cancel = call.cancel.clone();
    let comparing = runtime::spawn_blocking("compare sources", move || {
        let compared = identity::compare(&releases, &cancel);
        (releases, compared)
    });
    let (releases, (identities, conflicts)) = match comparing.await {
        Ok(done) => done,
        Err(error) => return (written, Err(error.into())),
    };
    for identity::Conflict { package, releases } in conflicts {
        call.progress.line(&format!(
            "Warning: package {}/{} has the same fingerprint but different contents in releases {}: it is compiled once for each",
            package.0,
            package.1,
            releases.join(", ")
        ));
    }
    let mut run = match Run::new(call, releases, &identities, compiler, stop) {
        Ok(run) => run,
        Err(error) => return (written, Err(error.into())),
    };
    if let Some(compiler) = compiler {
        run.compile(compiler).await;
    } else {
        run.assemble_complete();
    }
    let result = run.end(&mut written).await;
    (written, result)
}

/// How far a node is.
#[derive(Debug)]
enum State {
    Waiting,
    Running,
    /// With what was compiled here.
    Done(Option<Box<Compiled>>),
    Stopped,
    Failed,
}

/// Releases on their way.
struct Run<'a> {
    call: &'a Call<'a>,
    stop: CancellationToken,
    releases: Vec<Release>,
    nodes: Vec<Node>,
    states: Vec<State>,
    /// Where the log of each node's script is, and where else it is to be found.
    logs: Vec<Vec<PathBuf>>,
    /// How many releases still need the compiled blob of each node.
    users: Arc<Vec<AtomicUsize>>,
    /// How many nodes of each release are not done; `None` from when it is assembled on.
    missing: Vec<Option<usize>>,
    /// When the first package of each release began.
    since: Vec<Option<Instant>>,
    failures: Vec<OfflineError>,
    assembling: TaskSet<usize, Result<(), AssembleError>>,
    durations: Durations,
}

impl<'a> Run<'a> {
    fn new(
        call: &'a Call<'a>,
        releases: Vec<Release>,
        identities: &Identities,
        compiler: Option<&Compiler>,
        stop: CancellationToken,
    ) -> fs::Result<Self> {
        let candidates: Vec<_> = releases
            .iter()
            .enumerate()
            .map(|(number, release)| {
                let candidates = release.candidates(number, identities);
                (candidates, release.order.as_slice())
            })
            .collect();
        let nodes = graph::merge(&candidates);
        drop(candidates);
        let mut missing = vec![0; releases.len()];
        for (release, _) in nodes.iter().flat_map(|node| &node.uses) {
            missing[*release] += 1;
        }
        let mut run = Self {
            call,
            stop,
            states: nodes.iter().map(|_| State::Waiting).collect(),
            logs: Vec::new(),
            users: Arc::new(
                nodes
                    .iter()
                    .map(|it| AtomicUsize::new(it.uses.len()))
                    .collect(),
            ),
            missing: missing.into_iter().map(Some).collect(),
            since: releases.iter().map(|_| None).collect(),
            failures: Vec::new(),
            assembling: TaskSet::new("assemble"),
            durations: Durations::default(),
            releases,
            nodes,
        };
        if let Some(compiler) = compiler {
            run.place_logs(&compiler.logs)?;
            run.remove_unused_sources()?;
            run.durations = Durations::read(&compiler.logs).unwrap_or_else(|error| {
                call.progress.line(&format!(
                    "Warning: could not read how long packages took in the previous run: {}",
                    Chain(&error)
                ));
                Durations::default()
            });
        }
        Ok(run)
    }

    /// Gives each release a directory for its logs.
    fn place_logs(&mut self, logs: &Path) -> fs::Result<()> {
        let mut directories: Vec<PathBuf> = Vec::new();
        for release in &self.releases {
            let name = format!("{}-{}", release.manifest().name, release.manifest().version);
            // Two tarballs of one name and version, or names and versions that read the same: what runs at once must not
            // write to one file.
            let mut directory = logs.join(&name);
            let mut number = 2;
            while directories.contains(&directory) {
                directory = logs.join(format!("{name}.{number}"));
                number += 1;
            }
            directories.push(directory);
        }
        for node in &self.nodes {
            let mut places = Vec::new();
            for (release, member) in &node.uses {
                let directory = &directories[*release];
                fs::create_dir_all(directory)?;
                let name = &self.releases[*release].members[*member].name;
                places.push(directory.join(format!("{name}.log")));
            }
            self.logs.push(places);
        }
        Ok(())
    }

    /// Of a package that several releases have, one source is compiled.
    fn remove_unused_sources(&self) -> fs::Result<()> {
        let others = self
            .nodes
            .iter()
            .filter(|node| self.is_source(node))
            .flat_map(|node| node.uses.iter().skip(1));
        for (release, member) in others {
            if let Some(blob) = self.releases[*release].blob(*member) {
                fs::remove_file_if_there(&blob.file)?;
            }
        }
        Ok(())
    }

    fn is_source(&self, node: &Node) -> bool {
        let (release, member) = node.uses[0];
        matches!(
            self.releases[release].members[member].listed,
            Listed::Source(_)
        )
    }

    /// Name and version.
    fn package(&self, node: usize) -> (Name, Version) {
        let (release, member) = self.nodes[node].uses[0];
        let release = &self.releases[release];
        (
            release.members[member].name.clone(),
            release.version(member).clone(),
        )
    }

    async fn compile(&mut self, compiler: &Compiler) {
        let (schedule, ids) = self.schedule(compiler);
        let total = self
            .nodes
            .iter()
            .filter(|node| self.is_source(node))
            .count();
        let progress = self.call.progress;
        progress.expect(total);
        let shared = self.nodes.iter().filter(|node| node.uses.len() > 1).count();
        if shared > 0 {
            progress.line(&format!(
                "{} the same in several releases and compiled only once",
                match shared {
                    1 => "One package is".to_owned(),
                    more => format!("{more} packages are"),
                }
            ));
        }
        if total > 0 {
            progress.line("Starting packages compilation");
        }
        self.assemble_complete();
        let limits = Limits {
            jobs: compiler.jobs,
            memory_floor: MEMORY_FLOOR,
        };
        let stop = self.stop.clone();
        let mut hear = |told| self.hear(told, &ids);
        let running = schedule.run(&compiler.context, &limits, &stop, &mut hear);
        watch(progress, running).await;
        let durations = std::mem::take(&mut self.durations);
        if let Err(error) = durations.write(&compiler.logs) {
            progress.line(&format!(
                "Warning: could not save for the next run how long packages took: {}",
                Chain(&error)
            ));
        }
    }

    /// All nodes as a schedule, and which node each of its packages is.
    fn schedule(&self, compiler: &Compiler) -> (Schedule, HashMap<Id, usize>) {
        let named: Vec<(Name, Version)> =
            (0..self.nodes.len()).map(|it| self.package(it)).collect();
        let blobs: Vec<Option<&Blob>> = self
            .nodes
            .iter()
            .map(|node| self.releases[node.uses[0].0].blob(node.uses[0].1))
            .collect();
        let asked: Vec<(&Name, &Version, u64)> = named
            .iter()
            .zip(&blobs)
            .map(|((name, version), blob)| (name, version, blob.map_or(0, |blob| blob.size)))
            .collect();
        let expected = self.durations.expect(&asked);
        let mut schedule = Schedule::new(compiler.context.sandbox.is_shared());
        let mut ids: Vec<Id> = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let (name, version) = named[index].clone();
            let file = blobs[index].map_or_else(PathBuf::new, |blob| blob.file.clone());
            let digests = blobs[index].map_or_else(Digests::default, |it| it.digests.clone());
            let origin = if self.is_source(node) {
                let directory = &self.releases[node.uses[0].0].blobs;
                Origin::Source {
                    source: file,
                    digests,
                    log: self.logs[index][0].clone(),
                    blob: directory.join(format!("{name}.tgz")),
                }
            } else {
                Origin::Compiled {
                    blob: file,
                    digests,
                }
            };
            ids.push(schedule.add(compile::Package {
                name,
                version,
                origin,
                dependencies: node.dependencies.iter().map(|other| ids[*other]).collect(),
                // One after another they take as long in any order: then it is the one that everybody knows.
                expected: match compiler.jobs {
                    NonZeroUsize::MIN => Duration::ZERO,
                    _ => expected[index],
                },
            }));
        }
        let ids = ids.into_iter().enumerate().map(|(node, id)| (id, node));
        (schedule, ids.collect())
    }

    fn hear(&mut self, told: Told, ids: &HashMap<Id, usize>) {
        match told {
            Told::Started(id) => {
                if let Some(node) = ids.get(&id) {
                    self.started(*node, id);
                }
            }
            Told::Ended(id, result) => {
                let took = self.call.progress.end(id.index());
                if let Some(node) = ids.get(&id) {
                    self.ended(*node, *result, took);
                }
            }
        }
    }

    fn started(&mut self, node: usize, id: Id) {
        self.states[node] = State::Running;
        for (release, _) in &self.nodes[node].uses {
            self.since[*release].get_or_insert_with(Instant::now);
        }
        if self.is_source(&self.nodes[node]) {
            self.forget_logs(node);
            let (name, version) = self.package(node);
            let releases = self.releases_of(node);
            self.call
                .progress
                .start(id.index(), &name, &version, &releases);
        }
    }

    /// The releases that have a node, for messages; none where the call has one release only.
    fn releases_of(&self, node: usize) -> Vec<String> {
        if self.releases.len() < 2 {
            return Vec::new();
        }
        let uses = self.nodes[node].uses.iter();
        uses.map(|(release, _)| self.releases[*release].label())
            .collect()
    }

    fn ended(
        &mut self,
        node: usize,
        result: Result<Option<Compiled>, CompileError>,
        took: Option<Took>,
    ) {
        self.states[node] = match result {
            Ok(compiled) => {
                if let Some(compiled) = &compiled {
                    self.tell(node, compiled, took);
                }
                State::Done(compiled.map(Box::new))
            }
            Err(CompileError::Stopped { .. }) => State::Stopped,
            Err(source) => {
                self.fail(node, source);
                State::Failed
            }
        };
        self.share_log(node);
        if let State::Done(_) = self.states[node] {
            for (release, _) in &self.nodes[node].uses {
                if let Some(missing) = &mut self.missing[*release] {
                    *missing -= 1;
                }
            }
            self.assemble_complete();
        }
    }

    fn tell(&mut self, node: usize, compiled: &Compiled, took: Option<Took>) {
        let (name, version) = self.package(node);
        let progress = self.call.progress;
        progress.line(&format!(
            "Finished compiling release {name}/{version} BlobstoreID={} after {}",
            compiled.digests.sha1().unwrap_or_default(),
            took.unwrap_or(Took {
                total: compiled.elapsed,
                waited: Duration::ZERO,
            })
        ));
        for finding in &compiled.findings {
            progress.line(&format!("Warning: package {name}: {finding}"));
        }
        if let Some(end) = &compiled.script {
            for warning in warnings(&name, end) {
                progress.line(&warning);
            }
        }
        self.durations.learn(&name, &version, compiled.elapsed);
    }

    fn fail(&mut self, node: usize, source: CompileError) {
        let package = self.package(node);
        let is_running = |state: &&State| matches!(state, State::Running);
        let others = self.states.iter().filter(is_running).count() - 1;
        if others > 0 && self.failures.is_empty() && !self.call.cancel.is_cancelled() {
            self.call.progress.line(&format!(
                "Package {}/{} failed: stopping {others} running package{}",
                package.0,
                package.1,
                if others == 1 { "" } else { "s" }
            ));
        }
        let uses = &self.nodes[node].uses;
        let carried = self.releases[uses[0].0].carried(uses[0].1);
        let failure = PackageFailure {
            blob: carried.and_then(|it| Some((it.path.clone(), it.blob.as_ref()?.size))),
            releases: uses
                .iter()
                .map(|(it, _)| self.releases[*it].named())
                .collect(),
            package,
            source,
        };
        self.failures.push(OfflineError::Package(Box::new(failure)));
    }

    /// Removes what an earlier run left: it may be the log of another release, too, which is not to change.
    fn forget_logs(&self, node: usize) {
        for log in self.logs.get(node).into_iter().flatten() {
            for log in [log.clone(), first_log(log)] {
                if let Err(error) = fs::remove_file_if_there(&log) {
                    tracing::warn!(error = %Chain(&error), "could not remove an old log");
                }
            }
        }
    }

    /// Who looks for a log among those of a release finds it, in whichever release the package was compiled.
    fn share_log(&self, node: usize) {
        let Some([log, others @ ..]) = self.logs.get(node).map(Vec::as_slice) else {
            return;
        };
        for other in others {
            for (log, other) in [
                (log.clone(), other.clone()),
                (first_log(log), first_log(other)),
            ] {
                if let Err(error) = fs::hard_link(&log, &other)
                    && !error.is_not_found()
                {
                    tracing::warn!(error = %Chain(&error), "could not link a log into the directory of every release that has the package");
                }
            }
        }
    }

    /// Begins to assemble the releases whose last package is done.
    fn assemble_complete(&mut self) {
        for release in 0..self.releases.len() {
            if self.missing[release] == Some(0) && !self.call.cancel.is_cancelled() {
                self.missing[release] = None;
                self.assemble(release);
            }
        }
    }

    fn assemble(&mut self, index: usize) {
        let release = &self.releases[index];
        let archiving = format!(
            "Archiving compiled BOSH Release {} with stemcell {}",
            release.label(),
            self.call.stemcell
        );
        // Together, or lines of other releases could come between.
        self.call.progress.line(&match self.since[index] {
            Some(since) => {
                let of = match self.releases.len() {
                    1 => String::new(),
                    _ => format!("Compiled all packages of release {}\n", release.label()),
                };
                format!(
                    "{of}Finished packages compilation after {}\n{archiving}",
                    Elapsed(since.elapsed())
                )
            }
            None => archiving,
        });
        let (manifest, packages) = self.result(index);
        let own: Vec<(usize, Option<PathBuf>)> = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.uses.iter().any(|(release, _)| *release == index))
            .map(|(node, _)| match &self.states[node] {
                State::Done(Some(compiled)) => (node, Some(compiled.blob.clone())),
                _ => (node, None),
            })
            .collect();
        let (opened, output) = (Arc::clone(&release.opened), release.output.clone());
        let (users, cancel, stop) = (
            Arc::clone(&self.users),
            self.call.cancel.clone(),
            self.stop.clone(),
        );
        self.assembling.spawn_blocking(index, move || {
            let done = assemble::assemble(&manifest, &opened.carried, &packages, &output, &cancel);
            match &done {
                Ok(()) => {
                    let unused = own
                        .into_iter()
                        .filter(|(node, _)| users[*node].fetch_sub(1, Ordering::AcqRel) == 1)
                        .filter_map(|(_, blob)| blob);
                    let carried = opened.carried.iter().filter_map(|it| it.blob.as_ref());
                    remove_all(unused.chain(carried.map(|blob| blob.file.clone())));
                }
                // Nobody should work on for hours when the disk is full.
                Err(_) => stop.cancel(),
            }
            done
        });
    }

    /// What a compiled release consists of.
    fn result(&self, index: usize) -> (Manifest, Vec<PackageBlob>) {
        let mut compiled: HashMap<usize, &Compiled> = HashMap::new();
        for (node, state) in self.nodes.iter().zip(&self.states) {
            for (_, member) in node.uses.iter().filter(|(release, _)| *release == index) {
                if let State::Done(Some(done)) = state {
                    compiled.insert(*member, done);
                }
            }
        }
        self.releases[index].compiled_with(&compiled, self.call.stemcell)
    }

    /// Waits for what is being assembled, and tells what has become of everything.
    async fn end(mut self, written: &mut [Option<PathBuf>]) -> Result<(), OfflineError> {
        while let Some((index, result)) = self.assembling.next().await {
            let output = self.releases[index].output.clone();
            match result {
                Ok(Ok(())) => written[index] = Some(output),
                Ok(Err(source)) => {
                    self.failures
                        .push(OfflineError::Assemble { output, source });
                }
                Err(error) => self.failures.push(error.into()),
            }
        }
        if self.call.cancel.is_cancelled() {
            return Err(OfflineError::Stopped);
        }
        if self.failures.is_empty() {
            return Ok(());
        }
        let releases = (0..self.releases.len())
            .filter(|index| self.missing[*index].is_some())
            .map(|index| self.unfinished(index))
            .collect();
        Err(OfflineError::Incomplete(Box::new(Incomplete {
            failures: self.failures,
            releases,
        })))
    }

    fn unfinished(&self, index: usize) -> UnfinishedRelease {
        let release = &self.releases[index];
        let mut unfinished = UnfinishedRelease {
            release: release.named(),
            compiled: Vec::new(),
            dependents: Vec::new(),
            stopped: Vec::new(),
            not_begun: Vec::new(),
        };
        for (node, uses) in self.nodes.iter().map(|node| &node.uses).enumerate() {
            let Some((_, member)) = uses.iter().find(|(release, _)| *release == index) else {
                continue;
            };
            let name = release.members[*member].name.clone();
            match &self.states[node] {
                State::Failed => {
                    let dependents = release.dependents(*member);
                    unfinished.dependents.push((name, dependents));
                }
                State::Done(_) => unfinished.compiled.push(name),
                State::Running | State::Stopped => unfinished.stopped.push(name),
                State::Waiting => unfinished.not_begun.push(name),
            }
        }
        let lost: Vec<&Name> = unfinished
            .dependents
            .iter()
            .flat_map(|(_, dependents)| dependents)
            .collect();
        unfinished.not_begun.retain(|name| !lost.contains(&name));
        unfinished
    }
}

/// Waits while the progress is drawn.
async fn watch(progress: &Progress, work: impl Future<Output = ()>) {
    tokio::pin!(work);
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            // Cancel-safe: the same future is polled in the next round.
            () = &mut work => return,
            // Cancel-safe per docs on `tick`.
            _ = ticks.tick() => progress.tick(),
        }
    }
}

/// Removes files that are not used any more. The whole work directory is removed at the end, and a failure is reported then.
fn remove_all(files: impl Iterator<Item = PathBuf>) {
    for file in files {
        if let Err(error) = fs::remove_file_if_there(&file) {
            tracing::debug!(%error, "could not remove an unused file");
        }
    }
}

/// Warnings about a script that succeeded.
fn warnings(package: &Name, end: &ScriptEnd) -> Vec<String> {
    let count = |processes| match processes {
        1 => "a process".to_owned(),
        more => format!("{more} processes"),
    };
    let mut warnings = Vec::new();
    if end.left_behind > 0 {
        warnings.push(format!(
            "Warning: the packaging script of {package} left {} running, which bosh-agent stopped",
            count(end.left_behind)
        ));
    }
    if end.not_ended > 0 {
        warnings.push(format!(
            "Warning: could not stop {} of the packaging script of {package}, which belong{} to another user",
            count(end.not_ended),
            if end.not_ended == 1 { "s" } else { "" }
        ));
    }
    if let Some(failure) = &end.output.log_failure {
        warnings.push(format!(
            "Warning: the log of the packaging script of {package} is incomplete: {failure}"
        ));
    }
    warnings
}
