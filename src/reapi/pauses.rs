//! The pauses before a call is retried.

use std::time::Duration;

/// The pauses, in thousandths of the unit. Together they cover an outage of about two minutes.
const STEPS: [u32; 9] = [100, 400, 1000, 2000, 4000, 8000, 15_000, 30_000, 60_000];

/// The pauses before a call is retried. Their unit is also that of the time limits for a silent server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pauses {
    unit: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self::of(Duration::from_secs(1))
    }
}

impl Pauses {
    /// Pauses with another unit than a second, for tests.
    pub(crate) fn of(unit: Duration) -> Self {
        Self { unit }
    }

    /// The unit; a second outside of tests.
    pub(crate) fn unit(self) -> Duration {
        self.unit
    }

    /// The pause after this number of consecutive failures; `None` after more failures than there are pauses, and for zero.
    pub(crate) fn after(self, failures: u32) -> Option<Duration> {
        let step = usize::try_from(failures).ok()?.checked_sub(1)?;
        STEPS.get(step).map(|step| self.unit * *step / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_cover_an_outage_of_two_minutes() {
        let pauses = Pauses::default();
        let all: Vec<Duration> = (1..).map_while(|failures| pauses.after(failures)).collect();
        assert_eq!(all[0], Duration::from_millis(100));
        assert!(all.iter().sum::<Duration>() >= Duration::from_mins(2));
        assert!(pauses.after(0).is_none());
    }
}
