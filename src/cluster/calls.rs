//! Repeats calls to a server after errors that may be temporary.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::RemoteFailure;
use crate::fs;
use crate::reapi::{CallError, Pauses};
use crate::runtime::{self, GivenUp};

/// The time limit of a call that transfers no blobs.
const LIMIT: Duration = Duration::from_secs(120);

/// The rate below which a transfer counts as failed, in bytes per second.
const SLOWEST: u64 = 50_000;

/// Why a call failed once.
pub(super) enum Failed {
    Call(CallError),
    Other(RemoteFailure),
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<RemoteFailure> for Failed {
    fn from(failure: RemoteFailure) -> Self {
        Self::Other(failure)
    }
}

impl From<fs::Error> for Failed {
    fn from(error: fs::Error) -> Self {
        Self::Other(error.into())
    }
}

impl From<Failed> for RemoteFailure {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Call(error) => error.into(),
            Failed::Other(failure) => failure,
        }
    }
}

/// Calls a server until the call succeeds, or fails with an error that is not temporary, or has failed too often. The call must be
/// idempotent. It transfers up to `size` bytes, on which its time limit depends.
pub(super) async fn repeat<T, F: Future<Output = Result<T, Failed>>>(
    (pauses, stop): (Pauses, &CancellationToken),
    size: u64,
    call: impl Fn() -> F,
) -> Result<T, RemoteFailure> {
    let limit = LIMIT + Duration::from_secs(size / SLOWEST);
    let pause = |failed: &Failed, failures| match failed {
        Failed::Call(error) if error.is_passing() => {
            tracing::debug!(%error, "repeating a call");
            pauses.after(failures)
        }
        _ => None,
    };
    let repeating = runtime::retry(stop, pause, || async {
        let called = tokio::time::timeout(limit, call()).await;
        called.unwrap_or(Err(CallError::Silent { limit }.into()))
    });
    repeating.await.map_err(|given_up| match given_up {
        GivenUp::Failed {
            error: Failed::Call(error),
            ..
        } if error.is_passing() => RemoteFailure::outage(error),
        GivenUp::Failed { error, .. } => error.into(),
        GivenUp::Stopped { .. } => RemoteFailure::Stopped,
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silent_call_is_repeated_and_given_up() {
        let count = Cell::new(0);
        let stop = CancellationToken::new();
        let pauses = Pauses::default();
        let silent = repeat((pauses, &stop), 0, || {
            count.set(count.get() + 1);
            std::future::pending::<Result<(), Failed>>()
        });
        assert!(silent.await.unwrap_err().is_outage());
        assert!(pauses.after(count.get() - 1).is_some());
        assert!(pauses.after(count.get()).is_none());
    }

    #[tokio::test]
    async fn stopped_call_ends_at_once() {
        let stop = CancellationToken::new();
        stop.cancel();
        let pending = std::future::pending::<Result<(), Failed>>;
        let ended = repeat((Pauses::default(), &stop), 0, pending);
        assert!(matches!(ended.await, Err(RemoteFailure::Stopped)));
    }
}
