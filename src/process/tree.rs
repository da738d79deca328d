//! The tree of processes below this one: found and ended. For a process that is a subreaper and has nothing else to wait for.

use std::collections::HashMap;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::fs;

/// Between two rounds of killing: long enough for a killed process to be gone, short beside any script.
const ROUND: Duration = Duration::from_millis(1);

/// The children of this process.
#[must_use]
pub fn children() -> Vec<Pid> {
    let this = nix::unistd::getpid();
    let path = format!("/proc/self/task/{this}/children");
    match fs::read_lossy(path.as_ref()) {
        Ok(list) => list
            .split_whitespace()
            .filter_map(|number| number.parse().ok())
            .map(Pid::from_raw)
            .collect(),
        // Kernels without CONFIG_PROC_CHILDREN.
        Err(_) => below(this, &parents(), false),
    }
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

/// Every process that /proc shows, with its parent.
fn parents() -> HashMap<Pid, Pid> {
    fs::list("/proc".as_ref())
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| {
            let child: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_lossy(&entry.path().join("stat")).ok()?;
            // The name, in parentheses, may itself hold spaces and parentheses: the fields begin behind the last one.
            let (_, fields) = stat.rsplit_once(')')?;
            let parent: i32 = fields.split_whitespace().nth(1)?.parse().ok()?;
            Some((Pid::from_raw(child), Pid::from_raw(parent)))
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

/// Kills every process below this one, and waits until none is left. Returns how many ended here.
///
/// An orphan becomes our child when its parent dies, so killing the children again and again reaches all of them. They are
/// stopped before they are killed: a process that forks in a loop cannot get ahead of us.
pub fn kill_all(mut ended: impl FnMut(Pid, WaitStatus)) -> usize {
    let mut count = 0;
    loop {
        let children = children();
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            for child in &children {
                let _ = kill(*child, signal);
            }
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => break,
                Ok(status) => {
                    if let Some(process) = status.pid() {
                        count += 1;
                        ended(process, status);
                    }
                }
                Err(Errno::EINTR) => {}
                // ECHILD: nobody is left.
                Err(_) => return count,
            }
        }
        std::thread::sleep(ROUND);
    }
}
