//! The first process of a PID namespace: it mounts the script's view, starts the script and waits for its end. When it exits, the
//! kernel kills all other processes of the namespace.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, close, dup2_stdin, pipe2};
use serde::{Deserialize, Serialize};

use super::left_mounts::MountsBefore;
use super::mount_view::mount_view;
use super::progress::{StartProgress, Watched};
use super::spec::Spec;
use super::start::start_script;
use super::step::{Step, StepError, StepResult};
use super::sys;
use super::view::View;
use super::wait::{LEFTOVER_GRACE, SETTLE, poll_timeout, status_of};
use crate::config::Environment;
use crate::fs;
use crate::process::{Status, tree};

/// The end of a script. The first process reports to its parent either this or the step that failed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ScriptExit {
    pub(super) status: Status,
    /// Processes in the script's PID namespace that outlived it and were asked to exit.
    pub(super) left_behind: usize,
    pub(super) mounts: Vec<String>,
}

impl ScriptExit {
    /// The end of a script that left neither processes nor mounts.
    pub(super) fn of(status: Status) -> Self {
        Self {
            status,
            left_behind: 0,
            mounts: Vec::new(),
        }
    }
}

/// The first process of a PID namespace, as its parent sees it.
#[derive(Debug)]
pub(super) struct Init {
    pub(super) process: Pid,
    report: File,
}

impl Init {
    /// Forks the first process of new namespaces. It closes its copies of `ours`, the descriptors of its parent. Returns the reading end
    /// of `progress`.
    pub(super) fn start(
        spec: &Spec,
        view: &View,
        environment: &Environment,
        progress: StartProgress,
        ours: &[BorrowedFd<'_>],
    ) -> Result<(Self, Watched), StepError> {
        unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC)
            .step(Step::SeparateProcesses)?;
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).step(Step::Fork)?;
        match sys::fork().step(Step::Fork)? {
            ForkResult::Parent { child } => {
                let init = Self {
                    process: child,
                    report: File::from(reader),
                };
                Ok((init, progress.watch()))
            }
            ForkResult::Child => {
                for descriptor in ours {
                    // The owner of the descriptor is never used in this copy of the process.
                    let _ = close(descriptor.as_raw_fd());
                }
                drop(reader);
                main(spec, view, environment, progress, writer)
            }
        }
    }

    /// Readable when the first process has reported or is exiting. Its exit is complete when the kernel has killed all others.
    pub(super) fn ending(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }

    /// Its report, after it has exited. `None` if it was killed before it reported.
    pub(super) fn report(mut self) -> Option<Result<ScriptExit, StepError>> {
        let mut line = Vec::new();
        // A process that cannot be killed may keep the pipe open. The report is complete anyway.
        let _ = fcntl(&self.report, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        let _ = self.report.read_to_end(&mut line);
        serde_json::from_slice(&line).ok()
    }
}

fn main(
    spec: &Spec,
    view: &View,
    environment: &Environment,
    progress: StartProgress,
    writer: OwnedFd,
) -> ! {
    let report = run(spec, view, environment, progress);
    let line = serde_json::to_vec(&report).unwrap_or_default();
    // If the parent is gone, nothing can be done.
    let _ = File::from(writer).write_all(&line);
    sys::exit(0)
}

fn run(
    spec: &Spec,
    view: &View,
    environment: &Environment,
    progress: StartProgress,
) -> Result<ScriptExit, StepError> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).step(Step::FollowParent)?;
    let null = fs::open("/dev/null".as_ref()).step(Step::FollowParent)?;
    // Closes the socket to the agent: while a process has it open, the agent considers the child alive.
    dup2_stdin(&null).step(Step::FollowParent)?;
    progress.enter(&Step::MakeView);
    mount_view(view)?;
    let before = MountsBefore::now();
    let script = start_script(spec, environment, &progress)?;
    // From now on, only the starting process has the writing end open. When it closes, the script has been executed.
    drop(progress);
    let status = loop {
        match waitpid(None, None) {
            Ok(ended) if ended.pid() == Some(script) => {
                if let Some(status) = status_of(ended) {
                    break status;
                }
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) | Ok(_) => {}
            // This cannot happen: the script is a child of this process.
            Err(_) => break Status::Signaled(Signal::SIGKILL as i32),
        }
    };
    let left_behind = stop_leftovers(spec.grace.min(LEFTOVER_GRACE))?;
    Ok(ScriptExit {
        status,
        left_behind,
        // The mounts end with this process.
        mounts: before.since(),
    })
}

/// Waits for the processes that outlive the script, and asks those to exit that do not exit by themselves. The kernel kills the
/// rest after `grace`, when this process exits. Returns how many were asked.
fn stop_leftovers(grace: Duration) -> Result<usize, StepError> {
    if reap() == Children::None {
        return Ok(0);
    }
    // The signal was blocked before this process was forked, so that none is lost.
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGCHLD);
    let ends = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .step(Step::ListenForSignals)?;
    if wait_for_all(&ends, SETTLE) == Children::None {
        return Ok(0);
    }
    let left_behind = tree::descendants().len();
    tree::ask_to_end();
    wait_for_all(&ends, grace);
    Ok(left_behind)
}

/// Whether this process has children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Children {
    Some,
    None,
}

/// Reaps children.
fn reap() -> Children {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Children::Some,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return Children::None,
        }
    }
}

/// Waits until no child is left, at most for `limit`.
fn wait_for_all(ends: &SignalFd, limit: Duration) -> Children {
    let until = Instant::now() + limit;
    loop {
        // Read the signals before reaping: a child that exits in between causes a new one.
        while let Ok(Some(_)) = ends.read_signal() {}
        let left = until.saturating_duration_since(Instant::now());
        if reap() == Children::None {
            return Children::None;
        } else if left.is_zero() {
            return Children::Some;
        }
        // After an interrupted wait, the loop waits again.
        let _ = poll(
            &mut [PollFd::new(ends.as_fd(), PollFlags::POLLIN)],
            poll_timeout(Some(left)),
        );
    }
}
