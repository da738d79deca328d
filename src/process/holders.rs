//! Finds and kills the processes that hold a lock (`flock`) on a file. A run that was killed may
//! leave such processes.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::Unkillable;
use super::tree::{self, KILL_LIMIT};
use crate::fs::{self, Glimpse};

/// The pause between two rounds of killing.
const ROUND: Duration = Duration::from_millis(10);

/// Describes a process that holds a lock on a file and is not named `name`.
pub(crate) fn other_holder(file: &Path, name: &str) -> Option<String> {
    let mut holders = holders(file).into_iter().filter_map(Unkillable::look);
    let other = holders.find(|holder| holder.name != name)?;
    Some(description(&other))
}

/// Describes a process that holds a lock on a file. Returns `None` if `text` already contains the
/// PID of such a process.
pub(crate) fn holder_except(file: &Path, text: &str) -> Option<String> {
    let holders: Vec<_> = holders(file)
        .into_iter()
        .filter_map(Unkillable::look)
        .collect();
    let is_known = |pid: i32| {
        let mut words = text.split(|character: char| !character.is_ascii_digit());
        words.any(|word| word == pid.to_string())
    };
    match holders.iter().any(|holder| is_known(holder.process)) {
        true => None,
        false => holders.first().map(description),
    }
}

fn description(holder: &Unkillable) -> String {
    format!("process {} (`{}`)", holder.process, holder.name)
}

/// Kills the processes named `name` that hold a lock on a file, and their descendants. Waits until
/// the lock is free, at most ten seconds or until `stop` returns `true`.
///
/// Returns the killed processes that have not ended, because they wait in the kernel; they execute
/// no further instruction of their program. Returns `None` if the lock is held by a process with
/// another name, by a process that is invisible here, or by a process that this user may not kill.
pub(crate) fn kill_holders(
    file: &Path,
    name: &str,
    stop: &dyn Fn() -> bool,
) -> Option<Vec<Unkillable>> {
    let start = Instant::now();
    loop {
        // List the holders before testing the lock, because the lock may be released in between.
        let holders = holders(file);
        if fs::wait_until_free(file, Duration::ZERO, stop).ok()? {
            return Some(Vec::new());
        }
        let is_spared = |holder: &Pid| {
            has_other_name(*holder, name) || kill(*holder, None) == Err(Errno::EPERM)
        };
        if stop() || holders.iter().any(is_spared) {
            return None;
        }
        if start.elapsed() > KILL_LIMIT {
            let left: Vec<Unkillable> = holders.into_iter().filter_map(Unkillable::look).collect();
            return (!left.is_empty()).then_some(left);
        }
        // Kill the descendants first: as long as the lock is held, other runs know that there are
        // processes left.
        let mut others = tree::descendants_of(&holders);
        others.retain(|process| !holders.contains(process));
        match others.is_empty() || start.elapsed() > KILL_LIMIT / 2 {
            true => tree::kill_once(&holders),
            false => tree::kill_once(&others),
        }
        std::thread::sleep(ROUND);
    }
}

/// Whether a process exists and is not named `name`.
fn has_other_name(process: Pid, name: &str) -> bool {
    Unkillable::look(process).is_some_and(|found| found.name != name)
}

/// The processes that have a file open and locked. Only visible processes are found.
fn holders(file: &Path) -> Vec<Pid> {
    let Ok(Some(locked)) = Glimpse::behind(file) else {
        return Vec::new();
    };
    let is_holder = |process: i32| {
        let descriptors = fs::list(format!("/proc/{process}/fdinfo").as_ref());
        descriptors.unwrap_or_default().iter().any(|descriptor| {
            let text = fs::read_lossy(&descriptor.path()).unwrap_or_default();
            let opened = Path::new("/proc")
                .join(process.to_string())
                .join("fd")
                .join(descriptor.file_name());
            // Compare only the inode: on Btrfs and overlays, the device of the lock differs from
            // the device of the file.
            text.lines().any(|line| is_lock(line, locked.id.1))
                && Glimpse::behind(&opened).is_ok_and(|it| it.is_some_and(|it| it.id == locked.id))
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

/// Whether a line of `/proc/PID/fdinfo/FD` describes a lock on a file with this inode.
fn is_lock(line: &str, inode: u64) -> bool {
    line.starts_with("lock:") && line.contains(" FLOCK ") && line.contains(&format!(":{inode} "))
}

/// Starts a process with this name that holds a lock on a file until it is killed.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a process that no agent started")]
pub(crate) fn start_holder(name: &str, file: &Path) -> std::process::Child {
    use std::os::unix::process::CommandExt;
    let programs = tempfile::tempdir().unwrap();
    let program = programs.path().join(name);
    fs::symlink("/bin/sleep".as_ref(), &program).unwrap();
    let locked = fs::open(file).unwrap();
    locked.lock_shared().unwrap();
    let mut command = std::process::Command::new(program);
    // The kernel names the process after the link. The program itself may require the name `sleep`
    // in its first argument.
    command.arg0("sleep").arg("1000").stdin(locked);
    command.spawn().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_holders_with_the_name_are_killed() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        let held = fs::try_lock_file(&file).unwrap().unwrap();
        assert_eq!(holders(&file), [Pid::this()]);
        let own = Unkillable::look(Pid::this()).unwrap().name;
        let described = format!("process {} (`{own}`)", Pid::this());
        assert_eq!(
            other_holder(&file, "sandbox-child"),
            Some(described.clone())
        );
        assert_eq!(other_holder(&file, &own), None);
        assert_eq!(
            holder_except(&file, "process 0 on host `b`"),
            Some(described)
        );
        assert_eq!(
            holder_except(&file, &format!("process {} on host `b`", Pid::this())),
            None
        );
        assert_eq!(kill_holders(&file, "sandbox-child", &|| false), None);
        drop(held);
        assert_eq!(holders(&file), []);
        assert_eq!(other_holder(&file, "sandbox-child"), None);
        let killed = kill_holders(&file, "sandbox-child", &|| false);
        assert_eq!(killed, Some(Vec::new()));
    }

    #[test]
    fn locks_on_other_files_are_not_mistaken() {
        let line = "lock:\t1: FLOCK  ADVISORY  READ 12 fe:01:123 0 EOF";
        assert!(is_lock(line, 123));
        assert!(!is_lock(line, 12));
        assert!(!is_lock(line, 23));
        assert!(!is_lock(&line.replace("FLOCK", "POSIX"), 123));
    }
}
