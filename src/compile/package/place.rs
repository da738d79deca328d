//! Entering and leaving the place of a package in the sandbox.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::built::{Built, UsedPlace};
use super::work::{Work, with_space};
use crate::compile::context::Context;
use crate::compile::error::CompileError;
use crate::compile::event::{Event, Phase};
use crate::compile::job::Job;
use crate::fs;
use crate::release::Name;
use crate::sandbox::{Place, SandboxError};

/// Waits for the place of a package, until a cancellation. Reports if the package has to wait.
pub(super) async fn wait_for_place(
    context: &Arc<Context>,
    job: &Arc<Job>,
    dependencies: &[(Name, PathBuf)],
    scratch: &[Name],
    cancel: &CancellationToken,
) -> Result<Place, CompileError> {
    let waits = || {
        (context.events)(Event::Entered {
            job: job.number,
            package: job.name.clone(),
            phase: Phase::Waiting,
        });
    };
    let sandbox = &context.sandbox;
    let enter = sandbox.enter(&job.name, dependencies, scratch, &waits);
    place_or_stop(job, enter, cancel).await
}

/// Waits for the place of a package, until a cancellation.
pub(super) async fn place_or_stop(
    job: &Arc<Job>,
    enter: impl Future<Output = Result<Place, SandboxError>>,
    cancel: &CancellationToken,
) -> Result<Place, CompileError> {
    let package = job.name.clone();
    let entered = tokio::select! {
        // Cancel-safe: what was made for a canceled package is removed.
        place = enter => place,
        () = cancel.cancelled() => return Err(CompileError::Stopped { package }),
    };
    match entered {
        Ok(place) => Ok(place),
        Err(source) => Err(with_space(job, CompileError::Sandbox { package, source }).await),
    }
}

impl Work {
    /// Removes the package's directories, and with `failed` also the partial blob, so that other packages can use the place.
    pub(super) async fn leave(self, failed: bool) -> Result<(), CompileError> {
        let left = self
            .blocking_to_the_end("leave", move |work| {
                if failed {
                    // Removes the partial blob, if any.
                    let _ = fs::remove_file_if_there(&work.job.blob);
                }
                work.context.sandbox.leave(&work.place)
            })
            .await?;
        left.map_err(|source| CompileError::Sandbox {
            package: self.job.name.clone(),
            source,
        })
    }

    /// Leaves the place. If the package was built and no other package waits for the place, the caller does this later: see
    /// [`Built::place`].
    pub(super) async fn leave_with(
        self,
        result: Result<Built, CompileError>,
    ) -> Result<Built, CompileError> {
        let result = match result {
            Ok(mut built) if !self.context.sandbox.is_shared() => {
                built.place = Some(UsedPlace(Arc::clone(&self.place)));
                return Ok(built);
            }
            other => other,
        };
        let left = self.leave(result.is_err()).await;
        let built = result?;
        left?;
        Ok(built)
    }
}
