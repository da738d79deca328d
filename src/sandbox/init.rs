//! The first process of a process namespace: it makes the script's view, starts the script, and takes everything in the
//! namespace with it when it ends.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, close, dup2_stdin, pipe2};
use serde::{Deserialize, Serialize};

use super::child::{LEFTOVER_GRACE, StepResult, start_script, status_of};
use super::left_mounts::MountsBefore;
use super::spec::{Spec, Step, StepError, View};
use super::{mounts, sys};
use crate::fs;
use crate::process::{Status, tree};

/// Between two looks at what is left: short beside any script.
const ROUND: Duration = Duration::from_millis(1);

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
                main(spec, view, writer)
            }
        }
    }

    /// What it told, once it has ended. `None` when it was killed before.
    pub(super) fn report(mut self) -> Option<InitReport> {
        let mut line = Vec::new();
        self.report.read_to_end(&mut line).ok()?;
        serde_json::from_slice(&line).ok()
    }
}

fn main(spec: &Spec, view: &View, writer: OwnedFd) -> ! {
    let report = match run(spec, view) {
        Ok(report) => report,
        Err(error) => InitReport::Failed(error),
    };
    let line = serde_json::to_vec(&report).unwrap_or_default();
    // Nobody outside is there to hear of a failure to speak.
    let _ = File::from(writer).write_all(&line);
    sys::exit(0)
}

fn run(spec: &Spec, view: &View) -> Result<InitReport, StepError> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).step(Step::FollowParent)?;
    let nothing = fs::open("/dev/null".as_ref()).step(Step::FollowParent)?;
    // The orders' socket: as long as it is open anywhere, the agent takes us for alive.
    dup2_stdin(&nothing).step(Step::FollowParent)?;
    mounts::make(view)?;
    let before = MountsBefore::now();
    let script = start_script(spec)?;
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
    let left_behind = tree::descendants().len();
    if left_behind > 0 {
        let_go(spec.grace.min(LEFTOVER_GRACE));
    }
    Ok(InitReport::Ended {
        status,
        left_behind,
        // They end with this process.
        mounts: before.since(),
    })
}

/// Asks what is left to end, and gives it a moment. With this process the kernel ends everything else.
fn let_go(moment: Duration) {
    tree::ask_to_end();
    let start = Instant::now();
    while start.elapsed() < moment {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => std::thread::sleep(ROUND),
            // Nobody is left.
            Err(Errno::ECHILD) => return,
            Ok(_) | Err(_) => {}
        }
    }
}
