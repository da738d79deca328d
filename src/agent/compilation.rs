//! Compiles for a Director, one package at a time: fetches blobs, runs the compile core, uploads the result.

mod cache;
mod failure;
mod log_blob;
mod logs;
mod on_disk;
mod options;
mod phases;
mod request;
mod state;
mod upload;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

pub(crate) use failure::{CompileFailure, Reason};
pub use options::CompilerOptions;
pub use request::{BlobSource, CompileRequest, Destination, RequestedDependency};

use super::tasks::TaskContext;
use crate::archive;
use crate::blobs::{BlobId, Blobs};
use crate::compile::{self, CompileError, Compiled, Dependency, Installed, Job};
use crate::diag::Chain;
use crate::fs;
use crate::release::digest::Algorithm;
use crate::release::{Digests, MultiDigest, Name};
use crate::runtime;
use failure::ScriptText;
use logs::Logs;
use on_disk::on_disk;
use phases::{Phases, seconds};
use state::CompilerState;

/// The free space, in bytes, that should remain after a blob is extracted. If less would remain, [`make_room`](CompileRun::make_room)
/// removes packages that are kept from earlier requests.
const RESERVE: u64 = 512 << 20;

/// The free space, in bytes, that is assumed to be enough for any script; how much a script writes is unknown. Before a blob is extracted,
/// [`make_room`](CompileRun::make_room) removes kept packages until this much is free, or half of the disk if that is less.
const AMPLE: u64 = 16 << 30;

/// How long to wait for the removal of the work directory when the agent stops.
const CLOSE_WITHIN: Duration = Duration::from_secs(20);

/// Compiles the packages that a Director requests.
#[derive(Debug)]
pub(crate) struct PackageCompiler {
    options: CompilerOptions,
    /// Locked by the running compile. `None` until [`prepare`](Self::prepare) has created it; if that failed, the next compile creates it.
    state: Mutex<Option<CompilerState>>,
}

impl PackageCompiler {
    /// A compiler without a work directory; see [`prepare`](Self::prepare).
    #[must_use]
    pub(crate) fn new(options: CompilerOptions) -> Self {
        Self {
            options,
            state: Mutex::new(None),
        }
    }

    /// Creates the work directory. If a killed agent has left a work directory, first waits until the processes of its scripts have ended,
    /// and removes it; `cancel` ends the wait. A failure is logged; the next compile tries again and reports it.
    pub(crate) async fn prepare(&self, cancel: &CancellationToken) {
        let mut state = self.state.lock().await;
        match CompilerState::make(&self.options, cancel).await {
            Ok(made) => *state = Some(made),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "the compiler is unavailable");
            }
        }
    }

    /// Compiles one package and uploads it. `blobs` changes with the settings. Returns the value of the reply.
    ///
    /// # Errors
    /// See [`CompileFailure`].
    pub(crate) async fn compile(
        &self,
        request: CompileRequest,
        blobs: watch::Receiver<Arc<Blobs>>,
        task: &TaskContext,
    ) -> Result<Value, CompileFailure> {
        // The log lines of the request contain the package.
        let span = tracing::error_span!("package", package = %request.name);
        self.compile_one(request, blobs, task)
            .instrument(span)
            .await
    }

    async fn compile_one(
        &self,
        request: CompileRequest,
        blobs: watch::Receiver<Arc<Blobs>>,
        task: &TaskContext,
    ) -> Result<Value, CompileFailure> {
        let phases = Phases::new(&task.progress);
        phases.enter("queued");
        let (package, log) = (request.name.clone(), OnceLock::new());
        let result = tokio::select! {
            mut state = self.state.lock() => {
                let run = CompileRun {
                    compiler: self,
                    request,
                    blobs,
                    task,
                    phases: &phases,
                    failed_log: &log,
                };
                run.run(&mut state).await
            }
            () = task.cancel.cancelled() => Err(Reason::Canceled),
        };
        phases.end();
        result.map_err(|source| {
            // A canceled compile fails with various errors, all caused by the cancellation.
            let source = if task.requested.is_cancelled() {
                Reason::Canceled
            } else if task.cancel.is_cancelled() {
                Reason::Stopped
            } else {
                source
            };
            let log = log.into_inner();
            CompileFailure {
                package,
                source,
                log,
            }
        })
    }

    /// Removes the work directory, within [`CLOSE_WITHIN`]. If this takes longer, the agent removes the rest at its next start.
    pub(crate) async fn close(&self) {
        let closing = async {
            let Some(state) = self.state.lock().await.take() else {
                return Ok(());
            };
            let closing = runtime::spawn_blocking("close", move || state.close());
            closing
                .await
                .unwrap_or_else(|error| Err(Reason::Task(error)))
        };
        match tokio::time::timeout(CLOSE_WITHIN, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "failed to remove the work directory");
            }
            Err(_) => tracing::warn!("timed out while removing the work directory"),
        }
    }
}

/// One running request.
struct CompileRun<'a> {
    compiler: &'a PackageCompiler,
    request: CompileRequest,
    blobs: watch::Receiver<Arc<Blobs>>,
    task: &'a TaskContext,
    phases: &'a Arc<Phases>,
    /// The blob with the log of the failed script.
    failed_log: &'a OnceLock<BlobId>,
}

impl CompileRun<'_> {
    async fn run(&self, slot: &mut Option<CompilerState>) -> Result<Value, Reason> {
        if slot.is_none() {
            *slot = Some(CompilerState::make(&self.compiler.options, &self.task.cancel).await?);
        }
        let state = slot.as_mut().ok_or(Reason::Canceled)?;
        state.listen(Some(Arc::clone(self.phases)));
        let result = match self.compile_on(state).await {
            Err(reason) => Err(with_space(reason, state.path().to_owned()).await),
            compiled => compiled,
        };
        state.listen(None);
        // The next request must not find files of this request.
        let cleared = state.clear().await;
        let value = result?;
        cleared?;
        Ok(value)
    }

    async fn compile_on(&self, state: &mut CompilerState) -> Result<Value, Reason> {
        self.phases.enter("fetching");
        state.remove_kept().await;
        let needed: Vec<(&Name, &MultiDigest)> = self
            .request
            .dependencies
            .iter()
            .map(|dependency| (&dependency.name, &dependency.digest))
            .collect();
        state.cache.begin(&needed);
        let dependencies = self.dependencies(state).await?;
        let source = state.fetched(&self.request.name);
        let origin = self.request.source.as_ref();
        self.fetch(&self.request.name, origin, &self.request.digest, &source)
            .await?;
        self.make_room(state, &self.request.name, &source).await?;
        let (vcap, name) = (
            self.compiler.options.vcap.clone(),
            self.request.name.clone(),
        );
        let logs = on_disk("logs", move || logs::prepare(&vcap, &name)).await?;
        let algorithms = match self.request.destination {
            Destination::Blobstore => vec![Algorithm::Sha1],
            Destination::Signed(..) => vec![Algorithm::Sha1, Algorithm::Sha512],
        };
        let job = Job {
            number: 0,
            name: self.request.name.clone(),
            version: self.request.version.clone(),
            source,
            kept: None,
            // Without digests, the source is not verified again: the blob was just fetched and verified, and no other request runs.
            source_digests: Digests::default(),
            source_date: None,
            dependencies,
            log: logs.stderr.clone(),
            stdout_log: Some(logs.stdout.clone()),
            blob: state.result(),
            is_dependency: true,
            algorithms: algorithms.clone(),
        };
        let compiled = self.build(state, job, &logs).await?;
        self.phases.enter("uploading");
        let result = self.upload(&compiled, &algorithms).await?;
        let result = self.with_log_of_success(result, logs, state).await;
        self.keep(state, compiled, &algorithms);
        Ok(json!({ "result": result }))
    }

    /// Runs the packaging script and packs the result.
    async fn build(
        &self,
        state: &CompilerState,
        job: Job,
        logs: &Logs,
    ) -> Result<Compiled, Reason> {
        let started = Instant::now();
        let compiled = match compile::compile(state.context(), job, &self.task.cancel).await {
            Ok(compiled) => compiled,
            Err(error) => {
                let paths = vec![logs.stderr.clone(), logs.stdout.clone()];
                let reason = with_error_line(reason(error), paths).await;
                self.upload_failed_log(&reason, logs.clone(), state).await;
                return Err(reason);
            }
        };
        for finding in &compiled.findings {
            tracing::warn!("{finding}");
        }
        if let Some(end) = &compiled.script {
            self.phases.log_end(end);
        }
        let (bytes, seconds) = (compiled.size, seconds(started));
        tracing::info!(bytes, seconds, "package compiled");
        Ok(compiled)
    }

    async fn dependencies(&self, state: &mut CompilerState) -> Result<Vec<Dependency>, Reason> {
        let mut dependencies = Vec::new();
        for dependency in &self.request.dependencies {
            let installed =
                self.install(state, dependency)
                    .await
                    .map_err(|source| Reason::Dependency {
                        dependency: dependency.name.clone(),
                        source: Box::new(source),
                    })?;
            dependencies.push(Dependency {
                name: dependency.name.clone(),
                version: dependency.version.clone(),
                installed,
            });
        }
        Ok(dependencies)
    }

    /// Returns an installed dependency, kept from an earlier request or newly extracted from its blob.
    async fn install(
        &self,
        state: &mut CompilerState,
        dependency: &RequestedDependency,
    ) -> Result<Installed, Reason> {
        if let Some(installed) = state.cache.get(&dependency.name, &dependency.digest) {
            if is_unchanged(state, &dependency.name, &installed).await? {
                return Ok(installed);
            }
            state.discard(&dependency.name, &dependency.digest).await?;
        }
        let RequestedDependency {
            name,
            version,
            digest,
            ..
        } = dependency;
        let blob = state.fetched(name);
        self.fetch(name, dependency.blob.as_ref(), digest, &blob)
            .await?;
        self.make_room(state, name, &blob).await?;
        let (context, own) = (Arc::clone(state.context()), name.clone());
        let (from, cancel) = (blob.clone(), self.task.cancel.clone());
        let unpacking = runtime::spawn_blocking("install", move || {
            context.store.unpack(&own, &from, &cancel)
        });
        let unpacked = unpacking.await.map_err(Reason::Task)?;
        let installed = unpacked.map_err(|source| Reason::Unpack {
            package: name.clone(),
            source,
        })?;
        state.cache.insert(name, version, digest, installed.clone());
        on_disk("blob", move || fs::remove_file(&blob)).await?;
        Ok(installed)
    }

    async fn fetch(
        &self,
        package: &Name,
        origin: Option<&BlobSource>,
        digest: &MultiDigest,
        to: &Path,
    ) -> Result<(), Reason> {
        let cancel = &self.task.cancel;
        let fetched = match origin {
            None => {
                return Err(Reason::NoBlob {
                    package: package.clone(),
                });
            }
            Some(BlobSource::Blobstore(id)) => {
                self.with_current_blobs(|blobs| {
                    async move { blobs.get(id, digest, to, cancel).await }.boxed()
                })
                .await
            }
            Some(BlobSource::Signed(url, headers)) => {
                self.with_current_blobs(|blobs| {
                    async move { blobs.get_signed(url, headers, digest, to, cancel).await }.boxed()
                })
                .await
            }
        };
        fetched.map_err(|source| Reason::Fetch {
            package: package.clone(),
            source: Box::new(source),
        })
    }

    /// Makes room to extract a blob: removes packages of earlier requests and, if that is not enough, the contents of scratch directories.
    async fn make_room(
        &self,
        state: &mut CompilerState,
        package: &Name,
        blob: &Path,
    ) -> Result<(), Reason> {
        let own = blob.to_owned();
        let needed = on_disk("measure", move || archive::least_unpacked(&own)).await?;
        let mut has_waited = false;
        let space = loop {
            let own = blob.to_owned();
            let space = on_disk("measure", move || fs::space(&own)).await?;
            if is_space_ample(space, needed) {
                break space;
            }
            if !has_waited {
                // The files of the last package may not have been removed yet.
                let ample = ample_space(space.total, needed);
                state.wait_for_space(ample, &self.task.cancel).await?;
                has_waited = true;
            } else if !state.forget_one().await? {
                break space;
            }
        };
        if space.free < needed {
            return Err(Reason::NoSpace {
                package: package.clone(),
                directory: fs::parent(blob).to_owned(),
                purpose: "its contents",
                needed,
                free: space.free,
            });
        }
        Ok(())
    }

    /// Keeps the installed package under the digest with which later requests name it as a dependency.
    fn keep(&self, state: &mut CompilerState, compiled: Compiled, algorithms: &[Algorithm]) {
        if let Some(digest) = MultiDigest::of(&compiled.digests, algorithms)
            && let Some(installed) = compiled.installed
        {
            let (name, version) = (&self.request.name, &self.request.version);
            installed.forget_blob();
            state.cache.insert(name, version, &digest, installed);
        }
    }
}

/// Whether an installed package still has the content that was installed.
async fn is_unchanged(
    state: &CompilerState,
    dependency: &Name,
    installed: &Installed,
) -> Result<bool, Reason> {
    let (context, own) = (Arc::clone(state.context()), installed.clone());
    let checking = runtime::spawn_blocking("check", move || context.store.check(&own));
    let Err(changed) = checking.await.map_err(Reason::Task)? else {
        return Ok(true);
    };
    tracing::warn!(
        dependency = %dependency,
        changes = %changed.difference,
        suspects = %changed.suspects,
        "an installed package was changed; fetching it again"
    );
    Ok(false)
}

/// Whether there is room for a script without removing packages that are kept from earlier requests.
fn is_space_ample(space: fs::Space, needed: u64) -> bool {
    space.free >= ample_space(space.total, needed)
}

/// The free space, on a disk of `total` bytes, that is assumed to be enough for `needed` bytes of files and for any script.
fn ample_space(total: u64, needed: u64) -> u64 {
    needed.saturating_add(RESERVE).max(AMPLE.min(total / 2))
}

fn reason(error: CompileError) -> Reason {
    match error {
        CompileError::Script(failure) => {
            for finding in &failure.findings {
                tracing::warn!("{finding}");
            }
            Reason::Script(ScriptText {
                failure,
                error: None,
            })
        }
        CompileError::Source { package, source } => Reason::Unpack { package, source },
        CompileError::Stopped { .. } => Reason::Canceled,
        CompileError::NoSpace {
            directory,
            space,
            source,
        } => Reason::Full {
            directory,
            space,
            source: Box::new(reason(*source)),
        },
        other => Reason::Compile(other),
    }
}

/// Adds the first error line in the logs to the failure of a script, if one is found.
async fn with_error_line(reason: Reason, logs: Vec<PathBuf>) -> Reason {
    let Reason::Script(mut script) = reason else {
        return reason;
    };
    let searching = on_disk("error line", move || {
        let paths: Vec<&Path> = logs.iter().map(PathBuf::as_path).collect();
        let found = compile::find_error_in(&paths)?;
        Ok(found.map(|(index, line)| (logs[index].clone(), line)))
    });
    match searching.await {
        Ok(found) => script.error = found,
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "failed to read the log of the packaging script");
        }
    }
    Reason::Script(script)
}

/// Adds the free space to an error that a full disk caused. Call this before the files of the request are removed, because the removal
/// changes the free space.
async fn with_space(reason: Reason, directory: PathBuf) -> Reason {
    if matches!(reason, Reason::Full { .. }) || !fs::is_no_space_behind(&reason) {
        return reason;
    }
    let own = directory.clone();
    match on_disk("measure", move || fs::space(&own)).await {
        Ok(space) => Reason::Full {
            directory,
            space,
            source: Box::new(reason),
        },
        Err(_) => reason,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{CompilationConfig, Environment, Vcap};
    use crate::process;
    use crate::sandbox::{Isolation, Sandbox, SharedTree, UserNamespace};

    #[tokio::test]
    async fn full_disk_is_reported_with_its_free_space() {
        let scratch = tempfile::tempdir().unwrap();
        let failed = || {
            let source = std::io::ErrorKind::StorageFull.into();
            fs::Error::new("write", Path::new("/file"), source)
        };
        let package = Name::parse("redis").unwrap();
        let of_core = CompileError::NoSpace {
            directory: scratch.path().to_owned(),
            space: fs::space(scratch.path()).unwrap(),
            source: Box::new(CompileError::Source {
                package: package.clone(),
                source: failed().into(),
            }),
        };
        let of_dependency = Reason::Dependency {
            dependency: package.clone(),
            source: Box::new(Reason::Unpack {
                package,
                source: failed().into(),
            }),
        };
        for reason in [reason(of_core), of_dependency, Reason::Files(failed())] {
            let full = with_space(reason, scratch.path().to_owned()).await;
            let text = Chain(&full).to_string();
            let start = format!("No space left in {}: ", scratch.path().display());
            assert!(text.starts_with(&start), "{text}");
            assert_eq!(text.matches(" free: ").count(), 1, "{text}");
            assert!(text.contains(": failed to write `/file`: "), "{text}");
        }
        let other = with_space(Reason::Canceled, scratch.path().to_owned()).await;
        assert!(matches!(other, Reason::Canceled));
    }

    #[tokio::test]
    async fn preparation_can_be_canceled() {
        let temporary = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(&temporary.path().join("vcap"));
        let killed = SharedTree::take(&vcap, "a killed agent", true, &|| false).unwrap();
        let marker = Sandbox::from(killed).process_lock();
        // `prepare` waits for this process of a script of the killed agent.
        let mut process = process::start_holder("sandbox-child", &marker);
        let compiler = PackageCompiler::new(CompilerOptions {
            vcap,
            environment: Environment::default(),
            agent: temporary.path().join("none").into(),
            who: "a test".to_owned(),
            force: true,
            grace: Duration::ZERO,
            secrets: Vec::new(),
            isolation: Isolation::None,
            user_namespace: UserNamespace::Outside,
            config: CompilationConfig::default(),
            skipped_bootstrap: None,
            program: temporary.path().join("none"),
        });
        let cancel = CancellationToken::new();
        cancel.cancel();
        let preparing = compiler.prepare(&cancel);
        let prepared = tokio::time::timeout(Duration::from_secs(10), preparing).await;
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(prepared.is_ok(), "it waits for the process");
        assert!(compiler.state.lock().await.is_none());
    }

    #[test]
    fn packages_are_kept_while_there_is_room() {
        const GIB: u64 = 1 << 30;
        let is_space_ample = |free, total, needed| {
            is_space_ample(
                fs::Space {
                    free,
                    total,
                    inodes: None,
                    device: 0,
                },
                needed,
            )
        };
        assert!(is_space_ample(6 * GIB, 10 * GIB, GIB));
        assert!(!is_space_ample(4 * GIB, 10 * GIB, GIB));
        // On a large disk, `AMPLE` is enough.
        assert!(is_space_ample(17 * GIB, 1000 * GIB, GIB));
        assert!(!is_space_ample(15 * GIB, 1000 * GIB, GIB));
        // The contents of the blob must fit, too.
        assert!(!is_space_ample(6 * GIB, 10 * GIB, 6 * GIB));
        assert!(is_space_ample(u64::MAX, 0, u64::MAX));
    }
}
