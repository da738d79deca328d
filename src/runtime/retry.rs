//! Repeats an operation that may succeed later, with pauses between the attempts.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Why a repeated operation has no result.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GivenUp<E> {
    /// The last attempt failed.
    Failed { attempts: u32, error: E },
    /// The operation was canceled, during or after this attempt.
    Stopped { attempts: u32 },
}

/// Repeats an attempt until it succeeds or `stop` is canceled. After the error of an attempt, whose number starts at 1, `pause` returns
/// the pause before the next one; `None` if the error is final.
pub(crate) async fn retry<T, E, F: Future<Output = Result<T, E>>>(
    stop: &CancellationToken,
    pause: impl Fn(&E, u32) -> Option<Duration>,
    mut attempt: impl FnMut() -> F,
) -> Result<T, GivenUp<E>> {
    let mut attempts = 1;
    loop {
        let error = match stop.run_until_cancelled(attempt()).await {
            Some(Ok(value)) => return Ok(value),
            // An error after a cancellation is a consequence of it, so it is not returned.
            Some(Err(error)) if !stop.is_cancelled() => error,
            Some(Err(_)) | None => return Err(GivenUp::Stopped { attempts }),
        };
        let Some(pause) = pause(&error, attempts) else {
            return Err(GivenUp::Failed { attempts, error });
        };
        let pausing = stop.run_until_cancelled(tokio::time::sleep(pause));
        if pausing.await.is_none() {
            return Err(GivenUp::Stopped { attempts });
        }
        attempts += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    /// Fails with these errors in order; the error 0 is final. Returns the result and the time that passed.
    async fn attempts(errors: &[u32]) -> (Result<(), GivenUp<u32>>, Duration) {
        let (start, stop) = (Instant::now(), CancellationToken::new());
        let next = Cell::new(errors.iter());
        let pause = |error: &u32, attempt| (*error > 0 && attempt < 3).then_some(PAUSE);
        let result = retry(&stop, pause, || {
            let mut errors = next.take();
            let error = errors.next().copied();
            next.set(errors);
            async move { error.map_or(Ok(()), Err) }
        });
        (result.await, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_separated_by_pauses() {
        let failed = |attempts, error| Err(GivenUp::Failed { attempts, error });
        assert_eq!(attempts(&[]).await, (Ok(()), Duration::ZERO));
        assert_eq!(attempts(&[1, 2]).await, (Ok(()), PAUSE * 2));
        assert_eq!(attempts(&[1, 2, 3]).await, (failed(3, 3), PAUSE * 2));
        assert_eq!(attempts(&[1, 0]).await, (failed(2, 0), PAUSE));
        assert_eq!(attempts(&[0]).await, (failed(1, 0), Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn cancellation_ends_a_pause_and_an_attempt() {
        let stop = CancellationToken::new();
        let pause = |_: &(), _| Some(PAUSE);
        let (result, ()) =
            tokio::join!(retry(&stop, pause, || async { Err::<(), _>(()) }), async {
                stop.cancel()
            });
        assert_eq!(result, Err(GivenUp::Stopped { attempts: 1 }));
        let result = retry(&stop, pause, std::future::pending::<Result<(), ()>>);
        assert_eq!(result.await, Err(GivenUp::Stopped { attempts: 1 }));
    }
}
