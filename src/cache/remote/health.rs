//! Counts and reports the failures of a shared cache, and decides when it is not used any longer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::error::RemoteError;
use crate::diag::{Chain, printable};
use crate::fs;

/// After this many failures in succession, a cache is not used any longer.
const MOST_FAILURES: usize = 3;

/// The failures of a shared cache.
#[derive(Debug)]
pub(super) struct Health {
    /// The cache in messages.
    cache: String,
    /// How long failed operations may take together.
    patience: Duration,
    /// Canceled when the cache is not used any longer.
    broken: CancellationToken,
    /// Whether packages can be read, but not stored.
    is_only_read: AtomicBool,
    /// Whether the local cache could not take a package.
    local_failed: AtomicBool,
    /// Whether wrong bytes were reported.
    has_warned: AtomicBool,
    failures: Mutex<Failures>,
}

/// Failures that may pass: time limits and lost connections.
#[derive(Debug, Default)]
struct Failures {
    in_succession: usize,
    all: usize,
    /// How long they took. Operations that ran concurrently are counted once.
    lost: Duration,
    /// The end of the last one.
    last: Option<Instant>,
    /// The reason of the first one.
    reason: Option<String>,
    is_reported: bool,
}

impl Health {
    pub(super) fn new(cache: String, patience: Duration) -> Self {
        Self {
            cache,
            patience,
            broken: CancellationToken::new(),
            is_only_read: AtomicBool::new(false),
            local_failed: AtomicBool::new(false),
            has_warned: AtomicBool::new(false),
            failures: Mutex::default(),
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_cancelled()
    }

    pub(super) fn is_only_read(&self) -> bool {
        self.is_only_read.load(Ordering::Relaxed)
    }

    pub(super) fn has_local_failed(&self) -> bool {
        self.local_failed.load(Ordering::Relaxed)
    }

    /// Runs an operation, but not longer than the cache is used.
    pub(super) async fn while_used<T>(&self, operation: impl Future<Output = T>) -> Option<T> {
        self.broken.run_until_cancelled(operation).await
    }

    pub(super) fn note_success(&self) {
        self.failures().in_succession = 0;
    }

    /// Reports an error of an operation that began at `start`. Wrong bytes and a failure of the local cache are reported once. After
    /// another failure, the cache is not used any longer, unless it may pass and there were few such failures.
    pub(super) fn note(&self, error: &RemoteError, start: Instant) {
        match error {
            RemoteError::Wrong { .. } => self.warn_of_wrong_bytes(error),
            RemoteError::Local(_) | RemoteError::NoSpace { .. } => self.stop_fetching(error),
            error if error.may_pass() => self.count(error, start),
            _ => self.give_up(error),
        }
    }

    /// Counts a failure that may pass.
    fn count(&self, error: &RemoteError, start: Instant) {
        let now = Instant::now();
        let mut failures = self.failures();
        let start = failures.last.map_or(start, |last| last.max(start));
        failures.lost += now.saturating_duration_since(start);
        failures.last = Some(now);
        failures.all += 1;
        failures.in_succession += 1;
        let text = printable(&Chain(error));
        tracing::debug!(cache = %self.cache, error = %text, "an operation of the shared cache failed");
        failures.reason.get_or_insert(text);
        let is_enough = failures.in_succession >= MOST_FAILURES || failures.lost >= self.patience;
        drop(failures);
        if is_enough {
            self.give_up(error);
        }
    }

    /// Reports failures that did not end the use of the cache, once.
    pub(super) fn report(&self) {
        let mut failures = self.failures();
        if self.is_broken() || failures.is_reported {
            return;
        }
        let Some(reason) = failures.reason.take() else {
            return;
        };
        failures.is_reported = true;
        let requests = match failures.all {
            1 => "one request".to_owned(),
            all => format!("{all} requests"),
        };
        tracing::warn!(error = %reason, "{requests} to the shared cache {} failed", self.cache);
    }

    /// Reports that the local cache cannot take packages. The shared cache is not to blame.
    fn stop_fetching(&self, error: &RemoteError) {
        if self.local_failed.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!(
            error = %printable(&Chain(error)),
            "the local cache cannot take packages of the shared cache {}, and they are compiled again",
            self.cache
        );
    }

    /// Reports that no packages can be stored.
    pub(super) fn only_read(&self, error: &fs::Error) {
        self.is_only_read.store(true, Ordering::Relaxed);
        tracing::warn!(
            error = %printable(&Chain(error)),
            "the shared cache {} is only read: no packages can be stored in it",
            self.cache
        );
    }

    /// Reports the first wrong file. Others are only misses.
    fn warn_of_wrong_bytes(&self, error: &RemoteError) {
        let error = printable(&Chain(error));
        if self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::debug!(cache = %self.cache, error = %error, "another file of the shared cache is wrong");
            return;
        }
        tracing::warn!(
            error = %error,
            "a file of the shared cache {} is damaged, and its package is compiled again",
            self.cache
        );
    }

    /// Reports the failure after which the cache is not used any longer.
    pub(super) fn give_up(&self, error: &RemoteError) {
        // One at a time, so that the report is printed once.
        let _failures = self.failures();
        if self.broken.is_cancelled() {
            return;
        }
        self.broken.cancel();
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
        Health::new("http://host".to_owned(), patience)
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
        // It ran at the same time.
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
