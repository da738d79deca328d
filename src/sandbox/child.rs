//! The child: a copy of the fork server, with one thread, as the parent of one script.
//!
//! It is a subreaper, so that every orphan of the script becomes its child and none escapes. It ends them all when the
//! script is done, when it is told to stop, when it gets SIGTERM or SIGINT, and when the agent is gone, which it sees by
//! the end of its socket.

use std::ffi::CStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::init::{Init, InitReport};
use super::left_mounts::MountsBefore;
use super::spec::{Report, Spec, Step, StepError};
use super::start::{Progress, START_LIMIT, Stage, Watched, start_script};
use super::{mounts, sys};
use crate::fs;
use crate::process::{self, Status, Unkillable, Usage, tree};

/// What is said of a script that was killed with its whole namespace.
const KILLED: Status = Status::Signaled(Signal::SIGKILL as i32);

/// How long processes that outlive their script may take to end by themselves, as the `tee` of `exec > >(tee log)` does. The
/// wait ends as soon as none is left.
pub(super) const SETTLE: Duration = Duration::from_secs(1);

/// How long processes that a script left behind may take to end when they are asked to, at the most.
pub(super) const LEFTOVER_GRACE: Duration = Duration::from_secs(1);

/// What a process below a fork server is called until it executes a program.
pub(super) const NAME: &CStr = c"sandbox-child";

/// No order is longer.
const ORDER_LIMIT: usize = 100;

/// The exit code of a child that has reported.
const DONE: u8 = 0;

/// The exit code of a child that could not report.
const FAILED: u8 = 1;

/// Runs as the child, with nothing open but its socket, and returns its exit code.
pub(super) fn main(mut socket: UnixStream) -> u8 {
    let report = match run(&mut socket) {
        Ok(report) => report,
        Err(error) => Report::Failed(error),
    };
    let mut line = serde_json::to_vec(&report).unwrap_or_default();
    line.push(b'\n');
    match socket.write_all(&line) {
        Ok(()) => DONE,
        // Nobody is there to hear it.
        Err(_) => FAILED,
    }
}

/// Names the step that failed.
pub(super) trait StepResult<T> {
    fn step(self, step: Step) -> Result<T, StepError>;
}

impl<T> StepResult<T> for io::Result<T> {
    fn step(self, step: Step) -> Result<T, StepError> {
        self.map_err(|error| StepError {
            step,
            errno: error.raw_os_error().unwrap_or(Errno::EIO as i32),
        })
    }
}

impl<T> StepResult<T> for nix::Result<T> {
    fn step(self, step: Step) -> Result<T, StepError> {
        self.map_err(|errno| StepError {
            step,
            errno: errno as i32,
        })
    }
}

impl<T> StepResult<T> for fs::Result<T> {
    fn step(self, step: Step) -> Result<T, StepError> {
        self.map_err(|error| error.source).step(step)
    }
}

fn run(socket: &mut UnixStream) -> Result<Report, StepError> {
    let (environment, orders) = process::read_orders(socket).step(Step::ReadOrders)?;
    sys::replace_environment(&environment);
    sys::inherit_no_descriptors(&process::inherited_jobserver(&environment));
    let spec: Spec = serde_json::from_slice(&orders)
        .map_err(io::Error::from)
        .step(Step::ReadOrders)?;
    // Locked until this process ends: descriptors of the standard library are not inherited by the script.
    let hold = fs::open(&spec.hold).step(Step::Hold(spec.hold.clone()))?;
    hold.lock_shared().step(Step::Hold(spec.hold.clone()))?;
    nix::sys::prctl::set_child_subreaper(true).step(Step::AdoptOrphans)?;
    umask(Mode::from_bits_truncate(spec.umask));
    let signals = listen().step(Step::ListenForSignals)?;
    let progress = Progress::new()?;
    let init = match &spec.view {
        Some(view) if view.processes => Some(Init::start(
            &spec,
            view,
            &environment,
            &progress,
            &[socket.as_fd(), signals.as_fd()],
        )?),
        Some(view) => {
            // What this process may still need it has open.
            unshare(CloneFlags::CLONE_NEWIPC).step(Step::SeparateIpc)?;
            progress.enter(&Step::MakeView);
            mounts::make(view)?;
            None
        }
        None => None,
    };
    // Where the script has a namespace to itself, its first process looks.
    let before = match (&init, &spec.rules) {
        (None, None) => MountsBefore::now(),
        // Under rules nobody can mount anything.
        _ => MountsBefore::default(),
    };
    let script = match &init {
        Some(init) => init.process,
        None => start_script(&spec, &environment, &progress)?,
    };
    let starting = progress.watch();
    let mut watch = Watch {
        socket,
        signals,
        script,
        status: None,
        settle_until: None,
        stop_at: None,
        ending: init.as_ref().map(Init::ending),
        gone_by: None,
        starting: Some(&starting),
        start_by: Instant::now() + START_LIMIT,
        is_late: false,
        left_behind: 0,
        grace: spec.grace,
    };
    watch.until_the_end();
    let left = watch.end_all();
    let (is_started, is_late) = (watch.is_started(), watch.is_late);
    let stage = starting.stage();
    let mut unkillable = match left {
        0 => Vec::new(),
        _ => Unkillable::below_this_process(init.as_ref().map(|init| init.process)),
    };
    if let (false, Some(Stage::In(step))) = (is_started, &stage) {
        for process in unkillable
            .iter_mut()
            .filter(|it| it.name.as_bytes() == NAME.to_bytes())
        {
            process.step = Some(step.to_string());
        }
    }
    let not_ended = left.saturating_sub(unkillable.len());
    // Tells a run that follows a killed one until when there were processes. Where it cannot be told, names have to do.
    let _ = hold.set_modified(SystemTime::now());
    let left_behind = watch.left_behind;
    // Without a status the script was none of our children, which cannot be.
    let status = watch.status.unwrap_or(KILLED);
    let (status, left_behind, mounts) = match init.map(Init::report) {
        None => {
            let mounts = match &spec.rules {
                None => before.since(),
                Some(_) => Vec::new(),
            };
            (status, left_behind, mounts)
        }
        Some(Some(InitReport::Ended {
            status,
            left_behind: in_namespace,
            mounts,
        })) => (status, left_behind + in_namespace, mounts),
        Some(Some(InitReport::Failed(error))) => return Err(error),
        // It was killed, and with it the script.
        Some(None) => (KILLED, left_behind, Vec::new()),
    };
    match stage {
        Some(Stage::Failed(error)) => return Err(error),
        Some(Stage::In(step)) if is_late && unkillable.is_empty() => {
            let errno = Errno::ETIMEDOUT as i32;
            return Err(StepError { step, errno });
        }
        Some(Stage::In(_)) | None => {}
    }
    Ok(Report::Ended {
        status,
        left_behind,
        not_ended,
        unkillable,
        usage: usage(),
        mounts,
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

/// A limit for `poll`; without one it waits for ever.
pub(super) fn poll_timeout(left: Option<Duration>) -> PollTimeout {
    match left {
        // Rounded up, or the last millisecond would be spent polling.
        Some(left) => {
            PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
        }
        None => PollTimeout::NONE,
    }
}

/// How a child ended, if it has.
pub(super) fn status_of(ended: WaitStatus) -> Option<Status> {
    match ended {
        WaitStatus::Exited(_, code) => Some(Status::Exited(code)),
        WaitStatus::Signaled(_, signal, _) => Some(Status::Signaled(signal as i32)),
        _ => None,
    }
}

/// Waits for the script's end, or for a reason to end it.
struct Watch<'a> {
    socket: &'a mut UnixStream,
    signals: SignalFd,
    script: Pid,
    status: Option<Status>,
    /// When processes that outlive the script must have ended by themselves.
    settle_until: Option<Instant>,
    /// When patience with processes that were asked to end is over.
    stop_at: Option<Instant>,
    /// Readable when the first process of the script's namespace is about to end.
    ending: Option<BorrowedFd<'a>>,
    /// When that must be gone. The kernel ends it after all others in the namespace, so it never is where one of them cannot be killed.
    gone_by: Option<Instant>,
    /// As long as the script has not been executed.
    starting: Option<&'a Watched>,
    /// When it must have been.
    start_by: Instant,
    /// It was not, and is stopped for that.
    is_late: bool,
    /// Processes that the script left when it ended.
    left_behind: usize,
    grace: Duration,
}

/// What a wait has found.
struct Ready {
    signaled: bool,
    /// The first process of the script's PID namespace is about to end.
    is_ending: bool,
    has_started: bool,
    /// The agent sent an order, or is gone.
    has_order: bool,
}

impl Watch<'_> {
    /// Until no process is left, or those that are left have had their time.
    fn until_the_end(&mut self) {
        let mut listen_to_parent = true;
        loop {
            if !self.reap() {
                return;
            }
            if self.status.is_some() && self.stop_at.is_none() {
                self.settle();
            }
            let left = self
                .stop_at
                .or(self.settle_until)
                .map(|at| at.saturating_duration_since(Instant::now()));
            if self.stop_at.is_some() && left == Some(Duration::ZERO) {
                return;
            }
            let gone = self
                .gone_by
                .map(|at| at.saturating_duration_since(Instant::now()));
            if gone == Some(Duration::ZERO) {
                return;
            }
            let start = self
                .starting
                .filter(|_| self.stop_at.is_none())
                .map(|_| self.start_by.saturating_duration_since(Instant::now()));
            let left = poll_timeout([left, gone, start].into_iter().flatten().min());
            let ready = self.wait(left, listen_to_parent);
            if ready.has_started {
                self.starting = None;
            } else if start == Some(Duration::ZERO) {
                self.is_late = true;
                self.stop(Duration::ZERO);
            }
            if ready.is_ending {
                self.gone_by = Some(Instant::now() + tree::KILL_LIMIT);
            }
            if ready.signaled {
                self.take_signals();
            }
            if ready.has_order {
                listen_to_parent = self.take_order();
            }
        }
    }

    /// Waits for the next thing to handle, at most for `timeout`.
    fn wait(&self, timeout: PollTimeout, listen_to_parent: bool) -> Ready {
        let ending = self.ending.filter(|_| self.gone_by.is_none());
        let starting = self.starting.map(Watched::end);
        let mut sources = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        sources.extend(ending.map(|ending| PollFd::new(ending, PollFlags::POLLIN)));
        // `poll` reports the end of a pipe without being asked to.
        sources.extend(starting.map(|end| PollFd::new(end, PollFlags::empty())));
        if listen_to_parent {
            sources.push(PollFd::new(self.socket.as_fd(), PollFlags::POLLIN));
        }
        // An interrupted wait is one more round.
        let _ = poll(&mut sources, timeout);
        let mut ready = sources.iter().map(|source| source.any().unwrap_or(false));
        let mut next = |is_asked: bool| is_asked && ready.next().unwrap_or(false);
        Ready {
            signaled: next(true),
            is_ending: next(ending.is_some()),
            has_started: next(starting.is_some()),
            has_order: next(listen_to_parent),
        }
    }

    /// The script has ended. Processes that outlive it first get time to end by themselves, then a moment to end when asked.
    fn settle(&mut self) {
        let now = Instant::now();
        if now >= *self.settle_until.get_or_insert(now + SETTLE) {
            self.left_behind = tree::descendants().len();
            self.stop(self.grace.min(LEFTOVER_GRACE));
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
        if ended.pid() == Some(self.script) {
            self.status = status_of(ended).or(self.status);
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                self.stop(self.grace);
            }
        }
    }

    /// Whether the script has been executed.
    fn is_started(&self) -> bool {
        self.starting.is_none()
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

    /// Kills what is left. Returns how many could not be killed.
    fn end_all(&mut self) -> usize {
        let limit = match self.gone_by {
            Some(at) => at.saturating_duration_since(Instant::now()),
            None => tree::KILL_LIMIT,
        };
        let killed = tree::kill_all(limit, |_, status| self.note(status));
        killed.left
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
