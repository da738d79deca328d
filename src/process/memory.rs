//! Whether the kernel has killed for lack of memory.

use std::path::Path;

use crate::fs;

/// How many processes the kernel has killed for lack of memory since it booted, in any container. `None` where it does not
/// say (before Linux 4.13).
#[must_use]
pub fn out_of_memory_kills() -> Option<u64> {
    kills_in(&fs::read_lossy(Path::new("/proc/vmstat")).ok()?)
}

fn kills_in(vmstat: &str) -> Option<u64> {
    vmstat
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_by_its_whole_name() {
        let vmstat = "nr_free_pages 1\noom_kill_other 7\noom_kill 3\n";
        assert_eq!(kills_in(vmstat), Some(3));
        assert_eq!(kills_in("nr_free_pages 1\n"), None);
    }
}
