//! Stores packages that this machine has compiled, as results of their actions.
//!
//! A package is stored after its dependencies, because its action names their blobs. A package with a dependency that is not on the server
//! is not stored, because no run would find it. A package with a dependency that was compiled without restrictions is not stored either.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use futures_util::FutureExt as _;

use super::action::{self, Inputs};
use super::attempt::Cluster;
use super::calls::repeat;
use super::common::KnownFile;
use super::error::RemoteFailure;
use super::tasks::{Available, Shared};
use super::uploads::Contents;
use crate::compile::Id;
use crate::fs;
use crate::package_job::{PackageReport, ReportedDependency};
use crate::reapi::{Blob, Digest};
use crate::runtime::{self, TaskFailed, TaskSet};

/// The name of the machine in results that no machine of the server has compiled.
const WORKER: &str = "bosh-agent compile --remote-store";

/// A package that this machine has compiled.
#[derive(Debug)]
pub(crate) struct LocalResult {
    pub package: KnownFile,
    pub log: Option<KnownFile>,
    /// The report of the compilation, without the dependencies.
    pub report: PackageReport,
}

/// Reads the files that are stored for a package. Blocks.
type Prepare = Box<dyn FnOnce() -> fs::Result<LocalResult> + Send>;

/// A package that waits until its dependencies are stored.
struct Waiting {
    prepare: Prepare,
    /// Dropped when the package is stored, because it keeps the package's files in place.
    files: Arc<dyn Any + Send + Sync>,
}

/// The packages that are being stored.
pub(crate) struct Storing {
    shared: Arc<Shared>,
    waiting: BTreeMap<Id, Waiting>,
    running: TaskSet<Id, Result<Available, RemoteFailure>>,
    stored: usize,
    failure: Option<RemoteFailure>,
}

/// The result of storing packages.
#[derive(Debug)]
pub(crate) struct StoringEnd {
    pub stored: usize,
    pub failure: Option<RemoteFailure>,
    /// Whether the time limit ended before all packages were stored.
    pub is_late: bool,
}

impl fmt::Debug for Storing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storing").finish_non_exhaustive()
    }
}

impl Storing {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            waiting: BTreeMap::new(),
            running: TaskSet::new("store result"),
            stored: 0,
            failure: None,
        }
    }

    /// Removes a package from those that are available on the server, because the server's result for it is not used.
    pub(crate) fn forget(&self, id: Id) {
        self.shared.available().remove(&id);
    }

    /// Stores a package as soon as its dependencies are stored, and then drops `files`. After a failure, no further package is stored.
    pub(crate) fn store(
        &mut self,
        id: Id,
        prepare: impl FnOnce() -> fs::Result<LocalResult> + Send + 'static,
        files: Arc<dyn Any + Send + Sync>,
    ) {
        let prepare = Box::new(prepare);
        self.waiting.insert(id, Waiting { prepare, files });
        while let Some(Some((id, stored))) = self.running.next().now_or_never() {
            self.ended(id, stored);
        }
        self.start_ready();
    }

    /// Waits until all packages are stored, up to `limit`.
    pub(crate) async fn finish(mut self, limit: Duration) -> StoringEnd {
        let finishing = async {
            while let Some((id, stored)) = self.running.next().await {
                self.ended(id, stored);
                self.start_ready();
            }
        };
        let is_late = tokio::time::timeout(limit, finishing).await.is_err();
        StoringEnd {
            stored: self.stored,
            failure: self.failure,
            is_late,
        }
    }

    fn ended(&mut self, id: Id, stored: Result<Result<Available, RemoteFailure>, TaskFailed>) {
        match stored.unwrap_or_else(|error| Err(error.into())) {
            Ok(available) => {
                self.shared.available().insert(id, available);
                self.stored += 1;
            }
            Err(failure) => {
                self.failure.get_or_insert(failure);
                self.waiting.clear();
            }
        }
    }

    /// Starts to store the packages whose dependencies are on the server.
    fn start_ready(&mut self) {
        if self.failure.is_some() {
            self.waiting.clear();
        }
        let inputs = |id: &Id| Some((*id, self.shared.inputs(*id).ok()?.0));
        let ready: Vec<_> = self.waiting.keys().filter_map(inputs).collect();
        for (id, inputs) in ready {
            let Some(Waiting { prepare, files }) = self.waiting.remove(&id) else {
                continue;
            };
            if inputs.is_unrestricted {
                continue;
            }
            let shared = Arc::clone(&self.shared);
            self.running.spawn(id, async move {
                let preparing = runtime::spawn_blocking("result", prepare);
                let result = preparing.await??;
                let digest = result.package.digest.clone();
                shared
                    .cluster
                    .store_result(&inputs, result, &shared)
                    .await?;
                drop(files);
                Ok(Available {
                    digest,
                    is_unrestricted: false,
                })
            });
        }
    }
}

impl Cluster {
    /// Stores a package of this machine as the result of its action.
    async fn store_result(
        &self,
        inputs: &Inputs,
        mut result: LocalResult,
        shared: &Shared,
    ) -> Result<(), RemoteFailure> {
        let (common, stop) = (self.common(), &shared.stop);
        let action = action::action(common, inputs)?;
        result.report.dependencies = dependencies(inputs);
        let report = Blob::new(serde_json::to_vec(&result.report)?);
        let file = |path: &str, digest: &Digest| api::OutputFile {
            path: path.to_owned(),
            digest: Some(digest.message()),
            ..Default::default()
        };
        let mut output_files = vec![
            file(action::PACKAGE, &result.package.digest),
            file(action::REPORT, &report.digest),
        ];
        let log = result.log.as_ref();
        output_files.extend(log.map(|log| file(action::LOG, &log.digest)));
        let files = [Some(result.package), result.log].into_iter().flatten();
        let files = files.map(|it| (it.digest, Contents::File(it.path)));
        let blobs = action.blobs.into_iter().chain([report]);
        let blobs = blobs.map(|it| (it.digest, Contents::Bytes(it.data)));
        self.uploads()
            .store(blobs.chain(files).collect(), stop)
            .await?;
        let message = api::ActionResult {
            output_files,
            execution_metadata: Some(api::ExecutedActionMetadata {
                worker: WORKER.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let storing = repeat((common.server.pauses(), stop), 0, || async {
            let (server, digest) = (&common.server, &action.digest);
            server.update_action_result(digest, message.clone()).await?;
            Ok(())
        });
        storing.await
    }
}

/// The dependencies in the form of a report. They have no SHA-1, because their blobs are not read again.
fn dependencies(inputs: &Inputs) -> Vec<ReportedDependency> {
    let dependencies = inputs.dependencies.iter();
    let reported = dependencies.map(|(name, version, digest)| ReportedDependency {
        name: name.to_string(),
        version: version.to_string(),
        blob: Some(crate::package_job::Blob {
            size: digest.size,
            sha1: None,
            sha256: Some(digest.sha256.clone()),
        }),
    });
    reported.collect()
}
