//! One run of a package, from its place in the sandbox on.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::compile::context::Context;
use crate::compile::denials::Denial;
use crate::compile::error::CompileError;
use crate::compile::event::{Event, Phase};
use crate::compile::job::Job;
use crate::compile::plan::Plan;
use crate::compile::turns::Turns;
use crate::config::PackagePaths;
use crate::fs;
use crate::release::Name;
use crate::runtime;
use crate::sandbox::{Place, View};

/// What a script's run has shown.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown {
    pub(super) elapsed: Duration,
    pub(super) tail: Vec<String>,
    pub(super) undeclared: Vec<Name>,
    /// What it was denied, where it ran under rules.
    pub(super) denials: Vec<Denial>,
}

/// One package on its way. Cheap to clone: steps that block take a clone along.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) context: Arc<Context>,
    pub(super) job: Arc<Job>,
    pub(super) plan: Arc<Plan>,
    pub(super) place: Arc<Place>,
    /// The scratch directories that the package shares with others.
    pub(super) scratch: Arc<Vec<Name>>,
    pub(super) turns: Arc<Turns>,
    pub(super) cancel: CancellationToken,
    pub(super) shown: Arc<Mutex<Shown>>,
}

impl Work {
    pub(super) fn new(
        context: &Arc<Context>,
        job: &Arc<Job>,
        place: Place,
        scratch: &Arc<Vec<Name>>,
        turns: &Arc<Turns>,
        cancel: &CancellationToken,
    ) -> Self {
        let mut plan = Plan::new(
            job,
            &context.vcap,
            &place.vcap(),
            &context.environment,
            context.agent.clone(),
            context.sandbox.hold(),
            context.grace,
        );
        plan.script.spec.nice = context.nice;
        let dependencies: Vec<(&Path, &PackagePaths)> = plan
            .dependencies
            .iter()
            .map(|dependency| (dependency.sealed.as_path(), &dependency.paths))
            .collect();
        context
            .sandbox
            .confine(&place, &mut plan.script, &plan.paths, &dependencies);
        Self {
            context: Arc::clone(context),
            job: Arc::clone(job),
            plan: Arc::new(plan),
            place: Arc::new(place),
            scratch: Arc::clone(scratch),
            turns: Arc::clone(turns),
            cancel: cancel.clone(),
            shown: Arc::default(),
        }
    }

    pub(super) fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self, phase: Phase) {
        (self.context.events)(Event::Entered {
            job: self.job.number,
            package: self.job.name.clone(),
            phase,
        });
    }

    /// Runs a step that blocks. A stop ends unpacking, packing and copying at their next read or write; sealing and removing a tree
    /// run to their end.
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

    /// Runs a step that blocks, whatever anybody wishes.
    pub(super) async fn blocking_to_the_end<T: Send + 'static>(
        &self,
        name: &'static str,
        step: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, CompileError> {
        let work = self.clone();
        let done = runtime::spawn_blocking(name, move || step(&work)).await;
        done.map_err(|source| CompileError::Task {
            package: self.job.name.clone(),
            source,
        })
    }

    pub(super) fn files(&self) -> impl Fn(fs::Error) -> CompileError + use<> {
        files(&self.job)
    }

    /// What the script sees where it has a view of its own.
    pub(super) fn view(&self) -> Option<&View> {
        self.plan.script.spec.view.as_ref()
    }

    /// Whether the script's tree is in another place on this side.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.plan.outside != self.context.vcap
    }
}

/// Everything that a package's script prints.
pub(super) fn logs(job: &Job) -> impl Iterator<Item = &Path> {
    std::iter::once(job.log.as_path()).chain(job.stdout_log.as_deref())
}

pub(super) fn stopped(job: &Job) -> CompileError {
    CompileError::Stopped {
        package: job.name.clone(),
    }
}

pub(super) fn files(job: &Job) -> impl Fn(fs::Error) -> CompileError + use<> {
    let package = job.name.clone();
    move |source| CompileError::Files {
        package: package.clone(),
        source,
    }
}
