//! The number of available CPUs.

use std::num::NonZeroUsize;
use std::path::Path;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use super::cgroup;

/// The number of CPUs that this process may use: those in its affinity mask, or fewer if a cgroup
/// quota limits its CPU time. A fraction of a CPU counts as a whole one.
#[must_use]
pub(crate) fn processors() -> NonZeroUsize {
    let in_mask = allowed().unwrap_or_else(|| {
        // The mask is unknown if the machine has more CPUs than a `CpuSet` can hold.
        std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
    });
    let available = cgroup::each("cpu", quota)
        .into_iter()
        .fold(in_mask, usize::min);
    NonZeroUsize::new(available).unwrap_or(NonZeroUsize::MIN)
}

fn allowed() -> Option<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let allowed = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false));
    Some(allowed.count())
}

/// The CPUs that a cgroup's quota corresponds to; `None` without a quota.
fn quota(group: &Path) -> Option<usize> {
    let (quota, period) = match cgroup::value(group, "cpu.max") {
        Some(line) => {
            let (quota, period) = line.split_once(' ')?;
            (quota.to_owned(), period.to_owned())
        }
        None => (
            cgroup::value(group, "cpu.cfs_quota_us")?,
            cgroup::value(group, "cpu.cfs_period_us")?,
        ),
    };
    // An unlimited cgroup has the quota `max` in v2, and -1 in v1.
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    match period {
        0 => None,
        _ => usize::try_from(quota.div_ceil(period).max(1)).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs;

    #[test]
    fn quota_is_rounded_up_in_both_cgroup_versions() {
        for (file, quota_of, expected) in [
            ("cpu.max", "150000 100000\n", Some(2)),
            ("cpu.max", "max 100000\n", None),
            ("cpu.max", "1000 100000\n", Some(1)),
            ("cpu.cfs_quota_us", "400000\n", Some(4)),
            ("cpu.cfs_quota_us", "-1\n", None),
        ] {
            let group = tempfile::tempdir().unwrap();
            fs::write(&group.path().join("cpu.cfs_period_us"), b"100000\n").unwrap();
            fs::write(&group.path().join(file), quota_of.as_bytes()).unwrap();
            assert_eq!(quota(group.path()), expected, "{file}: {quota_of}");
        }
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(quota(empty.path()), None);
    }

    #[test]
    fn result_does_not_exceed_the_affinity_mask() {
        assert!(processors().get() <= allowed().unwrap());
    }
}
