//! Kills the processes that hold a lock on a file: those of a run that was killed.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::sys::stat::{major, minor};
use nix::unistd::Pid;

use super::Unkillable;
use super::tree::{self, KILL_LIMIT};
use crate::fs;

/// The pause between two rounds of killing.
const ROUND: Duration = Duration::from_millis(10);

/// Kills the processes that hold a lock (`flock`) on a file, and their descendants. Waits until the lock is free, for ten seconds at most
/// and until `stop` returns `true`.
///
/// Returns the holders that have not ended although they were killed: they wait in the kernel and execute no further instruction of their
/// program. `None` if the lock is not free for another reason: its holder is invisible, or this user may not kill it.
pub(crate) fn kill_holders(file: &Path, stop: &dyn Fn() -> bool) -> Option<Vec<Unkillable>> {
    let start = Instant::now();
    loop {
        // Before the lock is tested, as it may be released meanwhile.
        let holders = holders(file);
        if fs::wait_until_free(file, Duration::ZERO, stop).ok()? {
            return Some(Vec::new());
        }
        let is_ours = |holder: &Pid| *holder == Pid::this();
        let may_kill = |holder: &Pid| kill(*holder, None) != Err(Errno::EPERM);
        if stop() || holders.iter().any(is_ours) || !holders.iter().all(may_kill) {
            return None;
        }
        if start.elapsed() > KILL_LIMIT {
            let left: Vec<Unkillable> = holders.into_iter().filter_map(Unkillable::look).collect();
            return (!left.is_empty()).then_some(left);
        }
        // First the descendants: the lock tells other runs that they exist.
        let mut others = tree::descendants_of(&holders);
        others.retain(|process| !holders.contains(process));
        match others.is_empty() || start.elapsed() > KILL_LIMIT / 2 {
            true => tree::kill_once(&holders),
            false => tree::kill_once(&others),
        }
        std::thread::sleep(ROUND);
    }
}

/// The processes that have a file open and locked.
fn holders(file: &Path) -> Vec<Pid> {
    let Ok(metadata) = fs::metadata(file) else {
        return Vec::new();
    };
    let device = metadata.dev();
    let (major, minor) = (major(device), minor(device));
    let id = format!(" {major:02x}:{minor:02x}:{} ", metadata.ino());
    let is_holder = |process: i32| {
        let descriptors = fs::list(format!("/proc/{process}/fdinfo").as_ref());
        descriptors.unwrap_or_default().iter().any(|descriptor| {
            let text = fs::read_lossy(&descriptor.path()).unwrap_or_default();
            text.lines().any(|line| is_lock(line, &id))
        })
    };
    fs::list("/proc".as_ref())
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|process| is_holder(*process))
        .map(Pid::from_raw)
        .collect()
}

/// Whether a line of `/proc/PID/fdinfo/FD` is a lock on the file with this device and inode.
fn is_lock(line: &str, id: &str) -> bool {
    line.starts_with("lock:") && line.contains(" FLOCK ") && line.contains(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_of_a_lock_is_found() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        let held = fs::hold(&file).unwrap().unwrap();
        assert_eq!(holders(&file), [Pid::this()]);
        assert_eq!(kill_holders(&file, &|| false), None, "it is this process");
        drop(held);
        assert_eq!(holders(&file), []);
        assert_eq!(kill_holders(&file, &|| false), Some(Vec::new()));
    }

    #[test]
    fn locks_on_other_files_are_not_mistaken() {
        let line = "lock:\t1: FLOCK  ADVISORY  READ 12 fe:01:123 0 EOF";
        assert!(is_lock(line, " fe:01:123 "));
        assert!(!is_lock(line, " fe:01:12 "));
        assert!(!is_lock(&line.replace("FLOCK", "POSIX"), " fe:01:123 "));
    }
}
