//! Enters and leaves a package's place in the sandbox. A place is the directory that contains the package's own directories. Without
//! isolation, all packages use the same place and wait for each other.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::built::{Built, UsedPlace};
use super::work::{Work, with_space};
use crate::compile::context::Context;
use crate::compile::error::CompileError;
use crate::compile::event::{Event, Phase};
use crate::compile::job::Job;
use crate::diag::Chain;
use crate::fs;
use crate::release::Name;
use crate::runtime;
use crate::sandbox::{Place, SandboxError};

/// Enters a place for a package. Reports if the package has to wait for it.
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
    let enter = sandbox.enter(&job.name, dependencies, scratch, &waits, cancel);
    place_or_stop(context, job, enter, cancel).await
}

/// Runs `enter`, which enters a place, until a cancellation. If `enter` succeeds after the cancellation, the package leaves the place again.
pub(super) async fn place_or_stop(
    context: &Arc<Context>,
    job: &Arc<Job>,
    enter: impl Future<Output = Result<Place, SandboxError>>,
    cancel: &CancellationToken,
) -> Result<Place, CompileError> {
    let package = job.name.clone();
    match until_canceled(enter, cancel).await {
        Entered::InTime(Ok(place)) => Ok(place),
        Entered::InTime(Err(source)) => {
            Err(with_space(job, CompileError::Sandbox { package, source }).await)
        }
        Entered::Canceled(place) => {
            if let Some(Ok(place)) = place {
                let context = Arc::clone(context);
                let leaving =
                    runtime::spawn_blocking("leave", move || context.sandbox.leave(&place));
                if let Ok(Err(error)) = leaving.await {
                    tracing::debug!(error = %Chain(&error), "could not remove the directories of a canceled package");
                }
            }
            Err(CompileError::Stopped { package })
        }
    }
}

/// The result of entering a place.
enum Entered<T> {
    InTime(T),
    /// After the cancellation; `None` if it took too long.
    Canceled(Option<T>),
}

/// Runs `enter`. After a cancellation, still waits up to [`CANCELED_LIMIT`] for the end of `enter`: its file operations must not run
/// concurrently with the end of the run, which removes the same directories.
async fn until_canceled<T>(
    enter: impl Future<Output = T>,
    cancel: &CancellationToken,
) -> Entered<T> {
    tokio::pin!(enter);
    tokio::select! {
        biased;
        entered = &mut enter => Entered::InTime(entered),
        () = cancel.cancelled() => {
            let entered = tokio::time::timeout(CANCELED_LIMIT, enter).await;
            Entered::Canceled(entered.ok())
        }
    }
}

/// How long a canceled package may still take to enter its place. The time is limited because the file system may not respond.
const CANCELED_LIMIT: Duration = Duration::from_secs(10);

impl Work {
    /// Removes the package's directories, so that other packages can use the place. With `failed`, also removes the partial blob.
    pub(super) async fn leave(self, failed: bool) -> Result<(), CompileError> {
        let left = self
            .blocking_to_the_end("leave", move |work| {
                if failed {
                    // The blob may not exist.
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

    /// Ends the use of the place. If the user has requested it, first keeps the directories of a failed package and opens a shell. A place
    /// that other packages cannot use is not removed here after a success: the caller gets it in [`Built::place`] and removes it later.
    pub(super) async fn leave_with(
        self,
        result: Result<Built, CompileError>,
    ) -> Result<Built, CompileError> {
        if let Err(failure) = &result {
            self.keep_failed(failure).await;
        }
        if let Err(CompileError::Script(failure)) = &result {
            self.shell_after(failure).await;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn canceled_package_completes_its_entry() {
        let (cancel, begun) = (CancellationToken::new(), CancellationToken::new());
        cancel.cancel();
        let enter = async {
            begun.cancel();
            tokio::task::yield_now().await;
            7
        };
        let entered = until_canceled(enter, &cancel).await;
        assert!(matches!(entered, Entered::Canceled(Some(7))));
        assert!(begun.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn entry_that_hangs_does_not_prevent_a_stop() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        let entered = until_canceled(std::future::pending::<()>(), &cancel).await;
        assert!(matches!(entered, Entered::Canceled(None)));
    }
}
