//! Waiting for child processes and signals.

use std::time::Duration;

use nix::poll::PollTimeout;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::WaitStatus;

use crate::process::Status;

/// How long processes that outlive their script may take to exit by themselves, as the `tee` of `exec > >(tee log)` does. The
/// wait ends as soon as none is left.
pub(super) const SETTLE: Duration = Duration::from_secs(1);

/// The maximum time between SIGTERM and SIGKILL for processes that a script left behind.
pub(super) const LEFTOVER_GRACE: Duration = Duration::from_secs(1);

/// Blocks SIGCHLD and the signals that stop a process, and makes them readable.
pub(super) fn listen() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ] {
        signals.add(signal);
    }
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// The limit for `poll`; `None` means no limit.
pub(super) fn poll_timeout(left: Option<Duration>) -> PollTimeout {
    match left {
        // Rounded up: otherwise `poll` would return at once again and again in the last millisecond.
        Some(left) => {
            PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
        }
        None => PollTimeout::NONE,
    }
}

/// The exit status of a child, if it has ended.
pub(super) fn status_of(ended: WaitStatus) -> Option<Status> {
    match ended {
        WaitStatus::Exited(_, code) => Some(Status::Exited(code)),
        WaitStatus::Signaled(_, signal, _) => Some(Status::Signaled(signal as i32)),
        _ => None,
    }
}
