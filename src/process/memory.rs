//! Measures the available memory, and counts out-of-memory kills.

use std::num::NonZeroUsize;
use std::path::Path;

use super::cgroup;
use crate::fs;

/// The number of processes that the kernel has killed since boot because memory ran out, in all
/// containers. `None` before Linux 4.13.
#[must_use]
pub(crate) fn out_of_memory_kills() -> Option<u64> {
    kills_in(&fs::read_lossy(Path::new("/proc/vmstat")).ok()?)
}

/// The available memory in bytes: the available memory of the machine, or less if a cgroup has a
/// limit. The page cache counts as available. `None` if unknown.
#[must_use]
pub(crate) fn available_memory() -> Option<u64> {
    let machine = fs::read_lossy(Path::new("/proc/meminfo"))
        .ok()
        .and_then(|text| field(&text, "MemAvailable:"))
        .map(|kib| kib.saturating_mul(1024));
    cgroup::each("memory", left_in)
        .into_iter()
        .chain(machine)
        .min()
}

/// The memory that this process may use: the memory of the machine, or a cgroup's limit if that is
/// lower. `None` if unknown.
#[must_use]
pub(crate) fn memory() -> Option<Memory> {
    let machine = fs::read_lossy(Path::new("/proc/meminfo"))
        .ok()
        .and_then(|text| field(&text, "MemTotal:"))
        .map(|kib| Memory {
            bytes: kib.saturating_mul(1024),
            of: MemoryOf::Machine,
        });
    let groups = cgroup::each("memory", limit)
        .into_iter()
        .map(|bytes| Memory {
            bytes,
            of: MemoryOf::Cgroup,
        });
    machine.into_iter().chain(groups).min_by_key(|it| it.bytes)
}

/// An amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// The amount in bytes.
    pub bytes: u64,
    /// Whether the machine or a cgroup determines the amount.
    pub of: MemoryOf,
}

/// What determines an amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemoryOf {
    /// The machine.
    Machine,
    /// A cgroup, such as a container's.
    Cgroup,
}

impl Memory {
    /// The number of packages that can be compiled concurrently in this memory, at least one.
    /// `per_job` is the memory for one package in bytes; zero means no limit.
    #[must_use]
    pub(crate) fn jobs(self, per_job: u64) -> NonZeroUsize {
        let bytes = match self.of {
            // The kernel keeps a part of the machine's memory: a machine with 4 GiB reports less,
            // but has enough for four packages of 1 GiB.
            MemoryOf::Machine => self.bytes.saturating_add(self.bytes / KEPT_PART),
            MemoryOf::Cgroup => self.bytes,
        };
        let jobs = bytes.checked_div(per_job).unwrap_or(u64::MAX);
        NonZeroUsize::new(usize::try_from(jobs).unwrap_or(usize::MAX)).unwrap_or(NonZeroUsize::MIN)
    }
}

/// The kernel keeps at most 1/`KEPT_PART` of a machine's memory for itself.
const KEPT_PART: u64 = 16;

/// The limit of a cgroup; `None` without a limit.
fn limit(group: &Path) -> Option<u64> {
    let limit = cgroup::value(group, "memory.max")
        .or_else(|| cgroup::value(group, "memory.limit_in_bytes"))?;
    // An unlimited cgroup has the value `max` in v2, and a number larger than any machine's memory
    // in v1.
    limit.parse().ok()
}

fn kills_in(vmstat: &str) -> Option<u64> {
    field(vmstat, "oom_kill")
}

/// The number after `name` in a text of lines such as `MemTotal: 1 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
    })
}

/// How much memory may still be allocated in a cgroup; `None` without a limit.
fn left_in(group: &Path) -> Option<u64> {
    let (limit, usage, prefix) = match cgroup::value(group, "memory.max") {
        Some(limit) => (limit, "memory.current", ""),
        None => (
            cgroup::value(group, "memory.limit_in_bytes")?,
            "memory.usage_in_bytes",
            "total_",
        ),
    };
    // An unlimited cgroup has the value `max` in v2, and a number larger than any machine's memory
    // in v1.
    let limit: u64 = limit.parse().ok()?;
    let usage: u64 = cgroup::value(group, usage)?.parse().ok()?;
    let stat = cgroup::value(group, "memory.stat").unwrap_or_default();
    let files: u64 = ["inactive_file", "active_file"]
        .iter()
        .filter_map(|name| field(&stat, &format!("{prefix}{name}")))
        .sum();
    Some(limit.saturating_sub(usage.saturating_sub(files)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oom_kill_count_is_found_by_its_exact_name() {
        let vmstat = "nr_free_pages 1\noom_kill_other 7\noom_kill 3\n";
        assert_eq!(kills_in(vmstat), Some(3));
        assert_eq!(kills_in("nr_free_pages 1\n"), None);
    }

    #[test]
    fn page_cache_does_not_count_as_used() {
        let group = |files: &[(&str, &str)]| {
            let group = tempfile::tempdir().unwrap();
            for (name, text) in files {
                fs::write(&group.path().join(name), text.as_bytes()).unwrap();
            }
            left_in(group.path())
        };
        let two = [
            ("memory.max", "1000\n"),
            ("memory.current", "900\n"),
            (
                "memory.stat",
                "anon 1\ninactive_file 200\nactive_file 100\n",
            ),
        ];
        assert_eq!(group(&two), Some(400));
        assert_eq!(group(&[("memory.max", "max\n"), two[1]]), None);
        let one = [
            ("memory.limit_in_bytes", "1000\n"),
            ("memory.usage_in_bytes", "900\n"),
            ("memory.stat", "inactive_file 1\ntotal_inactive_file 200\n"),
        ];
        assert_eq!(group(&one), Some(300));
        assert_eq!(group(&[]), None);
    }

    #[test]
    fn limit_is_read_in_both_cgroup_versions() {
        for (file, text, expected) in [
            ("memory.max", "2147483648\n", Some(2 << 30)),
            ("memory.max", "max\n", None),
            ("memory.limit_in_bytes", "1073741824\n", Some(1 << 30)),
            ("memory.other", "1\n", None),
        ] {
            let group = tempfile::tempdir().unwrap();
            fs::write(&group.path().join(file), text.as_bytes()).unwrap();
            assert_eq!(limit(group.path()), expected, "{file}: {text}");
        }
    }

    #[test]
    fn memory_has_room_for_at_least_one_job() {
        let jobs = |of, mebibytes: u64, per_job: u64| {
            let bytes = mebibytes << 20;
            Memory { bytes, of }.jobs(per_job << 20).get()
        };
        assert_eq!(jobs(MemoryOf::Cgroup, 2048, 1024), 2);
        assert_eq!(jobs(MemoryOf::Cgroup, 2047, 1024), 1);
        assert_eq!(jobs(MemoryOf::Cgroup, 256, 1024), 1);
        assert_eq!(jobs(MemoryOf::Cgroup, 256, 0), usize::MAX);
        assert_eq!(jobs(MemoryOf::Machine, 3900, 1024), 4);
        assert_eq!(jobs(MemoryOf::Machine, 3000, 1024), 3);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(memory().unwrap().bytes > 1 << 20);
        assert!(available_memory().unwrap() > 1 << 20);
    }
}
