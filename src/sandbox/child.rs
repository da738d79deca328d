//! The child: this program started once more, with one thread, as the parent of one script.
//!
//! It is a subreaper, so that every orphan of the script becomes its child and none escapes. It ends them all when the
//! script is done, when it is told to stop, when it gets SIGTERM or SIGINT, and when its own parent is gone, which it sees by
//! the end of the socket that is its standard input.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::spec::{Report, Spec, StepError};
use crate::process::{Status, Usage, tree};

/// The argument that makes this program a child.
pub const ARGUMENT: &str = "__sandbox-child";

/// No order is longer.
const ORDER_LIMIT: usize = 1 << 20;

/// Runs as the child. Called before anything else, while there is one thread and nothing is open.
#[must_use]
pub fn main() -> ExitCode {
    let Ok(socket) = io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    let mut socket = UnixStream::from(socket);
    let report = match run(&mut socket) {
        Ok(report) => report,
        Err(error) => Report::Failed(error),
    };
    let line = serde_json::to_vec(&report).unwrap_or_default();
    match socket.write_all(&line) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody is there to hear it.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Names the step that failed.
trait Step<T> {
    fn step(self, step: &str) -> Result<T, StepError>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: &str) -> Result<T, StepError> {
        self.map_err(|error| StepError {
            step: step.to_owned(),
            errno: error.raw_os_error().unwrap_or(Errno::EIO as i32),
        })
    }
}

impl<T> Step<T> for nix::Result<T> {
    fn step(self, step: &str) -> Result<T, StepError> {
        self.map_err(io::Error::from).step(step)
    }
}

fn run(socket: &mut UnixStream) -> Result<Report, StepError> {
    let orders = read_line(socket).step("read the orders of the sandbox child")?;
    let spec: Spec = serde_json::from_slice(&orders)
        .map_err(io::Error::from)
        .step("understand the orders of the sandbox child")?;
    nix::sys::prctl::set_child_subreaper(true).step("become the parent of orphans")?;
    let signals = listen().step("listen for signals")?;
    umask(Mode::from_bits_truncate(spec.umask));
    let script = start(&spec).step(&format!("start `{}`", spec.program))?;
    let mut watch = Watch {
        socket,
        signals,
        script,
        status: None,
        stop_at: None,
        grace: spec.grace,
    };
    watch.until_the_end();
    let left_behind = watch.end_all();
    Ok(Report::Ended {
        // Without a status the script was none of our children, which cannot be.
        status: watch
            .status
            .unwrap_or(Status::Signaled(Signal::SIGKILL as i32)),
        left_behind,
        usage: usage(),
    })
}

fn read_line(socket: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        socket.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return Ok(line);
        }
        line.push(byte[0]);
        if line.len() > ORDER_LIMIT {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// Makes the signals that matter readable. They are blocked for that; the script's start unblocks them for the script.
fn listen() -> nix::Result<SignalFd> {
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

#[expect(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "one of the two places that start processes; the script must not inherit our blocked signals"
)]
fn start(spec: &Spec) -> io::Result<Pid> {
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.arguments)
        .current_dir(&spec.directory)
        .stdin(Stdio::null())
        .process_group(0);
    // SAFETY: the closure makes one system call, which is safe between fork and exec, and touches no memory but its own.
    unsafe {
        command.pre_exec(|| SigSet::all().thread_unblock().map_err(io::Error::from));
    }
    let child = command.spawn()?;
    Ok(Pid::from_raw(child.id().cast_signed()))
}

/// Waits for the script's end, or for a reason to end it.
struct Watch<'a> {
    socket: &'a mut UnixStream,
    signals: SignalFd,
    script: Pid,
    status: Option<Status>,
    /// When patience with processes that were asked to end is over.
    stop_at: Option<Instant>,
    grace: Duration,
}

impl Watch<'_> {
    fn until_the_end(&mut self) {
        let mut listen_to_parent = true;
        loop {
            if !self.reap() || (self.status.is_some() && self.stop_at.is_none()) {
                return;
            }
            let left = match self
                .stop_at
                .map(|at| at.saturating_duration_since(Instant::now()))
            {
                Some(Duration::ZERO) => return,
                Some(left) => PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
                None => PollTimeout::NONE,
            };
            let (signaled, spoken_to) = {
                let mut sources = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
                if listen_to_parent {
                    sources.push(PollFd::new(self.socket.as_fd(), PollFlags::POLLIN));
                }
                // An interrupted wait is one more round.
                let _ = poll(&mut sources, left);
                let is_ready = |index: usize| {
                    sources
                        .get(index)
                        .is_some_and(|source| source.any().unwrap_or(false))
                };
                (is_ready(0), is_ready(1))
            };
            if signaled {
                self.take_signals();
            }
            if spoken_to {
                listen_to_parent = self.take_order();
            }
        }
    }

    /// Takes the ends of children. `false` when there is no child any more.
    fn reap(&mut self) -> bool {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return true,
                Ok(status) => self.note(status),
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn note(&mut self, ended: WaitStatus) {
        if ended.pid() != Some(self.script) {
            return;
        }
        match ended {
            WaitStatus::Exited(_, code) => self.status = Some(Status::Exited(code)),
            WaitStatus::Signaled(_, signal, _) => {
                self.status = Some(Status::Signaled(signal as i32));
            }
            _ => {}
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                self.stop(self.grace);
            }
        }
    }

    /// Reads an order: `stop MILLISECONDS`. The end of the socket means that the agent is gone; then nobody waits, and the
    /// processes get the grace that the spec gives. `false` when nothing more will come.
    fn take_order(&mut self) -> bool {
        match read_line(self.socket) {
            Ok(line) => {
                let grace = String::from_utf8_lossy(&line)
                    .strip_prefix("stop ")
                    .and_then(|number| number.parse().ok())
                    .map_or(self.grace, Duration::from_millis);
                self.stop(grace);
                true
            }
            Err(_) => {
                self.stop(self.grace);
                false
            }
        }
    }

    fn stop(&mut self, grace: Duration) {
        if self.stop_at.is_none() {
            tree::ask_to_end();
            self.stop_at = Some(Instant::now() + grace);
        }
    }

    /// Kills what is left. Returns how many processes the script had left behind.
    fn end_all(&mut self) -> usize {
        let mut scripts = 0;
        let ended = tree::kill_all(|process, status| {
            if process == self.script {
                scripts += 1;
                self.note(status);
            }
        });
        ended - scripts
    }
}

fn usage() -> Usage {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else {
        return Usage::default();
    };
    let duration = |time: TimeVal| Duration::from_micros(time.num_microseconds().unsigned_abs());
    Usage {
        user: duration(usage.user_time()),
        system: duration(usage.system_time()),
        // Linux counts in KiB.
        max_resident: usage.max_rss().unsigned_abs() * 1024,
    }
}
