//! Parses files in `/proc`; see proc(5).

use super::report::{Cpu, Memory, percent};

/// The CPU time of all CPUs since boot, in clock ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CpuTicks {
    user: u64,
    sys: u64,
    wait: u64,
    total: u64,
}

impl CpuTicks {
    pub(super) fn shares_since(self, before: Self) -> Cpu {
        let total = self.total.saturating_sub(before.total);
        let share = |now: u64, then: u64| percent(now.saturating_sub(then), total, 1);
        Cpu {
            sys: share(self.sys, before.sys),
            user: share(self.user, before.user),
            wait: share(self.wait, before.wait),
        }
    }
}

/// Parses the CPU times in `/proc/stat`.
pub(super) fn ticks(stat: &str) -> CpuTicks {
    let fields: Vec<u64> = stat
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))
        .unwrap_or_default()
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let field = |index: usize| fields.get(index).copied().unwrap_or(0);
    CpuTicks {
        // Includes the time of niced processes, as in the Go agent.
        user: field(0).saturating_add(field(1)),
        sys: field(2),
        wait: field(4),
        // The first eight fields. The guest times that follow are already included in user and
        // nice.
        total: fields.iter().take(8).copied().fold(0, u64::saturating_add),
    }
}

/// Parses the load averages in `/proc/loadavg`. Empty if the format is unknown.
pub(super) fn load(loadavg: &str) -> Vec<String> {
    loadavg
        .split_whitespace()
        .take(3)
        .map(|field| field.parse::<f64>().map(|load| format!("{load:.2}")))
        .collect::<Result<_, _>>()
        .unwrap_or_default()
}

/// Parses the memory and swap space in use from `/proc/meminfo`.
pub(super) fn memory(meminfo: &str) -> (Memory, Memory) {
    let value = |name: &str| -> Option<u64> {
        let line = meminfo
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let or_zero = |name| value(name).unwrap_or(0);
    let usage = |total: u64, free: u64| {
        let used = total.saturating_sub(free);
        Memory {
            kb: used.to_string(),
            percent: percent(used, total, 0),
        }
    };
    // Memory that the kernel can reclaim is not reported as used. Linux before 3.14 has no
    // `MemAvailable`.
    let free = value("MemAvailable")
        .unwrap_or_else(|| or_zero("MemFree") + or_zero("Buffers") + or_zero("Cached"));
    (
        usage(or_zero("MemTotal"), free),
        usage(or_zero("SwapTotal"), or_zero("SwapFree")),
    )
}

/// Parses the whole seconds in `/proc/uptime`.
pub(super) fn uptime(uptime: &str) -> u64 {
    uptime
        .split(['.', ' ', '\n'])
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAT: &str = "cpu  69034 1015 16264 401013 1607 0 107 46 5 5\ncpu0 33319 351 7470 202987 276 0 20 21 0 0\n";

    #[test]
    fn cpu_time_is_that_between_two_measurements() {
        let first = ticks(STAT);
        assert_eq!(
            first.total,
            69034 + 1015 + 16264 + 401_013 + 1607 + 107 + 46
        );
        let second = ticks("cpu  69084 1015 16274 401103 1657 0 107 46 5 5\n");
        let cpu = second.shares_since(first);
        assert_eq!(
            (cpu.user.as_str(), cpu.sys.as_str(), cpu.wait.as_str()),
            ("25.0", "5.0", "25.0")
        );
        assert_eq!(second.shares_since(second).user, "0.0");
        assert_eq!(first.shares_since(CpuTicks::default()).sys, "3.3");
        assert_eq!(first.shares_since(second).user, "0.0");
    }

    #[test]
    fn reclaimable_memory_is_not_in_use() {
        let text = "MemTotal:       1000 kB\nMemFree:        100 kB\nMemAvailable:   750 kB\nBuffers:  50 kB\n\
                    Cached:  400 kB\nSwapCached:  9 kB\nSwapTotal: 200 kB\nSwapFree: 150 kB\n";
        let (mem, swap) = memory(text);
        assert_eq!((mem.kb.as_str(), mem.percent.as_str()), ("250", "25"));
        assert_eq!((swap.kb.as_str(), swap.percent.as_str()), ("50", "25"));
        let (mem, _) = memory(&text.replace("MemAvailable", "Other"));
        assert_eq!(mem.kb, "450");
        let (_, swap) = memory("MemTotal: 1 kB\n");
        assert_eq!((swap.kb.as_str(), swap.percent.as_str()), ("0", "0"));
    }

    #[test]
    fn load_and_uptime_are_read() {
        assert_eq!(
            load("0.09 0.1 12.215 2/118 22295\n"),
            ["0.09", "0.10", "12.21"]
        );
        assert!(load("x").is_empty());
        assert_eq!(uptime("2455.03 4010.13\n"), 2455);
        assert_eq!(uptime(""), 0);
    }

    proptest! {
        #[test]
        fn no_content_makes_a_parser_panic(text in "(cpu |MemTotal: |[0-9. \n/a-z-]){0,60}") {
            let ticks = ticks(&text);
            let _ = (ticks.shares_since(CpuTicks::default()), load(&text), memory(&text), uptime(&text));
        }
    }
}
