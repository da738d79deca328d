//! Measures how busy the CPUs are.

use std::path::Path;

use super::processors::processors;
use crate::fs;

/// The CPU time of the whole machine since boot, in clock ticks (proc_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    idle: u64,
    all: u64,
}

/// Measures the idle share of the machine's CPU time.
#[derive(Debug, Default)]
pub(crate) struct IdleMeter {
    last: Option<Times>,
}

impl IdleMeter {
    /// The idle share since the previous call, from 0 to 1. `None` in the first call and without
    /// `/proc/stat`. Also `None` if this process may use only some of the machine's CPUs, because
    /// the idle CPUs may be unavailable to this process.
    pub(crate) fn idle_share(&mut self) -> Option<f64> {
        let text = fs::read_lossy(Path::new("/proc/stat")).ok()?;
        if cpus(&text) > processors().get() {
            return None;
        }
        self.share_since_last(times(&text)?)
    }

    fn share_since_last(&mut self, now: Times) -> Option<f64> {
        let last = self.last.replace(now)?;
        let all = now.all.checked_sub(last.all).filter(|all| *all > 0)?;
        // The kernel's idle time may decrease.
        let idle = now.idle.saturating_sub(last.idle);
        #[expect(clippy::cast_precision_loss, reason = "ticks of a short time")]
        Some(idle as f64 / all as f64)
    }
}

/// The number of CPUs that are online.
fn cpus(stat: &str) -> usize {
    let is_cpu = |line: &&str| {
        let number = line.strip_prefix("cpu");
        number.is_some_and(|rest| rest.starts_with(|it: char| it.is_ascii_digit()))
    };
    stat.lines().filter(is_cpu).count()
}

fn times(stat: &str) -> Option<Times> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    // The fields are user, nice, system, idle, iowait, irq, softirq and steal. The times of guests,
    // which follow, are contained in user and nice.
    let fields = fields.split_whitespace().take(8);
    let fields: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(Times {
        idle: fields.get(3)?.checked_add(*fields.get(4)?)?,
        all: fields.iter().sum(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 10 40 500 50 1 2 3 9 9\ncpu0 60 5 20 250 25 1 1 1 0 0\ncpu1 40 5 20 250 25 0 1 2 0 0\nintr 7\ncpufreq 1\n";

    #[test]
    fn idle_time_includes_waiting_for_disks() {
        assert_eq!(
            times(STAT),
            Some(Times {
                idle: 550,
                all: 706
            })
        );
        assert_eq!(cpus(STAT), 2);
        for broken in ["", "intr 7\n", "cpu  1 2 3\n", "cpu  1 2 3 x 5\n"] {
            assert_eq!(times(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn share_is_of_the_time_since_the_previous_call() {
        let mut meter = IdleMeter::default();
        let at = |idle, all| Times { idle, all };
        assert_eq!(meter.share_since_last(at(50, 100)), None);
        assert_eq!(meter.share_since_last(at(60, 140)), Some(0.25));
        assert_eq!(meter.share_since_last(at(60, 140)), None);
        assert_eq!(meter.share_since_last(at(55, 150)), Some(0.0));
    }
}
