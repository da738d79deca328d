//! Entering and leaving the place of a package in the sandbox.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::built::{Built, Left};
use super::work::Work;
use crate::compile::context::Context;
use crate::compile::error::CompileError;
use crate::compile::event::{Event, Phase};
use crate::compile::job::Job;
use crate::fs;
use crate::sandbox::{Place, SandboxError};

/// The place of a package, as soon as there is room, unless the compile is stopped before.
pub(super) async fn entered(
    context: &Arc<Context>,
    job: &Job,
    enter: impl Future<Output = Result<Place, SandboxError>>,
    cancel: &CancellationToken,
) -> Result<Place, CompileError> {
    let entering = entered_within(job, enter, cancel);
    tokio::pin!(entering);
    tokio::select! {
        biased;
        // Cancel-safe: the same future is polled on below.
        place = &mut entering => return place,
        () = std::future::ready(()) => {}
    }
    (context.events)(Event::Entered {
        job: job.number,
        package: job.name.clone(),
        phase: Phase::Waiting,
    });
    entering.await
}

pub(super) async fn entered_within(
    job: &Job,
    enter: impl Future<Output = Result<Place, SandboxError>>,
    cancel: &CancellationToken,
) -> Result<Place, CompileError> {
    let package = job.name.clone();
    tokio::select! {
        // Cancel-safe: nothing is taken before it is ready.
        place = enter => place.map_err(|source| {
            CompileError::Sandbox { package, source }.with_space(fs::parent(&job.blob))
        }),
        () = cancel.cancelled() => Err(CompileError::Stopped { package }),
    }
}

impl Work {
    /// Gives the place back.
    pub(super) async fn leave(self, failed: bool) -> Result<(), CompileError> {
        // Trees can be large and disks slow, and others go on meanwhile.
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

    /// Gives the place back, or, where no other package waits for it, leaves that to the caller: see [`Built::left`].
    pub(super) async fn leave_with(
        self,
        result: Result<Built, CompileError>,
    ) -> Result<Built, CompileError> {
        let result = match result {
            // Nothing waits for the place, and dependents need not wait for its removal.
            Ok(mut built) if !self.context.sandbox.is_shared() => {
                built.left = Some(Left(Arc::clone(&self.place)));
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
