//! Limits how many packages are compiled concurrently at the start of a run.
//!
//! Actions that start at the same moment on a server with few machines slow each other down, so all of them start late, and so do their
//! dependents, which again start at the same moment. `docs/performance.md` has measurements.

use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::time::Instant;

/// The longest time after which one more package may start.
const STEP: Duration = Duration::from_millis(60);

/// The longest time after which as many packages may run as the run has jobs.
const LENGTH: Duration = Duration::from_secs(2);

/// Lets the number of packages that are being compiled grow by one after each step, and by one with each package that ends.
#[derive(Debug)]
pub(super) struct Ramp {
    start: Instant,
    step: Duration,
    /// The number of packages that have ended.
    ended: u32,
}

impl Ramp {
    /// The run starts now, with up to `jobs` packages at a time.
    pub(super) fn new(jobs: NonZeroUsize) -> Self {
        Self {
            start: Instant::now(),
            step: STEP.min(LENGTH / saturated(jobs.get())),
            ended: 0,
        }
    }

    /// The earliest time at which another package may start while `running` packages are being compiled.
    pub(super) fn next_start(&self, running: usize) -> Instant {
        self.start + self.step * saturated(running).saturating_sub(self.ended)
    }

    /// A package has ended.
    pub(super) fn ended(&mut self) {
        self.ended = self.ended.saturating_add(1);
    }
}

fn saturated(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When another package may start while this number of packages runs, since the start of the run.
    fn after(ramp: &Ramp, running: usize) -> Duration {
        ramp.next_start(running) - ramp.start
    }

    fn with_jobs(jobs: usize) -> Ramp {
        Ramp::new(NonZeroUsize::new(jobs).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn packages_start_one_after_the_other_until_some_have_ended() {
        let mut ramp = with_jobs(16);
        assert_eq!(after(&ramp, 0), Duration::ZERO);
        assert_eq!(after(&ramp, 1), STEP);
        assert_eq!(after(&ramp, 15), STEP * 15);
        ramp.ended();
        ramp.ended();
        assert_eq!(after(&ramp, 2), Duration::ZERO);
        assert_eq!(after(&ramp, 3), STEP);
    }

    #[tokio::test(start_paused = true)]
    async fn many_jobs_are_in_use_after_two_seconds() {
        for jobs in [50, 512, 100_000] {
            assert!(after(&with_jobs(jobs), jobs) <= LENGTH, "{jobs}");
        }
        with_jobs(usize::MAX).next_start(usize::MAX);
    }
}
