//! The state that the steps of one run of a package share. Also runs blocking steps on blocking threads.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::compile::context::Context;
use crate::compile::denials::Denial;
use crate::compile::error::CompileError;
use crate::compile::event::{Event, Phase};
use crate::compile::installed::SealedTree;
use crate::compile::job::Job;
use crate::compile::plan::{Plan, Surroundings};
use crate::compile::turns::ScriptTurns;
use crate::fs;
use crate::process::{LastLines, Unkillable};
use crate::release::Name;
use crate::runtime;
use crate::sandbox::{LOOKUP_LIMIT, LookupError, PathLookup, Place, Script};

/// The results of a script's run that decide whether a second run follows.
#[derive(Debug, Clone, Default)]
pub(super) struct RunSummary {
    pub(super) elapsed: Duration,
    pub(super) tail: LastLines,
    pub(super) undeclared: Vec<Name>,
    /// The denied access, if the script ran under Landlock rules.
    pub(super) denials: Vec<Denial>,
    /// The confined script, if it was run.
    pub(super) script: Option<Arc<Script>>,
}

/// One run of a package. Cheap to clone, because each blocking step owns a clone.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) context: Arc<Context>,
    pub(super) job: Arc<Job>,
    pub(super) plan: Arc<Plan>,
    pub(super) place: Arc<Place>,
    /// The scratch directories that the package shares with other packages.
    pub(super) scratch: Arc<Vec<Name>>,
    pub(super) turns: Arc<ScriptTurns>,
    pub(super) cancel: CancellationToken,
    summary: Arc<Mutex<RunSummary>>,
    /// The trees of the dependencies that are mounted for the script.
    mounted: Arc<Mutex<Vec<SealedTree>>>,
}

impl Work {
    pub(super) fn new(
        context: &Arc<Context>,
        job: &Arc<Job>,
        place: Place,
        scratch: &Arc<Vec<Name>>,
        turns: &Arc<ScriptTurns>,
        cancel: &CancellationToken,
    ) -> Self {
        let plan = Plan::new(
            job,
            Surroundings {
                inside: &context.vcap,
                outside: &place.vcap(),
                environment: &context.environment,
                fork_server: context.fork_server.clone(),
                process_lock: context.sandbox.process_lock(),
                grace: context.grace,
                nice: context.nice,
            },
        );
        Self {
            context: Arc::clone(context),
            job: Arc::clone(job),
            plan: Arc::new(plan),
            place: Arc::new(place),
            scratch: Arc::clone(scratch),
            turns: Arc::clone(turns),
            cancel: cancel.clone(),
            summary: Arc::default(),
            mounted: Arc::default(),
        }
    }

    pub(super) fn summary(&self) -> MutexGuard<'_, RunSummary> {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mounted(&self) -> MutexGuard<'_, Vec<SealedTree>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports that the package has entered a phase.
    pub(super) fn enter_phase(&self, phase: Phase) {
        (self.context.events)(Event::Entered {
            job: self.job.number,
            package: self.job.name.clone(),
            phase,
        });
    }

    /// Runs a blocking step. After a cancellation, unpacking, packing and copying end at their next read or write. Sealing and removing a
    /// tree are completed.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        step: impl FnOnce(&Self) -> Result<T, CompileError> + Send + 'static,
    ) -> Result<T, CompileError> {
        let done = self.blocking_to_the_end(name, step).await;
        if self.cancel.is_cancelled() {
            return Err(stopped(&self.job));
        }
        done?
    }

    /// Runs a blocking step and returns its result even after a cancellation.
    pub(super) async fn blocking_to_the_end<T: Send + 'static>(
        &self,
        name: &'static str,
        step: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, CompileError> {
        let work = self.clone();
        on_blocking_thread(&self.job, name, move |_| step(&work)).await
    }

    pub(super) fn file_error(&self) -> impl Fn(fs::Error) -> CompileError + use<> {
        file_error(&self.job)
    }

    /// Whether the agent and the script see the package's directories at different paths.
    pub(super) fn has_other_paths_inside(&self) -> bool {
        self.plan.outside != self.context.vcap
    }
}

impl Work {
    /// Looks up paths that a script or a source controls. A cancellation ends a lookup.
    pub(super) fn lookup(&self) -> PathLookup<'_> {
        PathLookup {
            fork_server: &self.context.fork_server,
            cancel: &self.cancel,
            limit: LOOKUP_LIMIT,
        }
    }

    /// Converts the error of a lookup.
    pub(super) fn lookup_result<T>(
        &self,
        result: Result<T, LookupError>,
    ) -> Result<T, CompileError> {
        let package = self.job.name.clone();
        result.map_err(|error| match error {
            LookupError::NoResponse(processes) if self.cancel.is_cancelled() => {
                warn_of_unkillable(&self.job, &processes);
                CompileError::Stopped { package }
            }
            LookupError::NoResponse(processes) => CompileError::NoResponse { package, processes },
            LookupError::TimedOut(_) if self.cancel.is_cancelled() => {
                CompileError::Stopped { package }
            }
            LookupError::TimedOut(step) => CompileError::TimedOut {
                package,
                step: step.to_string(),
            },
            LookupError::Stopped => CompileError::Stopped { package },
            LookupError::Sandbox(source) => CompileError::Sandbox { package, source },
            LookupError::Files(source) => CompileError::Files { package, source },
        })
    }
}

/// Logs processes of the packaging script that cannot be killed.
pub(super) fn warn_of_unkillable(job: &Job, processes: &[Unkillable]) {
    for process in processes {
        tracing::warn!(package = %job.name, "a process of the packaging script cannot be killed: {process}");
    }
}

/// Runs a blocking step of a job.
pub(super) async fn on_blocking_thread<T: Send + 'static>(
    job: &Arc<Job>,
    name: &'static str,
    step: impl FnOnce(&Job) -> T + Send + 'static,
) -> Result<T, CompileError> {
    let own = Arc::clone(job);
    let done = runtime::spawn_blocking(name, move || step(&own)).await;
    done.map_err(|source| CompileError::Task {
        package: job.name.clone(),
        source,
    })
}

/// Adds the free space of the disk to an error about a full disk.
pub(super) async fn with_space(job: &Arc<Job>, error: CompileError) -> CompileError {
    if !error.is_no_space() {
        return error;
    }
    let add = |job: &Job| error.with_space(fs::parent(&job.blob));
    on_blocking_thread(job, "space", add)
        .await
        .unwrap_or_else(|failed| failed)
}

/// The logs of the script's output.
pub(super) fn logs(job: &Job) -> impl Iterator<Item = &Path> {
    std::iter::once(job.log.as_path()).chain(job.stdout_log.as_deref())
}

pub(super) fn stopped(job: &Job) -> CompileError {
    CompileError::Stopped {
        package: job.name.clone(),
    }
}

/// Converts file errors to errors of the job.
pub(super) fn file_error(job: &Job) -> impl Fn(fs::Error) -> CompileError + use<> {
    let package = job.name.clone();
    move |source| CompileError::Files {
        package: package.clone(),
        source,
    }
}
