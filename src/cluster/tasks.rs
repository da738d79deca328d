//! The tasks of a run: building a package, with the dependencies that the server has lost, and downloading its files.

use std::collections::HashMap;
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
use super::files::LONGEST_LOG;
use super::plan::{Plan, PlannedPackage, Supply};
use super::results;
use super::retry::ATTEMPTS;
use crate::compile::{Graph, Id};
use crate::diag::Bytes;
use crate::reapi::{Digest, Stage};
use crate::release::Digests;

/// The maximum number of concurrent downloads of packages.
const TRANSFERS: usize = 4;

/// How long the download of a failed script's log may take.
const LOG_LIMIT: Duration = Duration::from_secs(30);

/// A compiled package that was downloaded.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub built: Built,
    pub blob: PathBuf,
    pub digests: Digests,
}

/// The state that the tasks of a run share.
pub(super) struct Shared {
    pub(super) cluster: Arc<Cluster>,
    pub(super) packages: Vec<PlannedPackage>,
    /// The compiled packages that the server has.
    available: Mutex<HashMap<Id, Available>>,
    transfers: Semaphore,
    /// Stops everything but the downloads of results.
    pub(super) stop: CancellationToken,
    /// Stops everything.
    all: CancellationToken,
    stages: mpsc::UnboundedSender<TaskStage>,
}

/// A compiled package that the server has.
#[derive(Debug, Clone)]
pub(super) struct Available {
    pub(super) digest: Digest,
    /// Whether it or one of its dependencies was compiled without restrictions.
    pub(super) is_unrestricted: bool,
}

/// The stage of an execution that a task waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct TaskStage {
    /// The package for which the task runs.
    pub(super) task: Id,
    /// The package that is executed: that of the task, or a lost dependency.
    pub(super) package: Id,
    /// [`Stage::Ended`] when the task waits for no execution any longer.
    pub(super) stage: Stage,
}

impl Plan {
    /// The graph, the state that tasks share, and the stages that they report. `all` stops everything, `stop` everything but downloads.
    pub(super) fn into_shared(
        self,
        cluster: &Arc<Cluster>,
        (stop, all): (&CancellationToken, &CancellationToken),
    ) -> (Graph, Arc<Shared>, mpsc::UnboundedReceiver<TaskStage>) {
        let (sender, stages) = mpsc::unbounded_channel();
        let shared = Shared {
            cluster: Arc::clone(cluster),
            available: Mutex::default(),
            packages: self.packages,
            transfers: Semaphore::new(TRANSFERS),
            stop: stop.clone(),
            all: all.clone(),
            stages: sender,
        };
        (self.graph, Arc::new(shared), stages)
    }
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

    /// Compiles a package in the task of a package. If the server has lost dependencies, compiles these again first.
    pub(super) fn build(
        &self,
        (task, id): (Id, Id),
        skip_cache_lookup: bool,
    ) -> BoxFuture<'_, Result<Built, RemoteFailure>> {
        async move {
            let on_stage = |stage| {
                let package = id;
                let stage = TaskStage {
                    task,
                    package,
                    stage,
                };
                // Sending fails if the run has ended.
                let _ = self.stages.send(stage);
            };
            for _ in 0..ATTEMPTS {
                let (inputs, files) = self.inputs(id)?;
                let cluster = &self.cluster;
                let stops = (&self.stop, &self.all);
                let building = cluster.build(&inputs, &files, skip_cache_lookup, stops, &on_stage);
                let built = building.await;
                on_stage(Stage::Ended);
                match built {
                    Ok(built) => {
                        let available = Available {
                            digest: built.package.clone(),
                            is_unrestricted: built.report.unrestricted || inputs.is_unrestricted,
                        };
                        self.available().insert(id, available);
                        return Ok(built);
                    }
                    Err(AttemptError::Failed(failure)) => return Err(failure),
                    Err(AttemptError::Lost(lost)) => self.rebuild((task, id), &lost).await?,
                }
            }
            Err(RemoteFailure::Lost)
        }
        .boxed()
    }

    /// Compiles those dependencies of a package again whose blobs are in `lost`.
    async fn rebuild(&self, (task, id): (Id, Id), lost: &[Digest]) -> Result<(), RemoteFailure> {
        for dependency in self.package(id).dependencies.clone() {
            // Another dependent may have compiled it again meanwhile.
            let available = self.available().get(&dependency).cloned();
            if available.is_some_and(|it| lost.contains(&it.digest)) {
                let package = &self.package(dependency).name;
                tracing::debug!(%package, "the server has lost a package");
                self.build((task, dependency), true).await?;
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
    pub(super) async fn fetch_log(&self, id: Id, failure: &RemoteFailure) {
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
        // Another package may have stopped the others.
        let server = &self.cluster.common().server;
        let downloading = results::download(server, digest, log, &self.all);
        let downloaded = tokio::time::timeout(LOG_LIMIT, downloading).await;
        if !matches!(downloaded, Ok(Ok(Some(_)))) {
            let package = &self.package(id).name;
            tracing::warn!(%package, "could not download the log of a failed package");
        }
    }

    /// Downloads the files of a package. If the server has lost them, compiles the package again.
    pub(super) async fn fetch(
        &self,
        id: Id,
        mut built: Built,
        stop: &CancellationToken,
    ) -> Result<Box<Fetched>, RemoteFailure> {
        let Supply::Source { blob, log, .. } = &self.package(id).supply else {
            return Err(RemoteFailure::Lost);
        };
        for _ in 0..ATTEMPTS {
            let permit = stop.run_until_cancelled(self.transfers.acquire()).await;
            let permit = permit.ok_or(RemoteFailure::Stopped)?;
            let fetching = self.cluster.fetch(&built, (blob, log), stop);
            if let Some(digests) = fetching.await? {
                let blob = blob.clone();
                return Ok(Box::new(Fetched {
                    built,
                    blob,
                    digests,
                }));
            }
            drop(permit);
            built = self.build((id, id), true).await?;
        }
        Err(RemoteFailure::Lost)
    }
}
