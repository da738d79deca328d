//! The clock from which the kernel takes change times.
//!
//! The clock advances in ticks, and two changes within one tick get the same time. Since Linux
//! 6.13, many file systems store a finer time for the first change after a file was examined. The
//! times before and after such a change differ even within one tick.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};
use rustix::time::{ClockId, clock_gettime};

/// The interval between reads of the clock while waiting for the next tick. A tick is 1 to 10 ms long.
const INTERVAL: Duration = Duration::from_micros(200);

/// The maximum time to wait for a tick, in case the clock is set back.
const LONGEST_TICK: Duration = Duration::from_millis(20);

/// A duration that is shorter than any tick.
const SHORTEST_TICK: Duration = Duration::from_micros(500);

/// The devices whose file systems are known to use finer times.
static FINE_DEVICES: Mutex<Option<HashSet<u64>>> = Mutex::new(None);

/// Waits until any later change of a file in `tree` is guaranteed to get a later change time than
/// the file has now. The caller must examine the files after this wait.
pub(super) fn wait_for_later(tree: &Path) {
    if !has_fine_times(tree).unwrap_or(false) {
        wait_for_tick();
    }
}

fn wait_for_tick() {
    let now = || {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        (now.tv_sec, now.tv_nsec)
    };
    let (before, start) = (now(), Instant::now());
    while now() <= before && start.elapsed() < LONGEST_TICK {
        std::thread::sleep(INTERVAL);
    }
}

/// Tests on the root of a tree whether two consecutive changes get different times. `None` if this
/// process may not change the root's times, for example because the root has another owner.
fn has_fine_times(tree: &Path) -> Option<bool> {
    let root = crate::fs::open(tree).ok()?;
    let found = root.metadata().ok()?;
    let mut fine_devices = FINE_DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let fine_devices = fine_devices.get_or_insert_default();
    if fine_devices.contains(&found.dev()) {
        return Some(true);
    }
    let same = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: found.mtime(),
            tv_nsec: found.mtime_nsec(),
        },
    };
    let start = Instant::now();
    let mut last = (found.ctime(), found.ctime_nsec());
    // Try several times: if a tick ends between two changes, their times differ on every file system.
    for _ in 0..3 {
        rustix::fs::futimens(&root, &same).ok()?;
        let found = root.metadata().ok()?;
        let time = (found.ctime(), found.ctime_nsec());
        if time == last || start.elapsed() > SHORTEST_TICK {
            return Some(false);
        }
        last = time;
    }
    fine_devices.insert(found.dev());
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs;

    #[test]
    fn changes_after_the_wait_have_later_times() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        for _ in 0..20 {
            for wait in [&wait_for_later as &dyn Fn(&Path), &|_| wait_for_tick()] {
                fs::write(&file, b"a").unwrap();
                wait(scratch.path());
                let time = |file| {
                    let found = fs::metadata(file).unwrap();
                    (found.ctime(), found.ctime_nsec())
                };
                let before = time(&file);
                fs::write(&file, b"b").unwrap();
                assert!(before < time(&file));
            }
        }
    }
}
