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
use tokio_util::sync::CancellationToken;

use super::action::Inputs;
use super::attempt::{AttemptError, Built, Cluster};
use super::common::KnownFile;
use super::error::RemoteFailure;
use super::results;
use super::retry::ATTEMPTS;
use crate::compile::{Graph, Id, Queue};
use crate::reapi::{Digest, Stage};
use crate::release::{Digests, Name, Version};
use crate::runtime::{TaskFailed, TaskSet};

/// The maximum number of concurrent downloads of packages.
const TRANSFERS: usize = 4;

/// The longest log that is downloaded, in bytes.
const LONGEST_LOG: u64 = 256 << 20;

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
    Built(Id),
    /// The files were downloaded, or the package failed.
    Ended(Id, Result<Box<Fetched>, RemoteFailure>),
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

    /// Compiles all packages, up to `jobs` concurrently. After the first failure, stops the others,
    /// unless `keep_going` is set.
    pub(crate) async fn run(
        self,
        cluster: &Arc<Cluster>,
        (jobs, keep_going): (NonZeroUsize, bool),
        stop: &CancellationToken,
        caller: &mut impl ClusterCaller,
    ) {
        let (sender, stages) = mpsc::unbounded_channel();
        let run = Run {
            queue: Queue::new(self.graph),
            building: TaskSet::new("build"),
            fetching: TaskSet::new("fetch"),
            shared: Arc::new(Shared {
                cluster: Arc::clone(cluster),
                available: Mutex::default(),
                packages: self.packages,
                transfers: Semaphore::new(TRANSFERS),
                stop: stop.child_token(),
                stages: sender,
            }),
            jobs: jobs.get(),
            keep_going,
        };
        run.run(stages, caller).await;
    }
}

struct Run {
    queue: Queue,
    building: TaskSet<Id, Result<Built, RemoteFailure>>,
    fetching: TaskSet<Id, Result<Box<Fetched>, RemoteFailure>>,
    shared: Arc<Shared>,
    jobs: usize,
    keep_going: bool,
}

/// The state that the tasks of a run share.
struct Shared {
    cluster: Arc<Cluster>,
    packages: Vec<PlannedPackage>,
    /// The compiled packages that the server has.
    available: Mutex<HashMap<Id, Available>>,
    transfers: Semaphore,
    stop: CancellationToken,
    stages: mpsc::UnboundedSender<(Id, Stage)>,
}

/// A compiled package that the server has.
#[derive(Debug, Clone)]
struct Available {
    digest: Digest,
    /// Whether it or one of its dependencies was compiled without restrictions.
    is_unrestricted: bool,
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
            // Cancel-safe: each branch may be dropped.
            tokio::select! {
                biased;
                Some((id, stage)) = stages.recv() => caller.hear(ClusterEvent::Entered(id, stage)),
                Some((id, built)) = self.building.next() => self.built(id, flat(built), caller),
                Some((id, fetched)) = self.fetching.next() => self.ended(id, flat(fetched), caller),
            }
        }
    }

    /// Starts packages whose dependencies are compiled.
    fn start(&mut self, caller: &mut impl ClusterCaller) {
        while self.building.len() < self.jobs && !self.shared.stop.is_cancelled() {
            let Some(id) = self.queue.next() else { return };
            if let Supply::Compiled(file) = &self.shared.package(id).supply {
                let digest = file.digest.clone();
                let available = Available {
                    digest,
                    is_unrestricted: false,
                };
                self.shared.available().insert(id, available);
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
        match built {
            Ok(built) => {
                self.queue.done(id);
                caller.hear(ClusterEvent::Built(id));
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
        // Send the event first, because the caller may count the packages that still run.
        let is_failure = result.is_err();
        caller.hear(ClusterEvent::Ended(id, result));
        if is_failure && !self.keep_going {
            self.shared.stop.cancel();
        }
    }
}

fn flat<T>(result: Result<Result<T, RemoteFailure>, TaskFailed>) -> Result<T, RemoteFailure> {
    result.unwrap_or_else(|error| Err(error.into()))
}

impl Shared {
    fn package(&self, id: Id) -> &PlannedPackage {
        &self.packages[id.index()]
    }

    fn available(&self) -> MutexGuard<'_, HashMap<Id, Available>> {
        self.available
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
    fn inputs(&self, id: Id) -> Result<(Inputs, Vec<KnownFile>), RemoteFailure> {
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
        let server = &self.cluster.common().server;
        for _ in 0..ATTEMPTS {
            let downloading = async {
                let _permit = self.transfers.acquire().await;
                if let Some(digest) = built.log.as_ref().filter(|it| it.size <= LONGEST_LOG) {
                    results::download(server, digest, log, &self.stop).await?;
                }
                results::download(server, &built.package, blob, &self.stop).await
            };
            let downloaded = self.stop.run_until_cancelled(downloading).await;
            match downloaded.unwrap_or(Err(RemoteFailure::Stopped)) {
                Ok(Some(digests)) => {
                    let blob = blob.clone();
                    return Ok(Box::new(Fetched {
                        built,
                        blob,
                        digests,
                    }));
                }
                Ok(None) | Err(RemoteFailure::Damaged) => {}
                Err(failure) => return Err(failure),
            }
            built = self.build(id, true).await?;
        }
        Err(RemoteFailure::Lost)
    }
}
