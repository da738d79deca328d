//! Compiles the packages of a graph on other machines, dependencies first, and downloads the
//! results. A *plan* contains the packages; a *caller* receives events.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::action::Inputs;
use super::attempt::{AttemptError, Built, Cluster};
use super::common::KnownFile;
use super::error::RemoteFailure;
use super::files::LONGEST_LOG;
use super::results;
use super::retry::ATTEMPTS;
use crate::compile::{Graph, Id, Queue};
use crate::diag::Bytes;
use crate::reapi::{Digest, Stage};
use crate::release::{Digests, Name, Version};
use crate::runtime::{TaskFailed, TaskSet};

/// The maximum number of concurrent downloads of packages.
const TRANSFERS: usize = 4;

/// How long the download of a failed script's log may take.
const LOG_LIMIT: Duration = Duration::from_secs(30);

/// A package of a plan.
#[derive(Debug)]
pub(crate) struct PlannedPackage {
    pub name: Name,
    pub version: Version,
    pub supply: Supply,
    /// The direct dependencies, which were added to the plan before.
    pub dependencies: Vec<Id>,
    /// The expected time of the compilation, for the order of the packages.
    pub expected: Duration,
}

/// Where a package comes from.
#[derive(Debug)]
pub(crate) enum Supply {
    /// Compile the package from this source, and download the compiled package and the log to these
    /// paths. Their directories exist.
    Source {
        source: KnownFile,
        blob: PathBuf,
        log: PathBuf,
    },
    /// Use this compiled package.
    Compiled(KnownFile),
}

/// The packages to compile.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    graph: Graph,
    packages: Vec<PlannedPackage>,
}

/// A change of a package's state.
#[derive(Debug)]
pub(crate) enum ClusterEvent {
    /// The compilation starts.
    Started(Id),
    /// The execution entered a stage.
    Entered(Id, Stage),
    /// The package was compiled. Its dependents can start, and its files are downloaded.
    Built(Id, Box<Built>),
    /// The files were downloaded, or the package failed.
    Ended(Id, Result<Box<Fetched>, RemoteFailure>),
    /// The package was not compiled, and the server is given up for this reason. All packages that are
    /// not downloaded end as stopped.
    GivenUp(Id, RemoteFailure),
    /// The package was already compiled. Its dependents can start.
    Provided(Id),
}

/// A compiled package that was downloaded.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub built: Built,
    pub blob: PathBuf,
    pub digests: Digests,
}

/// How a run proceeds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How many packages are compiled concurrently, at most.
    pub jobs: NonZeroUsize,
    /// Whether packages that do not depend on a failed one are still compiled.
    pub keep_going: bool,
    /// Whether the run ends with [`ClusterEvent::GivenUp`] if the server is to blame for a failure.
    pub gives_up: bool,
    /// How long all packages may wait in the server's queue.
    pub queue: Option<Duration>,
}

/// Receives the events of a run.
pub(crate) trait ClusterCaller {
    fn hear(&mut self, event: ClusterEvent);
}

impl Plan {
    /// Adds a package.
    pub(crate) fn add(&mut self, package: PlannedPackage) -> Id {
        let expected = package.expected;
        let id = self.graph.add(&package.dependencies, expected, Vec::new());
        if let Supply::Compiled(_) = package.supply {
            self.graph.set_supply(id, crate::compile::Supply::Here);
        }
        self.packages.push(package);
        id
    }

    /// Compiles all packages. After the first failure, stops the others, unless the limits say
    /// otherwise.
    pub(crate) async fn run(
        self,
        cluster: &Arc<Cluster>,
        limits: Limits,
        stop: &CancellationToken,
        caller: &mut impl ClusterCaller,
    ) {
        let (graph, shared, stages) = self.into_shared(cluster, stop);
        let run = Run {
            queue: Queue::new(graph),
            building: TaskSet::new("build"),
            fetching: TaskSet::new("fetch"),
            shared,
            limits,
            stages: HashMap::new(),
            queued_since: None,
            is_queued_too_long: false,
            is_given_up: false,
        };
        run.run(stages, caller).await;
    }

    /// The graph, the state that tasks share, and the stages that they report.
    pub(super) fn into_shared(
        self,
        cluster: &Arc<Cluster>,
        stop: &CancellationToken,
    ) -> (Graph, Arc<Shared>, mpsc::UnboundedReceiver<(Id, Stage)>) {
        let (sender, stages) = mpsc::unbounded_channel();
        let shared = Shared {
            cluster: Arc::clone(cluster),
            available: Mutex::default(),
            packages: self.packages,
            transfers: Semaphore::new(TRANSFERS),
            stop: stop.child_token(),
            stages: sender,
        };
        (self.graph, Arc::new(shared), stages)
    }
}

struct Run {
    queue: Queue,
    building: TaskSet<Id, Result<Built, RemoteFailure>>,
    fetching: TaskSet<Id, Result<Box<Fetched>, RemoteFailure>>,
    shared: Arc<Shared>,
    limits: Limits,
    /// The last stage of each package that is being built.
    stages: HashMap<Id, Stage>,
    /// Since when all packages that are being built wait in the server's queue.
    queued_since: Option<Instant>,
    /// Whether the run was stopped because of its limit for the queue.
    is_queued_too_long: bool,
    is_given_up: bool,
}

/// The state that the tasks of a run share.
pub(super) struct Shared {
    pub(super) cluster: Arc<Cluster>,
    pub(super) packages: Vec<PlannedPackage>,
    /// The compiled packages that the server has.
    available: Mutex<HashMap<Id, Available>>,
    transfers: Semaphore,
    pub(super) stop: CancellationToken,
    stages: mpsc::UnboundedSender<(Id, Stage)>,
}

/// A compiled package that the server has.
#[derive(Debug, Clone)]
pub(super) struct Available {
    pub(super) digest: Digest,
    /// Whether it or one of its dependencies was compiled without restrictions.
    pub(super) is_unrestricted: bool,
}

impl Run {
    async fn run(
        mut self,
        mut stages: mpsc::UnboundedReceiver<(Id, Stage)>,
        caller: &mut impl ClusterCaller,
    ) {
        loop {
            self.start(caller);
            if self.building.is_empty() && self.fetching.is_empty() {
                return;
            }
            let limit = self.queue_limit();
            // Cancel-safe: each branch may be dropped.
            tokio::select! {
                biased;
                Some((id, stage)) = stages.recv() => {
                    self.stages.insert(id, stage);
                    caller.hear(ClusterEvent::Entered(id, stage));
                }
                Some((id, built)) = self.building.next() => self.built(id, flat(built), caller),
                Some((id, fetched)) = self.fetching.next() => self.ended(id, flat(fetched), caller),
                () = async { tokio::time::sleep_until(limit.unwrap_or_else(Instant::now)).await }, if limit.is_some() => {
                    self.is_queued_too_long = true;
                    self.shared.stop.cancel();
                }
            }
        }
    }

    /// When the run ends if all packages stay in the server's queue. `None` if a package is elsewhere.
    fn queue_limit(&mut self) -> Option<Instant> {
        let limit = self.limits.queue?;
        let is_queued = |id| self.stages.get(id) == Some(&Stage::Queued);
        let are_queued = !self.building.is_empty() && self.building.keys().all(is_queued);
        if !are_queued || self.shared.stop.is_cancelled() {
            self.queued_since = None;
            return None;
        }
        Some(*self.queued_since.get_or_insert_with(Instant::now) + limit)
    }

    /// Starts packages whose dependencies are compiled.
    fn start(&mut self, caller: &mut impl ClusterCaller) {
        while self.building.len() < self.limits.jobs.get() && !self.shared.stop.is_cancelled() {
            let Some(id) = self.queue.next() else { return };
            if self.shared.provide(id) {
                self.queue.done(id);
                caller.hear(ClusterEvent::Provided(id));
                continue;
            }
            caller.hear(ClusterEvent::Started(id));
            let shared = Arc::clone(&self.shared);
            self.building.spawn(id, async move {
                let built = shared.build(id, false).await;
                if let Err(failure) = &built {
                    shared.fetch_log(id, failure).await;
                }
                built
            });
        }
    }

    fn built(
        &mut self,
        id: Id,
        built: Result<Built, RemoteFailure>,
        caller: &mut impl ClusterCaller,
    ) {
        self.stages.remove(&id);
        match built {
            Ok(built) => {
                self.queue.done(id);
                caller.hear(ClusterEvent::Built(id, Box::new(built.clone())));
                let shared = Arc::clone(&self.shared);
                self.fetching
                    .spawn(id, async move { shared.fetch(id, built).await });
            }
            Err(failure) => {
                self.queue.failed(id);
                self.ended(id, Err(failure), caller);
            }
        }
    }

    fn ended(
        &mut self,
        id: Id,
        result: Result<Box<Fetched>, RemoteFailure>,
        caller: &mut impl ClusterCaller,
    ) {
        let failure = match result {
            Ok(fetched) => return caller.hear(ClusterEvent::Ended(id, Ok(fetched))),
            Err(RemoteFailure::Stopped) if self.is_queued_too_long && !self.is_given_up => {
                let limit = self.limits.queue.unwrap_or_default();
                self.is_queued_too_long = false;
                RemoteFailure::NoMachine { limit }
            }
            Err(failure) => failure,
        };
        // Send the event first, because the caller may count the packages that still run.
        if !self.limits.gives_up || !failure.is_of_the_server() {
            caller.hear(ClusterEvent::Ended(id, Err(failure)));
            if !self.limits.keep_going {
                self.shared.stop.cancel();
            }
            return;
        }
        caller.hear(match self.is_given_up {
            true => ClusterEvent::Ended(id, Err(RemoteFailure::Stopped)),
            false => ClusterEvent::GivenUp(id, failure),
        });
        self.is_given_up = true;
        self.shared.stop.cancel();
    }
}

fn flat<T>(result: Result<Result<T, RemoteFailure>, TaskFailed>) -> Result<T, RemoteFailure> {
    result.unwrap_or_else(|error| Err(error.into()))
}

impl Shared {
    fn package(&self, id: Id) -> &PlannedPackage {
        &self.packages[id.index()]
    }

    pub(super) fn available(&self) -> MutexGuard<'_, HashMap<Id, Available>> {
        self.available
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a package available that was already compiled. Returns `false` for another package.
    pub(super) fn provide(&self, id: Id) -> bool {
        let Supply::Compiled(file) = &self.package(id).supply else {
            return false;
        };
        let available = Available {
            digest: file.digest.clone(),
            is_unrestricted: false,
        };
        self.available().insert(id, available);
        true
    }

    /// Compiles a package. If the server has lost dependencies, compiles these again first.
    fn build(
        &self,
        id: Id,
        skip_cache_lookup: bool,
    ) -> BoxFuture<'_, Result<Built, RemoteFailure>> {
        async move {
            let heard = |stage| {
                // Sending fails if the run has ended.
                let _ = self.stages.send((id, stage));
            };
            for _ in 0..ATTEMPTS {
                let (inputs, files) = self.inputs(id)?;
                let cluster = &self.cluster;
                let building =
                    cluster.build(&inputs, &files, skip_cache_lookup, &self.stop, &heard);
                match building.await {
                    Ok(built) => {
                        let available = Available {
                            digest: built.package.clone(),
                            is_unrestricted: built.report.unrestricted || inputs.is_unrestricted,
                        };
                        self.available().insert(id, available);
                        return Ok(built);
                    }
                    Err(AttemptError::Failed(failure)) => return Err(failure),
                    Err(AttemptError::Lost(lost)) => self.rebuild(id, &lost).await?,
                }
            }
            Err(RemoteFailure::Lost)
        }
        .boxed()
    }

    /// Compiles those dependencies of a package again whose blobs are in `lost`.
    async fn rebuild(&self, id: Id, lost: &[Digest]) -> Result<(), RemoteFailure> {
        for dependency in self.package(id).dependencies.clone() {
            // Another dependent may have compiled it again meanwhile.
            let available = self.available().get(&dependency).cloned();
            if available.is_some_and(|it| lost.contains(&it.digest)) {
                let package = &self.package(dependency).name;
                tracing::debug!(%package, "the server has lost a package");
                self.build(dependency, true).await?;
            }
        }
        Ok(())
    }

    /// The inputs of a package's action, and those of their files that are on this machine.
    pub(super) fn inputs(&self, id: Id) -> Result<(Inputs, Vec<KnownFile>), RemoteFailure> {
        let package = self.package(id);
        let source = match &package.supply {
            Supply::Source { source, .. } => source,
            Supply::Compiled(file) => file,
        };
        let mut files = vec![source.clone()];
        let mut dependencies = Vec::new();
        let mut is_unrestricted = false;
        let available = self.available();
        for dependency in &package.dependencies {
            let compiled = available.get(dependency).ok_or(RemoteFailure::Lost)?;
            is_unrestricted |= compiled.is_unrestricted;
            let dependency = self.package(*dependency);
            if let Supply::Compiled(file) = &dependency.supply {
                files.push(file.clone());
            }
            let (name, version) = (dependency.name.clone(), dependency.version.clone());
            dependencies.push((name, version, compiled.digest.clone()));
        }
        let inputs = Inputs {
            name: package.name.clone(),
            version: package.version.clone(),
            source: source.digest.clone(),
            dependencies,
            is_unrestricted,
        };
        Ok((inputs, files))
    }

    /// Downloads the log of a failed script. The failure is reported even if this fails.
    async fn fetch_log(&self, id: Id, failure: &RemoteFailure) {
        let RemoteFailure::Reported {
            log: Some(digest), ..
        } = failure
        else {
            return;
        };
        let Supply::Source { log, .. } = &self.package(id).supply else {
            return;
        };
        if digest.size > LONGEST_LOG {
            let (package, size) = (&self.package(id).name, Bytes(digest.size));
            tracing::warn!(
                "the log of the failed package {package} has {size} and stays on the server: longer logs than 256 MiB are not downloaded"
            );
            return;
        }
        // Another package may have stopped the run.
        let stop = CancellationToken::new();
        let downloading = results::download(&self.cluster.common().server, digest, log, &stop);
        let downloaded = tokio::time::timeout(LOG_LIMIT, downloading).await;
        if !matches!(downloaded, Ok(Ok(Some(_)))) {
            let package = &self.package(id).name;
            tracing::warn!(%package, "could not download the log of a failed package");
        }
    }

    /// Downloads the files of a package. If the server has lost them, compiles the package again.
    async fn fetch(&self, id: Id, mut built: Built) -> Result<Box<Fetched>, RemoteFailure> {
        let Supply::Source { blob, log, .. } = &self.package(id).supply else {
            return Err(RemoteFailure::Lost);
        };
        for _ in 0..ATTEMPTS {
            let permit = self.transfers.acquire().await;
            let fetching = self.cluster.fetch(&built, (blob, log), &self.stop);
            if let Some(digests) = fetching.await? {
                let blob = blob.clone();
                return Ok(Box::new(Fetched {
                    built,
                    blob,
                    digests,
                }));
            }
            drop(permit);
            built = self.build(id, true).await?;
        }
        Err(RemoteFailure::Lost)
    }
}

#[cfg(test)]
mod tests;
