//! The child: a fork of the fork server, with one thread, which is the parent of one script.
//!
//! It is a subreaper: orphans of the script become its children, so that no process escapes. It stops all of them when the script
//! has ended, on an order, on SIGTERM or SIGINT, and when the socket closes, which means that the agent is gone.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;

use super::init::{Init, ScriptExit};
use super::left_mounts::MountsBefore;
use super::mount_view::mount_view;
use super::progress::{NAME, Stage, StartProgress, Watched};
use super::question::{Question, start_answer};
use super::spec::{Orders, Report, ScriptEnd, Spec};
use super::start::start_script;
use super::step::{Step, StepError, StepResult};
use super::sys;
use super::wait::listen;
use super::watch::{Observed, StartLimit, Watch};
use crate::config::Environment;
use crate::fs;
use crate::process::{self, OutputSummary, Status, Unkillable, Usage};

/// The status of a script that was killed with its PID namespace.
const KILLED: Status = Status::Signaled(Signal::SIGKILL as i32);

/// The exit code of a child that has reported.
const DONE: u8 = 0;

/// The exit code of a child that could not report.
const FAILED: u8 = 1;

/// The time limit for the start of a script, with its mounts and rules. It usually takes milliseconds.
const START_LIMIT: StartLimit = StartLimit::Whole(Duration::from_secs(60));

/// How long to wait for the end of a killed process that has examined whether a file system responds. Often, such a process cannot be
/// killed.
const NO_RESPONSE: Duration = Duration::from_secs(1);

/// Runs as the child, with no other descriptor open than its socket, and returns its exit code.
pub(super) fn main(mut socket: UnixStream) -> u8 {
    let report = match run(&mut socket) {
        Ok(report) => report,
        Err(error) => Report::Failed(error),
    };
    let mut line = serde_json::to_vec(&report).unwrap_or_default();
    line.push(b'\n');
    match socket.write_all(&line) {
        Ok(()) => DONE,
        // The agent is gone.
        Err(_) => FAILED,
    }
}

fn run(socket: &mut UnixStream) -> Result<Report, StepError> {
    let (orders, environment) = read_orders(socket)?;
    match orders {
        Orders::Run(spec) => run_script(&spec, &environment, socket),
        Orders::Answer(question, limit) => answer(&question, limit, socket),
    }
}

fn run_script(
    spec: &Spec,
    environment: &Environment,
    socket: &mut UnixStream,
) -> Result<Report, StepError> {
    let lock = lock_processes(spec)?;
    nix::sys::prctl::set_child_subreaper(true).step(Step::AdoptOrphans)?;
    umask(Mode::from_bits_truncate(spec.umask));
    let signals = listen().step(Step::ListenForSignals)?;
    let progress = StartProgress::new()?;
    let ours = [socket.as_fd(), signals.as_fd()];
    let (started, starting) = Started::new(spec, environment, progress, &ours)?;
    let ending = started.init.as_ref().map(Init::ending);
    let script = started.process;
    let limited = (&starting, START_LIMIT);
    let watch = Watch::new(socket, signals, script, ending, limited, spec.grace);
    let watched = WatchEnd::of(watch, &starting, started.init.as_ref().map(|_| script));
    // If this run is killed, the next run learns from this time when the last process ended. Without it, the next run relies on the names in
    // the marker.
    let _ = lock.set_modified(SystemTime::now());
    let ended = started.end(watched.observed.status, spec)?;
    watched.report(ended)
}

/// Forks this process to answer a question. The fork is not a script, but is watched like one. Each step of a copy may take as
/// long as the limit.
fn answer(
    question: &Question,
    limit: Duration,
    socket: &mut UnixStream,
) -> Result<Report, StepError> {
    let signals = listen().step(Step::ListenForSignals)?;
    let progress = StartProgress::new()?;
    let process = start_answer(question, &progress)?;
    let starting = progress.watch();
    let limit = match matches!(question, Question::Copy(_)) {
        true => StartLimit::EachStep(limit),
        false => StartLimit::Whole(limit),
    };
    let limited = (&starting, limit);
    let mut watch = Watch::new(socket, signals, process, None, limited, Duration::ZERO);
    if matches!(question, Question::Responds(_)) {
        watch = watch.with_kill_limit(NO_RESPONSE);
    }
    let watched = WatchEnd::of(watch, &starting, None);
    let status = watched.observed.status.unwrap_or(KILLED);
    watched.report(ScriptExit::of(status))
}

/// The observations of a watched process until its end.
struct WatchEnd {
    observed: Observed,
    /// The last step of the process before it executed a program.
    stage: Option<Stage>,
    unkillable: Vec<Unkillable>,
}

impl WatchEnd {
    /// Waits for the end. `helper` is the first process of a PID namespace.
    fn of(watch: Watch<'_>, starting: &Watched, helper: Option<Pid>) -> Self {
        let observed = watch.until_the_end();
        let stage = starting.stage();
        let mut unkillable = match observed.not_killed {
            0 => Vec::new(),
            _ => Unkillable::below_this_process(helper),
        };
        if !observed.is_started {
            name_step(&mut unkillable, stage.as_ref());
        }
        Self {
            observed,
            stage,
            unkillable,
        }
    }

    fn report(self, ended: ScriptExit) -> Result<Report, StepError> {
        let observed = self.observed;
        match self.stage {
            Some(Stage::Failed(error)) => return Err(error),
            Some(Stage::In(step)) if observed.is_late && self.unkillable.is_empty() => {
                let errno = Errno::ETIMEDOUT as i32;
                return Err(StepError { step, errno });
            }
            Some(Stage::In(_)) | None => {}
        }
        Ok(Report::Ended(Box::new(ScriptEnd {
            status: ended.status,
            left_behind: observed.left_behind + ended.left_behind,
            not_ended: observed.not_killed.saturating_sub(self.unkillable.len()),
            unkillable: self.unkillable,
            usage: usage(),
            mounts: ended.mounts,
            processes: observed.processes,
            output: OutputSummary::default(),
            exceeded: None,
        })))
    }
}

/// Reads the orders, and gives this process the environment of the script.
fn read_orders(socket: &mut UnixStream) -> Result<(Orders, Environment), StepError> {
    let (environment, orders) = process::read_orders(socket).step(Step::ReadOrders)?;
    sys::replace_environment(&environment);
    sys::inherit_no_descriptors(&process::inherited_jobserver(&environment));
    let orders = serde_json::from_slice(&orders)
        .map_err(io::Error::from)
        .step(Step::ReadOrders)?;
    Ok((orders, environment))
}

/// Takes the lock that marks a script with processes. It lasts until this process exits, because the script does not inherit the descriptor.
fn lock_processes(spec: &Spec) -> Result<File, StepError> {
    let opened = fs::open_regular_to_read(&spec.process_lock);
    let lock = opened.step(Step::LockProcesses(spec.process_lock.clone()))?;
    let lock = lock
        .ok_or_else(|| io::Error::from(Errno::EINVAL))
        .step(Step::LockProcesses(spec.process_lock.clone()))?;
    lock.lock_shared()
        .step(Step::LockProcesses(spec.process_lock.clone()))?;
    Ok(lock)
}

/// A script that has been started.
struct Started {
    /// The first process of the script's PID namespace, or the process that becomes the script.
    process: Pid,
    /// The first process of the script's PID namespace, if it has one.
    init: Option<Init>,
    /// The mounts before the start. The first process of a PID namespace records them itself.
    mounts_before: MountsBefore,
}

impl Started {
    /// Starts the script in its namespaces, and returns the reading end of `progress`. The first process of a PID namespace closes `ours`.
    fn new(
        spec: &Spec,
        environment: &Environment,
        progress: StartProgress,
        ours: &[BorrowedFd<'_>],
    ) -> Result<(Self, Watched), StepError> {
        if let Some(view) = &spec.view {
            if view.processes {
                let (init, starting) = Init::start(spec, view, environment, progress, ours)?;
                let started = Self {
                    process: init.process,
                    init: Some(init),
                    mounts_before: MountsBefore::default(),
                };
                return Ok((started, starting));
            }
            // This process has everything open that it needs from outside the view.
            unshare(CloneFlags::CLONE_NEWIPC).step(Step::SeparateIpc)?;
            progress.enter(&Step::MakeView);
            mount_view(view)?;
        }
        let mounts_before = match &spec.rules {
            None => MountsBefore::now(),
            // Landlock denies all mounts.
            Some(_) => MountsBefore::default(),
        };
        let started = Self {
            process: start_script(spec, environment, &progress)?,
            init: None,
            mounts_before,
        };
        Ok((started, progress.watch()))
    }

    /// Collects how the script ended. `status` is that of the watched process.
    fn end(self, status: Option<Status>, spec: &Spec) -> Result<ScriptExit, StepError> {
        let Some(init) = self.init else {
            return Ok(ScriptExit {
                // There always is a status: the script is a child of this process.
                status: status.unwrap_or(KILLED),
                left_behind: 0,
                mounts: match &spec.rules {
                    None => self.mounts_before.since(),
                    Some(_) => Vec::new(),
                },
            });
        };
        // If there is no report, the first process was killed, and the script with it.
        let killed = || Ok(ScriptExit::of(KILLED));
        init.report().unwrap_or_else(killed)
    }
}

/// Adds the last step to those processes that have not executed a program.
fn name_step(processes: &mut [Unkillable], stage: Option<&Stage>) {
    let Some(Stage::In(step)) = stage else {
        return;
    };
    for process in processes {
        if process.name.as_bytes() == NAME.to_bytes() {
            process.step = Some(step.to_string());
        }
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
