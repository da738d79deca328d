//! The tree of processes below this one: found and ended. For a process that is a subreaper and has nothing else to wait for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::fs;

/// Between two rounds of killing: long enough for a killed process to be gone, short beside any script.
const ROUND: Duration = Duration::from_millis(1);

/// How long killed processes may take to be gone, from the end of the last one on, and how long a process that may not be killed is
/// waited for. One that waits for a disk or a server that does not answer cannot die before it does.
pub const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The children of this process, whichever of its threads started or adopted them.
#[must_use]
pub fn children() -> Vec<Pid> {
    let mut found = Vec::new();
    for thread in fs::list("/proc/self/task".as_ref()).unwrap_or_default() {
        match fs::read_lossy(&thread.path().join("children")) {
            Ok(list) => found.extend(
                list.split_whitespace()
                    .filter_map(|number| number.parse().ok())
                    .map(Pid::from_raw),
            ),
            Err(error) if error.is_not_found() && thread.path().exists() => {
                // Kernels without CONFIG_PROC_CHILDREN.
                return below(nix::unistd::getpid(), &parents(), false);
            }
            // A thread that has just ended.
            Err(_) => {}
        }
    }
    found
}

/// Every process below this one.
#[must_use]
pub fn descendants() -> Vec<Pid> {
    below(nix::unistd::getpid(), &parents(), true)
}

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

/// Every process that /proc shows, with its parent. What has ended and only waits to be heard of is none.
fn parents() -> HashMap<Pid, Pid> {
    fs::list("/proc".as_ref())
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| {
            let child: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_lossy(&entry.path().join("stat")).ok()?;
            // The name, in parentheses, may itself hold spaces and parentheses: the fields begin behind the last one.
            let (_, fields) = stat.rsplit_once(')')?;
            let mut fields = fields.split_whitespace();
            let state = fields.next()?;
            let parent: i32 = fields.next()?.parse().ok()?;
            (state != "Z").then_some((Pid::from_raw(child), Pid::from_raw(parent)))
        })
        .collect()
}

/// Asks every process below this one to end. Stopped ones are woken, or they would not hear it.
pub fn ask_to_end() {
    for process in descendants() {
        // It may be gone already.
        let _ = kill(process, Signal::SIGTERM);
        let _ = kill(process, Signal::SIGCONT);
    }
}

/// What came of killing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Killed {
    /// Processes that ended here.
    pub ended: usize,
    /// Processes that did not end in time: those that we were not allowed to kill, and those that the kernel cannot end yet.
    pub left: usize,
}

/// Kills every process below this one, and waits until none is left. Where nothing has ended for `limit` it gives up.
///
/// An orphan becomes our child when its parent dies, so killing the children again and again reaches all of them. They are
/// stopped before they are killed: a process that forks in a loop cannot get ahead of us. One that has become another user
/// (by `sudo`, say) cannot be killed by an ordinary one; it is waited for, but not for ever.
pub fn kill_all(limit: Duration, mut ended: impl FnMut(Pid, WaitStatus)) -> Killed {
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
                // ECHILD: nobody is left.
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

/// Kills those of these processes that we are allowed to kill.
fn kill_once(processes: &[Pid]) {
    for process in processes {
        let _ = kill(*process, Signal::SIGSTOP);
    }
    for process in processes {
        let _ = kill(*process, Signal::SIGKILL);
    }
}

/// Kills the children of this process but for `known`, and theirs when they become ours.
pub fn kill_orphans(known: &[Pid]) {
    let start = Instant::now();
    while start.elapsed() < KILL_LIMIT {
        let mut orphans = children();
        orphans.retain(|child| !known.contains(child));
        if orphans.is_empty() {
            return;
        }
        kill_once(&orphans);
        for orphan in orphans {
            // One at a time: the ends of the others are for those who wait for them.
            let _ = waitpid(orphan, Some(WaitPidFlag::WNOHANG));
        }
        std::thread::sleep(ROUND);
    }
}
