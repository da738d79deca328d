//! Limits how many packages are compiled concurrently at the start of a run.
//!
//! Actions that start at the same moment on a server with few machines slow each other down, so all of them start late, and so do their
//! dependents, which again start at the same moment. `docs/performance.md` has measurements.

use std::time::Duration;

use tokio::time::Instant;

/// The time after which one more package may start.
const STEP: Duration = Duration::from_millis(20);

/// Lets the number of packages that are being compiled grow by one every [`STEP`], and by one with each package that ends. A server with
/// many machines is in use after little more than a second.
#[derive(Debug)]
pub(super) struct Ramp {
    start: Instant,
    /// The number of packages that have ended.
    ended: u32,
}

impl Ramp {
    /// The run starts now.
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            ended: 0,
        }
    }

    /// The earliest time at which another package may start while `running` packages are being compiled.
    pub(super) fn next_start(&self, running: usize) -> Instant {
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        self.start + STEP * running.saturating_sub(self.ended)
    }

    /// A package has ended.
    pub(super) fn ended(&mut self) {
        self.ended = self.ended.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn packages_start_one_after_the_other_until_some_have_ended() {
        let mut ramp = Ramp::new();
        let after = |ramp: &Ramp, running| ramp.next_start(running) - ramp.start;
        assert_eq!(after(&ramp, 0), Duration::ZERO);
        assert_eq!(after(&ramp, 1), STEP);
        assert_eq!(after(&ramp, 63), STEP * 63);
        ramp.ended();
        ramp.ended();
        assert_eq!(after(&ramp, 2), Duration::ZERO);
        assert_eq!(after(&ramp, 3), STEP);
    }
}
