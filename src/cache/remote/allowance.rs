//! A time limit for all downloads from a shared cache together. It consists of a base and an
//! additional time for each download. Time in which no download runs is not counted. All searches
//! in a cache have such a time limit, too.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Allowance(Mutex<State>);

#[derive(Debug)]
struct State {
    running: usize,
    /// The start of the current period in which at least one download runs.
    since: Instant,
    /// The time used in earlier periods.
    used: Duration,
    allowed: Duration,
}

/// Represents a running download until dropped.
struct Running<'a>(&'a Allowance);

impl Allowance {
    pub(super) fn new(base: Duration) -> Self {
        Self(Mutex::new(State {
            running: 0,
            since: Instant::now(),
            used: Duration::ZERO,
            allowed: base,
        }))
    }

    /// Runs a download, and adds `time` to the limit.
    ///
    /// # Errors
    /// The limit, if all downloads together took longer. The download is then dropped.
    pub(super) async fn run<T>(
        &self,
        time: Duration,
        download: impl Future<Output = T>,
    ) -> Result<T, Duration> {
        let _running = self.begin(time);
        tokio::select! {
            biased;
            result = download => Ok(result),
            allowed = self.exceeded() => Err(allowed),
        }
    }

    fn begin(&self, time: Duration) -> Running<'_> {
        let mut state = self.state();
        state.allowed = state.allowed.saturating_add(time);
        if state.running == 0 {
            state.since = Instant::now();
        }
        state.running += 1;
        Running(self)
    }

    /// Waits until the limit is exceeded, and returns the limit.
    async fn exceeded(&self) -> Duration {
        loop {
            let (allowed, left) = {
                let state = self.state();
                let used = state.used + state.since.elapsed();
                (state.allowed, state.allowed.saturating_sub(used))
            };
            if left.is_zero() {
                return allowed;
            }
            // Another download may raise the limit during this pause.
            tokio::time::sleep(left).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.running -= 1;
        if state.running == 0 {
            let elapsed = state.since.elapsed();
            state.used += elapsed;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn downloads_share_one_allowance_without_the_pauses_between_them() {
        let allowance = Allowance::new(seconds(10));
        let sleep = |time| tokio::time::sleep(seconds(time));
        assert_eq!(allowance.run(seconds(1), sleep(8)).await, Ok(()));
        sleep(100).await;
        // 3 of 11 seconds are left. These two downloads add 3 seconds to the limit.
        let both = futures_util::future::join(
            allowance.run(seconds(2), sleep(4)),
            allowance.run(seconds(1), pending::<()>()),
        );
        let start = Instant::now();
        assert_eq!(both.await, (Ok(()), Err(seconds(14))));
        assert_eq!(start.elapsed(), seconds(6));
    }
}
