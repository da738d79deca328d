//! Finds and kills the descendants of this process. This process must be a subreaper, that is, it
//! adopts the orphans among its descendants.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::fs;

/// The pause between two rounds of killing. It is long enough for a killed process to disappear.
const ROUND: Duration = Duration::from_millis(1);

/// How long to wait for killed processes while none of them ends. A process remains longer if it
/// waits in the kernel for a disk or a server, or if this user may not kill it.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The children of all threads of this process.
#[must_use]
pub(crate) fn children() -> Vec<Pid> {
    let mut found = Vec::new();
    for thread in fs::list("/proc/self/task".as_ref()).unwrap_or_default() {
        match fs::read_lossy(&thread.path().join("children")) {
            Ok(list) => found.extend(
                list.split_whitespace()
                    .filter_map(|number| number.parse().ok())
                    .map(Pid::from_raw),
            ),
            Err(error) if error.is_not_found() && thread.path().exists() => {
                // This kernel was built without CONFIG_PROC_CHILDREN.
                return below(nix::unistd::getpid(), &parents(), false);
            }
            // The thread has ended meanwhile.
            Err(_) => {}
        }
    }
    found
}

/// All descendants of this process.
#[must_use]
pub(crate) fn descendants() -> Vec<Pid> {
    descendants_of(&[nix::unistd::getpid()])
}

/// All descendants of these processes.
#[must_use]
pub(super) fn descendants_of(processes: &[Pid]) -> Vec<Pid> {
    let parents = parents();
    let below = |process: &Pid| below(*process, &parents, true);
    processes.iter().flat_map(below).collect()
}

/// The children of `root` or, if `all` is true, all its descendants.
fn below(root: Pid, parents: &HashMap<Pid, Pid>, all: bool) -> Vec<Pid> {
    let mut found: Vec<Pid> = Vec::new();
    let mut level = vec![root];
    while !level.is_empty() {
        level = parents
            .iter()
            .filter(|(_, parent)| level.contains(parent))
            .map(|(child, _)| *child)
            .filter(|child| !found.contains(child))
            .collect();
        found.extend(&level);
        if !all {
            break;
        }
    }
    found
}

/// Maps every process in `/proc`, except zombies, to its parent.
fn parents() -> HashMap<Pid, Pid> {
    fs::list("/proc".as_ref())
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| {
            let child: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_lossy(&entry.path().join("stat")).ok()?;
            // The program name in parentheses may itself contain spaces and parentheses, so the
            // other fields begin after the last parenthesis.
            let (_, fields) = stat.rsplit_once(')')?;
            let mut fields = fields.split_whitespace();
            let state = fields.next()?;
            let parent: i32 = fields.next()?.parse().ok()?;
            (state != "Z").then_some((Pid::from_raw(child), Pid::from_raw(parent)))
        })
        .collect()
}

/// Sends SIGTERM to all descendants, and SIGCONT so that stopped ones can handle it.
pub(crate) fn ask_to_end() {
    for process in descendants() {
        // The process may have ended already.
        let _ = kill(process, Signal::SIGTERM);
        let _ = kill(process, Signal::SIGCONT);
    }
}

/// The result of [`kill_all`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Killed {
    /// The number of processes that have ended.
    pub ended: usize,
    /// The number of processes that have not ended in time. This user may not kill them, or they
    /// wait in the kernel.
    pub left: usize,
}

/// Kills all descendants and waits until none is left. Gives up if no process has ended for
/// `limit`.
///
/// Each round kills the children of this process. Their orphans become children, so repeated rounds
/// reach all descendants. SIGSTOP is sent before SIGKILL, so that a process that forks in a loop
/// cannot be faster than the rounds. An ordinary user cannot kill processes of another user
/// (`sudo`).
pub(crate) fn kill_all(limit: Duration, mut ended: impl FnMut(Pid, WaitStatus)) -> Killed {
    let mut killed = Killed::default();
    let mut last_end = Instant::now();
    loop {
        let children = children();
        kill_once(&children);
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => break,
                Ok(status) => {
                    if let Some(process) = status.pid() {
                        killed.ended += 1;
                        last_end = Instant::now();
                        ended(process, status);
                    }
                }
                Err(Errno::EINTR) => {}
                // ECHILD: no child is left.
                Err(_) => return killed,
            }
        }
        if last_end.elapsed() > limit {
            killed.left = children.len();
            return killed;
        }
        std::thread::sleep(ROUND);
    }
}

/// Sends SIGKILL to these processes. Processes that this user may not kill are skipped.
pub(super) fn kill_once(processes: &[Pid]) {
    for process in processes {
        let _ = kill(*process, Signal::SIGSTOP);
    }
    for process in processes {
        let _ = kill(*process, Signal::SIGKILL);
    }
}

/// Kills the children of this process that are not in `known`, and the orphans that they leave.
pub(crate) fn kill_orphans(known: &[Pid]) {
    let start = Instant::now();
    while start.elapsed() < KILL_LIMIT {
        let mut orphans = children();
        orphans.retain(|child| !known.contains(child));
        if orphans.is_empty() {
            return;
        }
        kill_once(&orphans);
        for orphan in orphans {
            // Reap only this child, because other tasks wait for the children in `known`.
            let _ = waitpid(orphan, Some(WaitPidFlag::WNOHANG));
        }
        std::thread::sleep(ROUND);
    }
}
