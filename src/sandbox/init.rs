//! The first process of a process namespace: it makes the script's view, starts the script, and takes everything in the
//! namespace with it when it ends.

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

use super::child::{LEFTOVER_GRACE, SETTLE, StepResult, poll_timeout, status_of};
use super::left_mounts::MountsBefore;
use super::spec::{Spec, Step, StepError, View};
use super::start::{Progress, start_script};
use super::{mounts, sys};
use crate::config::Environment;
use crate::fs;
use crate::process::{Status, tree};

/// What the first process of a namespace tells the one outside.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum InitReport {
    Ended {
        status: Status,
        left_behind: usize,
        #[serde(default)]
        mounts: Vec<String>,
    },
    Failed(StepError),
}

/// The first process of a namespace, seen from outside.
#[derive(Debug)]
pub(super) struct Init {
    pub process: Pid,
    report: File,
}

impl Init {
    /// Forks the first process of new namespaces. It closes `ours`, which it has no use for.
    pub(super) fn start(
        spec: &Spec,
        view: &View,
        environment: &Environment,
        progress: &Progress,
        ours: &[BorrowedFd<'_>],
    ) -> Result<Self, StepError> {
        unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC)
            .step(Step::SeparateProcesses)?;
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).step(Step::Fork)?;
        match sys::fork().step(Step::Fork)? {
            ForkResult::Parent { child } => Ok(Self {
                process: child,
                report: File::from(reader),
            }),
            ForkResult::Child => {
                for descriptor in ours {
                    // In this copy of the process nobody uses it any more.
                    let _ = close(descriptor.as_raw_fd());
                }
                drop(reader);
                main(spec, view, environment, progress, writer)
            }
        }
    }

    /// Readable as soon as the first process has reported or is ending. The kernel ends it when it has ended all others.
    pub(super) fn ending(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }

    /// What it told, once it has ended. `None` when it was killed before.
    pub(super) fn report(mut self) -> Option<InitReport> {
        let mut line = Vec::new();
        // A process that cannot be killed may keep the pipe open. What it holds is the whole report.
        let _ = fcntl(&self.report, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        let _ = self.report.read_to_end(&mut line);
        serde_json::from_slice(&line).ok()
    }
}

fn main(
    spec: &Spec,
    view: &View,
    environment: &Environment,
    progress: &Progress,
    writer: OwnedFd,
) -> ! {
    let report = match run(spec, view, environment, progress) {
        Ok(report) => report,
        Err(error) => InitReport::Failed(error),
    };
    let line = serde_json::to_vec(&report).unwrap_or_default();
    // Nobody outside is there to hear of a failure to speak.
    let _ = File::from(writer).write_all(&line);
    sys::exit(0)
}

fn run(
    spec: &Spec,
    view: &View,
    environment: &Environment,
    progress: &Progress,
) -> Result<InitReport, StepError> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).step(Step::FollowParent)?;
    let nothing = fs::open("/dev/null".as_ref()).step(Step::FollowParent)?;
    // The orders' socket: as long as it is open anywhere, the agent takes us for alive.
    dup2_stdin(&nothing).step(Step::FollowParent)?;
    progress.enter(&Step::MakeView);
    mounts::make(view)?;
    let before = MountsBefore::now();
    let script = start_script(spec, environment, progress)?;
    let status = loop {
        match waitpid(None, None) {
            Ok(ended) if ended.pid() == Some(script) => {
                if let Some(status) = status_of(ended) {
                    break status;
                }
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) | Ok(_) => {}
            // It was our child, so this cannot be.
            Err(_) => break Status::Signaled(Signal::SIGKILL as i32),
        }
    };
    let left_behind = end_leftovers(spec.grace.min(LEFTOVER_GRACE))?;
    Ok(InitReport::Ended {
        status,
        left_behind,
        // They end with this process.
        mounts: before.since(),
    })
}

/// Waits for the processes that outlive the script. Those that do not end by themselves are asked to, and get a moment for it:
/// with this process the kernel ends everything else. Returns how many were asked.
fn end_leftovers(moment: Duration) -> Result<usize, StepError> {
    if reap() == Children::None {
        return Ok(0);
    }
    // Blocked since before this process was forked, so that no end of a child goes unnoticed.
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGCHLD);
    let ends = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .step(Step::ListenForSignals)?;
    if wait_for_all(&ends, SETTLE) == Children::None {
        return Ok(0);
    }
    let left_behind = tree::descendants().len();
    tree::ask_to_end();
    wait_for_all(&ends, moment);
    Ok(left_behind)
}

/// Whether this process has any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Children {
    Some,
    None,
}

/// Takes the ends of children.
fn reap() -> Children {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Children::Some,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return Children::None,
        }
    }
}

/// Waits until no child is left, for as long as `limit` at the most.
fn wait_for_all(ends: &SignalFd, limit: Duration) -> Children {
    let until = Instant::now() + limit;
    loop {
        // Taken before the children are looked at: the end of one in between is a new signal.
        while let Ok(Some(_)) = ends.read_signal() {}
        let left = until.saturating_duration_since(Instant::now());
        if reap() == Children::None {
            return Children::None;
        } else if left.is_zero() {
            return Children::Some;
        }
        // An interrupted wait is one more round.
        let _ = poll(
            &mut [PollFd::new(ends.as_fd(), PollFlags::POLLIN)],
            poll_timeout(Some(left)),
        );
    }
}
