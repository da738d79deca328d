//! Compiles one package, from its source blob to its compiled blob.
//!
//! [`build`] does everything that dependents wait for: it enters a place in the sandbox (the directory that contains the package's own
//! directories), runs the script there, and moves the installed tree into the store. [`pack`] makes the compiled blob from this tree, while
//! dependents already compile.
//!
//! Most scripts have their own mount namespace. The file system that a script sees there is its *view*.

mod built;
mod diagnosis;
mod install_target;
mod keep;
mod owners;
mod packing;
mod place;
mod prepare;
mod rerun;
mod script;
mod shell;
mod steps;
mod work;

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub(super) use built::{Built, UsedPlace};
pub(super) use packing::pack;

use self::place::wait_for_place;
use self::rerun::{run_with_copies, second_run};
use self::work::Work;
use super::context::Context;
use super::error::CompileError;
use super::job::{Compiled, Job};
use super::scratch;
use super::step_log::Step;
use super::turns::ScriptTurns;
use crate::diag::Chain;
use crate::release::Name;
use crate::runtime;

/// Compiles one package.
///
/// A cancellation stops the script and removes the package's directories and its partial blob. The log is kept.
///
/// # Errors
/// See [`CompileError`]. The log of a script that has run is kept.
pub async fn compile(
    context: &Arc<Context>,
    job: Job,
    cancel: &CancellationToken,
) -> Result<Compiled, CompileError> {
    let is_dependency = job.is_dependency;
    let turns = Arc::new(ScriptTurns::new(1, || false));
    let package = job.name.clone();
    let mut built = build(context, job, &turns, cancel).await?;
    let installed = built.installed.clone();
    if let Some(place) = built.place.take() {
        let context = Arc::clone(context);
        let leaving = runtime::spawn_blocking("leave", move || place.remove(&context));
        if let Ok(Err(error)) = leaving.await {
            tracing::warn!(
                %package,
                error = %Chain(&error),
                "could not remove the directories of a package; trying again at exit"
            );
        }
    }
    let mut packed = pack(context, built, cancel).await;
    if !is_dependency && let Ok(compiled) = &mut packed {
        compiled.installed = None;
    }
    if (packed.is_err() || !is_dependency)
        && let Some(installed) = installed
    {
        let store = context.store.clone();
        let removing = runtime::spawn_blocking("remove", move || store.remove(&installed));
        if let Ok(Err(error)) = removing.await {
            tracing::warn!(
                %package,
                error = %Chain(&error),
                "could not remove the installed files of a package that no other package needs"
            );
        }
    }
    packed
}

/// Runs a package's script and installs the result, so that the package's dependents can start. The script waits for one of the `turns`.
/// Packing is left to [`pack`].
pub(super) async fn build(
    context: &Arc<Context>,
    job: Job,
    turns: &Arc<ScriptTurns>,
    cancel: &CancellationToken,
) -> Result<Built, CompileError> {
    let dependencies: Vec<(Name, PathBuf)> = job
        .dependencies
        .iter()
        .map(|dependency| {
            let tree = dependency.installed.tree();
            (dependency.name.clone(), tree)
        })
        .collect();
    let job = Arc::new(job);
    let scratch = Arc::new(scratch::shared(&job, &context.vcap));
    tracing::debug!(package = %job.name, version = %job.version, dependencies = dependencies.len(), "starting the package");
    let step = Step::of(&job.name);
    let place = wait_for_place(context, &job, &dependencies, &scratch, cancel).await?;
    step.done("entered a place in the sandbox");
    let work = Work::new(context, &job, place, &scratch, turns, cancel);
    let result = work.build().await;
    // Report a second run before the package's directories are removed: removing them may be slow.
    let first = match &result {
        Err(failure) => work.announce_second_run(failure).await,
        Ok(_) => None,
    };
    let built = match (first, result) {
        (Some(first), Err(failure)) => second_run(work, &dependencies, first, failure).await,
        // After `Denied`, `announce_second_run` returns `None` only if the compilation was canceled.
        (None, Err(CompileError::Denied { package })) => {
            work.leave(true).await?;
            Err(CompileError::Stopped { package })
        }
        (None, Err(CompileError::AcrossMounts { lines, .. })) => {
            run_with_copies(work, &dependencies, lines).await
        }
        (_, result) => work.leave_with(result).await,
    };
    built.map(|mut built| {
        built.inherit_unrestricted();
        built
    })
}
