//! Repeats failed attempts of blob transfers, with pauses between them.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::AttemptError;
use crate::runtime::{self, GivenUp};

/// The default number of attempts, as in the Go agent. A DAV blobstore can set another.
pub(super) const ATTEMPTS: u32 = 3;

/// The pauses between attempts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    store: Duration,
    signed: Duration,
}

impl Default for Pace {
    /// The pause for signed URLs is that of the Go agent. The Go agent makes no pause for a
    /// blobstore; this agent does, because a restarting server needs some time.
    fn default() -> Self {
        Self {
            store: Duration::from_secs(1),
            signed: Duration::from_secs(5),
        }
    }
}

impl Pace {
    /// No pause.
    pub(super) fn none(_attempt: u32) -> Duration {
        Duration::ZERO
    }

    /// The pause grows by one second after each attempt, up to five seconds.
    pub(super) fn store(self) -> impl Fn(u32) -> Duration {
        move |attempt| self.store * attempt.min(5)
    }

    pub(super) fn signed(self) -> impl Fn(u32) -> Duration {
        move |_| self.signed
    }

    #[cfg(test)]
    pub(super) fn hurried() -> Self {
        Self {
            store: Duration::from_millis(1),
            signed: Duration::from_millis(1),
        }
    }
}

/// The future of one attempt.
pub(super) type AttemptFuture<'a, T> = BoxFuture<'a, Result<T, AttemptError>>;

/// Repeats an attempt until it succeeds or fails permanently, `attempts` attempts were made, or
/// `cancel` is canceled. The error contains the number of attempts.
pub(super) async fn retry<'a, T>(
    attempts: u32,
    pause: impl Fn(u32) -> Duration,
    cancel: &CancellationToken,
    attempt: impl Fn() -> AttemptFuture<'a, T>,
) -> Result<T, (u32, AttemptError)> {
    let pause = |cause: &AttemptError, number| {
        if number >= attempts || !cause.is_temporary() {
            return None;
        }
        tracing::warn!(error = %crate::diag::Chain(cause), attempt = number, "retrying a blob transfer");
        Some(pause(number))
    };
    let repeating = runtime::retry(cancel, pause, attempt);
    repeating.await.map_err(|given_up| match given_up {
        GivenUp::Failed { attempts, error } => (attempts, error),
        GivenUp::Stopped { attempts } => (attempts, AttemptError::Stopped),
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;
    use crate::http::StatusCode;

    fn refused(status: u16) -> AttemptError {
        AttemptError::PutRefused {
            blob: "x".to_owned(),
            status: StatusCode::from_u16(status).unwrap(),
        }
    }

    async fn attempts(statuses: &[u16]) -> (Result<(), u32>, Duration) {
        let start = Instant::now();
        let (next, cancel) = (Cell::new(statuses.iter()), CancellationToken::new());
        let result = retry(3, Pace::default().signed(), &cancel, || {
            let mut statuses = next.take();
            let status = statuses.next();
            next.set(statuses);
            Box::pin(async move { status.map_or(Ok(()), |status| Err(refused(*status))) })
        });
        let result = result.await.map_err(|(attempts, _)| attempts);
        (result, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_separated_by_pauses() {
        let pause = Duration::from_secs(5);
        assert_eq!(attempts(&[]).await, (Ok(()), Duration::ZERO));
        assert_eq!(attempts(&[500, 429]).await, (Ok(()), pause * 2));
        assert_eq!(attempts(&[503, 408, 500]).await, (Err(3), pause * 2));
        assert_eq!(attempts(&[500, 403]).await, (Err(2), pause));
        assert_eq!(attempts(&[401]).await, (Err(1), Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn cancellation_ends_a_pause_and_an_attempt() {
        let cancel = CancellationToken::new();
        let (result, ()) = tokio::join!(
            retry::<()>(3, Pace::default().signed(), &cancel, || {
                Box::pin(async { Err(refused(500)) })
            }),
            async { cancel.cancel() }
        );
        assert!(matches!(result, Err((1, AttemptError::Stopped))));
        let result = retry::<()>(3, Pace::none, &cancel, || Box::pin(std::future::pending())).await;
        assert!(matches!(result, Err((1, AttemptError::Stopped))));
    }
}
