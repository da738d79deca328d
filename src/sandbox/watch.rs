//! The child's main loop: waits for the script's end, or for a reason to stop it.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::progress::{NAME, Watched};
use super::wait::{LEFTOVER_GRACE, SETTLE, poll_timeout, status_of};
use crate::process::{self, RunningProcess, Status, tree};

/// The size limit of an order in bytes.
const ORDER_LIMIT: usize = 100;

/// Watches one script.
pub(super) struct Watch<'a> {
    socket: &'a mut UnixStream,
    /// Whether the agent can still send orders.
    is_open: bool,
    signals: SignalFd,
    script: Pid,
    status: Option<Status>,
    /// When processes that outlive the script are asked to exit.
    settle_until: Option<Instant>,
    /// When processes that were asked to exit are killed.
    stop_at: Option<Instant>,
    /// Readable when the first process of the script's PID namespace is about to exit.
    ending: Option<BorrowedFd<'a>>,
    /// When that process must have exited. The kernel ends it after all others of the namespace, so never if one of them cannot be killed.
    gone_by: Option<Instant>,
    /// Until the script has been executed.
    starting: Option<&'a Watched>,
    limit: StartLimit,
    /// When it must have been executed, or must have entered another step.
    start_by: Instant,
    is_late: bool,
    left_behind: usize,
    /// The script's processes when it was found to hang.
    processes: Vec<RunningProcess>,
    grace: Duration,
    /// How long to wait for killed processes.
    kill_limit: Duration,
}

/// How long the start of a script may take, or a process that takes the place of a script.
#[derive(Debug, Clone, Copy)]
pub(super) enum StartLimit {
    /// For all its steps.
    Whole(Duration),
    /// For each step. A step may take twice as long before the limit is noticed.
    EachStep(Duration),
}

impl StartLimit {
    fn duration(self) -> Duration {
        match self {
            Self::Whole(limit) | Self::EachStep(limit) => limit,
        }
    }
}

/// The end of a script and its processes, as the child has observed it.
pub(super) struct Observed {
    /// The exit status of the watched process.
    pub(super) status: Option<Status>,
    /// The number of processes that outlived the script and were asked to exit.
    pub(super) left_behind: usize,
    /// The number of processes that could not be killed.
    pub(super) not_killed: usize,
    /// Whether the script was executed.
    pub(super) is_started: bool,
    /// Whether it was stopped because it was not executed in time.
    pub(super) is_late: bool,
    /// Its processes when it exceeded a time limit.
    pub(super) processes: Vec<RunningProcess>,
}

/// The events that a wait ended with.
struct Ready {
    has_signal: bool,
    /// The first process of the script's PID namespace is about to exit.
    is_ending: bool,
    has_started: bool,
    /// The agent sent an order, or is gone.
    has_order: bool,
}

impl<'a> Watch<'a> {
    /// Watches `script`, the first process of a PID namespace or the process that becomes the script. `ending` becomes readable when
    /// the former is about to exit. The start may take as long as its `limit` says.
    pub(super) fn new(
        socket: &'a mut UnixStream,
        signals: SignalFd,
        script: Pid,
        ending: Option<BorrowedFd<'a>>,
        (starting, limit): (&'a Watched, StartLimit),
        grace: Duration,
    ) -> Self {
        Self {
            socket,
            is_open: true,
            signals,
            script,
            status: None,
            settle_until: None,
            stop_at: None,
            ending,
            gone_by: None,
            starting: Some(starting),
            limit,
            start_by: Instant::now() + limit.duration(),
            is_late: false,
            left_behind: 0,
            processes: Vec::new(),
            grace,
            kill_limit: tree::KILL_LIMIT,
        }
    }

    /// Sets how long to wait for killed processes, where it does not matter which of them cannot be killed.
    pub(super) fn with_kill_limit(mut self, limit: Duration) -> Self {
        self.kill_limit = limit;
        self
    }

    /// Waits until no process is left, and kills those that do not exit in time.
    pub(super) fn until_the_end(mut self) -> Observed {
        while self.reap() && !self.is_over() {
            self.wait_once();
        }
        let not_killed = self.kill_all();
        Observed {
            status: self.status,
            left_behind: self.left_behind,
            not_killed,
            is_started: self.starting.is_none(),
            is_late: self.is_late,
            processes: self.processes,
        }
    }

    /// Whether the remaining processes have had their time.
    fn is_over(&mut self) -> bool {
        if self.status.is_some() && self.stop_at.is_none() {
            self.settle();
        }
        let now = Instant::now();
        [self.stop_at, self.gone_by]
            .iter()
            .flatten()
            .any(|at| *at <= now)
    }

    /// Waits for the next event and handles it.
    fn wait_once(&mut self) {
        let start_by = self
            .starting
            .filter(|_| self.stop_at.is_none())
            .map(|_| self.start_by);
        let until = [self.stop_at.or(self.settle_until), self.gone_by, start_by];
        let now = Instant::now();
        let left = until
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.saturating_duration_since(now));
        let ready = self.wait(poll_timeout(left));
        if ready.has_started {
            self.starting = None;
        } else if start_by.is_some_and(|at| at <= now) {
            self.handle_late_start();
        }
        if ready.is_ending {
            self.gone_by = Some(Instant::now() + tree::KILL_LIMIT);
        }
        if ready.has_signal {
            self.handle_signals();
        }
        if ready.has_order {
            self.handle_order();
        }
    }

    /// Stops a process whose start takes too long.
    fn handle_late_start(&mut self) {
        match self.limit {
            StartLimit::EachStep(limit) if self.starting.is_some_and(Watched::has_moved) => {
                self.start_by = Instant::now() + limit;
            }
            StartLimit::EachStep(_) | StartLimit::Whole(_) => {
                self.is_late = true;
                self.stop(Duration::ZERO);
            }
        }
    }

    /// Waits for an event, at most for `timeout`.
    fn wait(&self, timeout: PollTimeout) -> Ready {
        let ending = self.ending.filter(|_| self.gone_by.is_none());
        let starting = self.starting.map(Watched::end);
        let mut sources = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        sources.extend(ending.map(|ending| PollFd::new(ending, PollFlags::POLLIN)));
        // `poll` always reports the end of a pipe.
        sources.extend(starting.map(|end| PollFd::new(end, PollFlags::empty())));
        if self.is_open {
            sources.push(PollFd::new(self.socket.as_fd(), PollFlags::POLLIN));
        }
        // After an interrupted wait the caller waits again.
        let _ = poll(&mut sources, timeout);
        let mut ready = sources.iter().map(|source| source.any().unwrap_or(false));
        let mut next = |is_polled: bool| is_polled && ready.next().unwrap_or(false);
        Ready {
            has_signal: next(true),
            is_ending: next(ending.is_some()),
            has_started: next(starting.is_some()),
            has_order: next(self.is_open),
        }
    }

    /// After the script's end, gives its remaining processes time to exit by themselves, and then asks them to.
    fn settle(&mut self) {
        let now = Instant::now();
        if now >= *self.settle_until.get_or_insert(now + SETTLE) {
            self.left_behind = tree::descendants().len();
            self.stop(self.grace.min(LEFTOVER_GRACE));
        }
    }

    /// Reaps children. `false` when none is left.
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
        if ended.pid() == Some(self.script) {
            self.status = status_of(ended).or(self.status);
        }
    }

    fn handle_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                self.stop(self.grace);
            }
        }
    }

    /// Reads an order: `stop MILLISECONDS`, or `hung MILLISECONDS` to list the processes before they are stopped. The end of the socket means
    /// that the agent is gone: then the processes get the grace time of the spec.
    fn handle_order(&mut self) {
        match read_line(self.socket) {
            Ok(line) => {
                let line = String::from_utf8_lossy(&line);
                let (order, grace) = line.split_once(' ').unwrap_or_default();
                if order == "hung" {
                    let hidden = NAME.to_str().unwrap_or_default();
                    self.processes = process::running_below_this_process(hidden);
                }
                let grace = grace.parse().ok();
                self.stop(grace.map_or(self.grace, Duration::from_millis));
            }
            Err(_) => {
                self.is_open = false;
                self.stop(self.grace);
            }
        }
    }

    fn stop(&mut self, grace: Duration) {
        if self.stop_at.is_none() {
            tree::ask_to_end();
            self.stop_at = Some(Instant::now() + grace);
        }
    }

    /// Kills the remaining processes. Returns how many could not be killed.
    fn kill_all(&mut self) -> usize {
        let limit = match self.gone_by {
            Some(at) => at.saturating_duration_since(Instant::now()),
            None => self.kill_limit,
        };
        tree::kill_all(limit, |_, status| self.note(status)).left
    }
}

fn read_line(socket: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        socket.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => return Ok(line),
            _ if line.len() == ORDER_LIMIT => return Err(io::ErrorKind::InvalidData.into()),
            [byte] => line.push(byte),
        }
    }
}
