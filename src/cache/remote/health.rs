//! Counts and reports the failures of a shared cache, and decides when a run stops using the cache.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::error::RemoteError;
use crate::diag::{Chain, printable};
use crate::fs;

/// After this many consecutive failures, a run stops using a cache.
const MOST_FAILURES: usize = 3;

/// The failures of a shared cache. A run prints at most one warning about them.
#[derive(Debug)]
pub(super) struct Health {
    /// The name of the cache in messages.
    cache: String,
    /// The maximum total time of failed operations.
    patience: Duration,
    /// Canceled when the run stops using the cache.
    broken: CancellationToken,
    /// Whether packages can be read but not stored.
    is_read_only: AtomicBool,
    /// The state of the local cache.
    local: Arc<LocalHealth>,
    failures: Mutex<Failures>,
}

/// The failures to write packages to the local cache, for which no shared cache is to blame.
#[derive(Debug, Default)]
pub(in crate::cache) struct LocalHealth {
    /// Whether a package could not be written.
    has_failed: AtomicBool,
    /// Whether a failure was reported.
    has_warned: AtomicBool,
}

impl LocalHealth {
    /// Whether the caller may warn about a failure of the local cache. Only the first caller may,
    /// because a run prints one such warning.
    pub(in crate::cache) fn may_warn(&self) -> bool {
        !self.has_warned.swap(true, Ordering::Relaxed)
    }
}

/// The failures so far, and whether they were reported.
#[derive(Debug, Default)]
struct Failures {
    /// The number of timeouts and lost connections since the last success.
    in_succession: usize,
    /// The number of all failures.
    all: usize,
    /// The total time of failed operations. The time of concurrent operations is counted once.
    lost: Duration,
    /// The end of the last failed operation.
    last: Option<Instant>,
    /// The first problem and its reason, until it is reported.
    first: Option<(Problem, String)>,
    is_reported: bool,
}

/// The kinds of problems that do not stop the use of a cache at once.
#[derive(Debug, Clone, Copy)]
enum Problem {
    /// Requests timed out or lost their connections.
    Requests,
    /// A file has wrong bytes.
    File,
    /// Packages cannot be stored.
    ReadOnly,
}

impl Health {
    pub(super) fn new(cache: String, patience: Duration, local: Arc<LocalHealth>) -> Self {
        Self {
            cache,
            patience,
            broken: CancellationToken::new(),
            is_read_only: AtomicBool::new(false),
            local,
            failures: Mutex::default(),
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_cancelled()
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.is_read_only.load(Ordering::Relaxed)
    }

    pub(super) fn has_local_failed(&self) -> bool {
        self.local.has_failed.load(Ordering::Relaxed)
    }

    /// Runs an operation. Returns `None` as soon as the run stops using the cache.
    pub(super) async fn while_used<T>(&self, operation: impl Future<Output = T>) -> Option<T> {
        self.broken.run_until_cancelled(operation).await
    }

    pub(super) fn note_success(&self) {
        self.failures().in_succession = 0;
    }

    /// Records an error of an operation that began at `start`. Wrong bytes, failures of the local
    /// cache and the first few temporary failures do not stop the use of the cache. All other
    /// errors do.
    pub(super) fn note(&self, error: &RemoteError, start: Instant) {
        match error {
            RemoteError::Wrong { .. } => self.note_problem(Problem::File, error),
            RemoteError::Local(_) => {
                self.local.has_failed.store(true, Ordering::Relaxed);
                self.blame_local(error);
            }
            RemoteError::NoSpace { .. } => self.blame_local(error),
            error if error.may_pass() => self.count(error, start),
            _ => self.give_up(error),
        }
    }

    /// Records a request that failed although the cache may be healthy.
    pub(super) fn note_miss(&self, error: &RemoteError) {
        self.failures().all += 1;
        self.note_problem(Problem::Requests, error);
    }

    /// Counts a temporary failure.
    fn count(&self, error: &RemoteError, start: Instant) {
        let now = Instant::now();
        let mut failures = self.failures();
        let start = failures.last.map_or(start, |last| last.max(start));
        failures.lost += now.saturating_duration_since(start);
        failures.last = Some(now);
        failures.all += 1;
        failures.in_succession += 1;
        let is_enough = failures.in_succession >= MOST_FAILURES || failures.lost >= self.patience;
        drop(failures);
        self.note_problem(Problem::Requests, error);
        if is_enough {
            self.give_up(error);
        }
    }

    /// Remembers the problem for [`report`](Self::report), if it is the first one.
    fn note_problem(&self, problem: Problem, error: &dyn StdError) {
        let text = printable(&Chain(error));
        tracing::debug!(cache = %self.cache, error = %text, "an operation of the shared cache failed");
        self.failures().first.get_or_insert((problem, text));
    }

    /// Reports the first problem, unless the run has stopped using the cache. Called at the end of
    /// a run.
    pub(super) fn report(&self) {
        let mut failures = self.failures();
        if self.is_broken() || failures.is_reported {
            return;
        }
        let Some((problem, reason)) = failures.first.take() else {
            return;
        };
        failures.is_reported = true;
        let cache = &self.cache;
        match problem {
            Problem::Requests => {
                let requests = match failures.all {
                    1 => "one request".to_owned(),
                    all => format!("{all} requests"),
                };
                tracing::warn!(error = %reason, "{requests} to the shared cache {cache} failed");
            }
            Problem::File => tracing::warn!(
                error = %reason,
                "a file of the shared cache {cache} is damaged, and its package was not taken from there"
            ),
            Problem::ReadOnly => tracing::warn!(
                error = %reason,
                "the shared cache {cache} is only read: no packages can be stored in it"
            ),
        }
    }

    /// Reports that the local cache cannot take packages, once per run.
    fn blame_local(&self, error: &RemoteError) {
        if self.local.may_warn() {
            tracing::warn!(
                error = %printable(&Chain(error)),
                "the local cache cannot take packages of the shared cache {}, and they are compiled again",
                self.cache
            );
        }
    }

    /// Records that packages cannot be stored, and why.
    pub(super) fn note_read_only(&self, error: &fs::Error) {
        self.is_read_only.store(true, Ordering::Relaxed);
        self.note_problem(Problem::ReadOnly, error);
    }

    /// Stops the use of the cache, and reports the failure that caused this.
    pub(super) fn give_up(&self, error: &RemoteError) {
        // Hold the lock, so that the report is printed only once.
        let failures = self.failures();
        if self.broken.is_cancelled() {
            return;
        }
        self.broken.cancel();
        if failures.is_reported {
            return;
        }
        tracing::warn!(
            error = %printable(&Chain(error)),
            "the shared cache {} has failed and is not used in the rest of this run",
            self.cache
        );
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: RemoteError = RemoteError::Slow {
        limit: Duration::from_secs(1),
    };

    fn health(patience: Duration) -> Health {
        Health::new("http://host".to_owned(), patience, Arc::default())
    }

    #[test]
    fn cache_is_given_up_after_failures_in_succession() {
        let health = health(Duration::MAX);
        for _ in 0..10 {
            for _ in 1..MOST_FAILURES {
                health.note(&SLOW, Instant::now());
            }
            health.note_success();
        }
        assert!(!health.is_broken());
        for _ in 0..MOST_FAILURES {
            assert!(!health.is_broken());
            health.note(&SLOW, Instant::now());
        }
        assert!(health.is_broken());
    }

    #[test]
    fn cache_is_given_up_when_failures_have_taken_too_long() {
        let health = health(Duration::from_secs(30));
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        health.note(&SLOW, ago(20).unwrap());
        health.note_success();
        // This operation ran at the same time as the first one.
        health.note(&SLOW, ago(20).unwrap());
        health.note_success();
        assert!(!health.is_broken());
        health.failures().last = ago(10);
        health.note(&SLOW, ago(20).unwrap());
        assert!(health.is_broken());
    }

    #[test]
    fn refusal_is_final() {
        let health = health(Duration::MAX);
        health.note(&RemoteError::Unsuitable("it has no cache"), Instant::now());
        assert!(health.is_broken());
    }
}
