//! Compiles for a Director, one package at a time: runs the compile core on the fetched inputs, and uploads the result.

mod cache;
mod failure;
mod inputs;
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

use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

pub(crate) use failure::{CompileFailure, Reason};
pub use options::CompilerOptions;
pub use request::{BlobSource, CompileRequest, Destination, RequestedDependency};

use super::tasks::TaskContext;
use crate::blobs::{BlobId, Blobs};
use crate::compile::{self, CompileError, Compiled, Job};
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

/// How long to wait for the removal of the work directory when the agent stops.
const CLOSE_WITHIN: Duration = Duration::from_secs(20);

/// Compiles the packages that a Director requests.
#[derive(Debug)]
pub(crate) struct PackageCompiler {
    options: CompilerOptions,
    /// Locked by the running compile. `None` until [`start`](Self::start) has created it; if that failed, the next compile creates it.
    state: Mutex<Option<CompilerState>>,
}

impl PackageCompiler {
    /// A compiler without a work directory; see [`start`](Self::start).
    #[must_use]
    pub(crate) fn new(options: CompilerOptions) -> Self {
        Self {
            options,
            state: Mutex::new(None),
        }
    }

    /// Creates the work directory and the sandbox. If a killed agent has left a work directory, first waits until the processes of its
    /// scripts have ended, and removes it; `cancel` ends the wait. A failure is logged; the next compile tries again and reports it.
    pub(crate) async fn start(&self, cancel: &CancellationToken) {
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
    use crate::machine::data::DataDirectory;
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
    async fn start_can_be_canceled() {
        let temporary = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(&temporary.path().join("vcap"));
        let killed = SharedTree::take(&vcap, "a killed agent", true, &|| false).unwrap();
        let marker = Sandbox::from(killed).process_lock();
        // `start` waits for this process of a script of the killed agent.
        let mut process = process::start_holder("sandbox-child", &marker);
        let compiler = PackageCompiler::new(CompilerOptions {
            data: DataDirectory::prepared(&vcap),
            vcap,
            environment: Environment::default(),
            fork_server: temporary.path().join("none").into(),
            who: "a test".to_owned(),
            removes_foreign: true,
            grace: Duration::ZERO,
            secrets: Vec::new(),
            isolation: Isolation::None,
            user_namespace: UserNamespace::Outside,
            config: CompilationConfig::default(),
            program: temporary.path().join("none"),
        });
        let cancel = CancellationToken::new();
        cancel.cancel();
        let starting = compiler.start(&cancel);
        let started = tokio::time::timeout(Duration::from_secs(10), starting).await;
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(started.is_ok(), "it waits for the process");
        assert!(compiler.state.lock().await.is_none());
    }
}
