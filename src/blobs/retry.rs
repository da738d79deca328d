//! Repeats failed attempts of blob transfers, with pauses between them.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::AttemptError;
use crate::diag::Chain;
use crate::runtime::{self, GivenUp};

/// The default number of attempts, as in the Go agent. A DAV blobstore can set another.
pub(super) const ATTEMPTS: u32 = 3;

/// How long a persistent transfer is repeated, from its first attempt.
const PERSISTENT_LIMIT: Duration = Duration::from_secs(600);

/// The maximum pause of a persistent transfer.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// How long a failed transfer is repeated.
#[derive(Clone, Copy)]
pub enum Persistence<'a> {
    /// For some seconds.
    Brief,
    /// For ten minutes, with growing pauses, while the blobstore is away. A failed compile ends a deployment, and a Director sets no time
    /// limit. Other temporary failures, such as a wrong digest, are repeated as with [`Brief`](Self::Brief).
    ///
    /// The function receives a text without secrets after each failed attempt that is repeated.
    Minutes(&'a (dyn Fn(&str) + Send + Sync)),
}

impl fmt::Debug for Persistence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Brief => "Brief",
            Self::Minutes(_) => "Minutes",
        })
    }
}

/// The pauses between attempts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    store: Duration,
    signed: Duration,
    /// The first pause of a persistent transfer. Each further pause is twice as long.
    persistent: Duration,
}

impl Default for Pace {
    /// The pause for signed URLs is that of the Go agent. The Go agent makes no pause for a
    /// blobstore; this agent does, because a restarting server needs some time.
    fn default() -> Self {
        Self {
            store: Duration::from_secs(1),
            signed: Duration::from_secs(5),
            persistent: Duration::from_secs(1),
        }
    }
}

impl Pace {
    /// One attempt.
    pub(super) fn once() -> Repeats<'static> {
        Repeats {
            attempts: 1,
            pauses: Pauses::Equal(Duration::ZERO),
            outage: Pauses::Equal(Duration::ZERO),
            persistence: Persistence::Brief,
        }
    }

    /// For a blobstore. The pause grows by its first length after each attempt, up to five times that length.
    pub(super) fn store<'a>(self, attempts: u32, persistence: Persistence<'a>) -> Repeats<'a> {
        Repeats {
            attempts,
            pauses: Pauses::Growing(self.store),
            outage: Pauses::Doubling(self.persistent),
            persistence,
        }
    }

    /// For signed URLs.
    pub(super) fn signed<'a>(self, persistence: Persistence<'a>) -> Repeats<'a> {
        Repeats {
            attempts: ATTEMPTS,
            pauses: Pauses::Equal(self.signed),
            outage: Pauses::Doubling(self.persistent),
            persistence,
        }
    }

    #[cfg(test)]
    pub(super) fn hurried() -> Self {
        let pause = Duration::from_millis(1);
        Self {
            store: pause,
            signed: pause,
            persistent: pause,
        }
    }
}

/// How often an attempt is repeated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repeats<'a> {
    /// The number of attempts; during an outage with [`Persistence::Minutes`], the minimum number.
    attempts: u32,
    pauses: Pauses,
    /// The pauses during an outage with [`Persistence::Minutes`].
    outage: Pauses,
    persistence: Persistence<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Pauses {
    Equal(Duration),
    Growing(Duration),
    Doubling(Duration),
}

impl Pauses {
    /// The pause after an attempt, whose number starts at 1.
    fn after(self, attempt: u32) -> Duration {
        match self {
            Self::Equal(pause) => pause,
            Self::Growing(first) => first * attempt.min(5),
            Self::Doubling(first) => {
                let factor = 1_u32.checked_shl(attempt - 1).unwrap_or(u32::MAX);
                first.saturating_mul(factor).min(MAX_PAUSE)
            }
        }
    }
}

impl Repeats<'_> {
    /// The pause before the next attempt after this failure; `None` if no attempt follows.
    fn pause(&self, attempt: u32, elapsed: Duration, cause: &AttemptError) -> Option<Duration> {
        let is_waiting = matches!(self.persistence, Persistence::Minutes(_)) && cause.is_outage();
        let pauses = if is_waiting { self.outage } else { self.pauses };
        let pause = pauses.after(attempt);
        let is_in_time = is_waiting && elapsed + pause <= PERSISTENT_LIMIT;
        (cause.is_temporary() && (attempt < self.attempts || is_in_time)).then_some(pause)
    }
}

/// The future of one attempt.
pub(super) type AttemptFuture<'a, T> = BoxFuture<'a, Result<T, AttemptError>>;

/// Repeats an attempt until it succeeds or fails permanently, the attempts are used up, or
/// `cancel` is canceled. The error contains the number of attempts.
pub(super) async fn retry<'a, T>(
    repeats: Repeats<'_>,
    cancel: &CancellationToken,
    attempt: impl Fn() -> AttemptFuture<'a, T>,
) -> Result<T, (u32, AttemptError)> {
    let start = Instant::now();
    let pause = |cause: &AttemptError, number| {
        let pause = repeats.pause(number, start.elapsed(), cause)?;
        let seconds = pause.as_secs_f64();
        tracing::warn!(error = %Chain(cause), attempt = number, seconds, "retrying a blob transfer after a pause");
        if let Persistence::Minutes(report) = repeats.persistence {
            report(&format!(
                "attempt {number} failed, the next one is in {seconds} s: {}",
                Chain(cause)
            ));
        }
        Some(pause)
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
    use std::sync::Mutex;

    use super::*;
    use crate::blobs::ProgramOutput;
    use crate::http::StatusCode;
    use crate::process::Status;

    fn refused(status: u16) -> AttemptError {
        AttemptError::PutRefused {
            blob: "x".to_owned(),
            status: StatusCode::from_u16(status).unwrap(),
        }
    }

    fn refused_download(status: u16) -> AttemptError {
        AttemptError::DownloadRefused {
            status: StatusCode::from_u16(status).unwrap(),
        }
    }

    fn wrong_digest() -> AttemptError {
        AttemptError::Digest {
            blob: "x".to_owned(),
            expected: "1".to_owned(),
            actual: "2".to_owned(),
        }
    }

    fn failed_program(is_upload: bool, line: &str) -> AttemptError {
        AttemptError::Program {
            program: "bosh-blobstore-s3".to_owned(),
            status: Status::Exited(1),
            is_upload,
            source: ProgramOutput {
                lines: vec![line.to_owned()],
            },
        }
    }

    async fn attempts(statuses: &[u16], repeats: Repeats<'_>) -> (Result<(), u32>, Duration) {
        let start = Instant::now();
        let (next, cancel) = (Cell::new(statuses.iter()), CancellationToken::new());
        let result = retry(repeats, &cancel, || {
            let mut statuses = next.take();
            let status = statuses.next();
            next.set(statuses);
            Box::pin(async move { status.map_or(Ok(()), |status| Err(refused(*status))) })
        });
        let result = result.await.map_err(|(attempts, _)| attempts);
        (result, start.elapsed())
    }

    fn signed() -> Repeats<'static> {
        Pace::default().signed(Persistence::Brief)
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_separated_by_pauses() {
        let pause = Duration::from_secs(5);
        assert_eq!(attempts(&[], signed()).await, (Ok(()), Duration::ZERO));
        assert_eq!(attempts(&[500, 429], signed()).await, (Ok(()), pause * 2));
        assert_eq!(
            attempts(&[503, 408, 500], signed()).await,
            (Err(3), pause * 2)
        );
        assert_eq!(attempts(&[500, 403], signed()).await, (Err(2), pause));
        assert_eq!(attempts(&[401], signed()).await, (Err(1), Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn persistent_transfer_is_retried_for_ten_minutes() {
        let reports = Mutex::new(Vec::new());
        let report = |text: &str| reports.lock().unwrap().push(text.to_owned());
        for repeats in [
            Pace::default().signed(Persistence::Minutes(&report)),
            Pace::default().store(ATTEMPTS, Persistence::Minutes(&report)),
        ] {
            reports.lock().unwrap().clear();
            let (result, elapsed) = attempts(&[503; 100], repeats).await;
            assert_eq!(result, Err(24));
            assert_eq!(elapsed.as_secs(), 1 + 2 + 4 + 8 + 16 + 18 * 30);
            let reports = reports.lock().unwrap();
            assert_eq!(reports.len(), 23);
            assert_eq!(
                reports[3],
                "attempt 4 failed, the next one is in 8 s: Putting dav blob x: Wrong response code: 503"
            );
        }
        let (result, elapsed) = attempts(
            &[500; 5],
            Pace::default().signed(Persistence::Minutes(&report)),
        )
        .await;
        assert_eq!((result, elapsed.as_secs()), (Ok(()), 31));
    }

    #[tokio::test(start_paused = true)]
    async fn permanent_refusal_ends_a_persistent_transfer() {
        let report = |_: &str| ();
        for status in [400, 401, 403, 404, 405, 413, 501] {
            let repeats = Pace::default().signed(Persistence::Minutes(&report));
            let (result, _) = attempts(&[500, status], repeats).await;
            assert_eq!(result, Err(2), "{status}");
        }
    }

    #[test]
    fn wrong_or_missing_blob_is_not_awaited_for_minutes() {
        let report = |_: &str| ();
        let repeats = Pace::default().signed(Persistence::Minutes(&report));
        let pause = |attempt, cause: &AttemptError| {
            let elapsed = Duration::from_secs(100);
            let pause = repeats.pause(attempt, elapsed, cause);
            pause.map(|pause| pause.as_secs())
        };
        for cause in [
            refused_download(404),
            wrong_digest(),
            failed_program(false, "api error NoSuchKey"),
            failed_program(false, "api error AccessDenied"),
        ] {
            assert_eq!(pause(2, &cause), Some(5), "{cause}");
            assert_eq!(pause(3, &cause), None, "{cause}");
        }
        for cause in [
            refused_download(503),
            failed_program(false, "dial tcp: connection refused"),
            failed_program(true, "dial tcp: connection refused"),
        ] {
            assert_eq!(pause(3, &cause), Some(4), "{cause}");
        }
        for cause in [
            refused_download(403),
            failed_program(true, "api error AccessDenied"),
        ] {
            assert_eq!(pause(1, &cause), None, "{cause}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_attempts_are_repeated_in_spite_of_the_limit() {
        let (report, cancel) = (|_: &str| (), CancellationToken::new());
        let repeats = Pace::default().store(ATTEMPTS, Persistence::Minutes(&report));
        let result = retry::<()>(repeats, &cancel, || {
            Box::pin(async {
                tokio::time::sleep(PERSISTENT_LIMIT * 2).await;
                Err(refused(500))
            })
        });
        assert!(matches!(result.await, Err((ATTEMPTS, _))));
    }

    #[tokio::test(start_paused = true)]
    async fn cancellation_ends_a_pause_and_an_attempt() {
        let cancel = CancellationToken::new();
        let (result, ()) = tokio::join!(
            retry::<()>(signed(), &cancel, || {
                Box::pin(async { Err(refused(500)) })
            }),
            async { cancel.cancel() }
        );
        assert!(matches!(result, Err((1, AttemptError::Stopped))));
        let result = retry::<()>(Pace::once(), &cancel, || Box::pin(std::future::pending())).await;
        assert!(matches!(result, Err((1, AttemptError::Stopped))));
    }
}
