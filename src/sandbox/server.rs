//! The fork server: this program started once more, which forks the parent of each script.
//!
//! It stays small and has one thread, so that a fork copies little and the copy may do what any process may. It holds a copy of
//! each child's socket until it has reaped the child: the agent sees the end of the socket only when the child is gone and, where
//! the child was killed, when its orphans are gone too. `process::fork_server` is the agent's side.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, setpgid};

use super::child::{self, StepResult, listen, status_of};
use super::spec::{Report, Step, StepError};
use super::sys;
use crate::fs;
use crate::process::{self, DESCRIPTORS, Request, Status, tree};

/// A forked child's exit code when it has panicked.
const PANICKED: u8 = 101;

/// Runs as the fork server. Called before anything else, while there is one thread and nothing is open.
#[must_use]
pub fn main() -> ExitCode {
    // Scripts start with what this process has.
    sys::default_signals(&[]);
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The parent of a script.
struct Child {
    /// The agent's number for it.
    number: u32,
    process: Pid,
    /// A copy of its socket.
    socket: UnixStream,
}

/// Forks a child for each request until the agent closes the socket, and then waits for the children.
fn serve() -> io::Result<()> {
    let _ = nix::sys::prctl::set_name(c"sandbox-server");
    let requests = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let nothing = fs::open("/dev/null".as_ref()).map_err(|error| error.source)?;
    dup2_stdin(&nothing)?;
    drop(nothing);
    sys::leave_terminal();
    // What a killed child leaves becomes the server's.
    nix::sys::prctl::set_child_subreaper(true)?;
    let signals = listen()?;
    let mut children: Vec<Child> = Vec::new();
    let mut is_open = true;
    loop {
        reap(&mut children);
        if !is_open && children.is_empty() {
            return Ok(());
        }
        let (has_request, has_signal) = {
            let mut sources = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            if is_open {
                sources.push(PollFd::new(requests.as_fd(), PollFlags::POLLIN));
            }
            // An interrupted wait is one more round.
            let _ = poll(&mut sources, PollTimeout::NONE);
            let is_ready = |index: usize| {
                let source: Option<&PollFd> = sources.get(index);
                source.is_some_and(|source| source.any().unwrap_or(false))
            };
            (is_ready(1), is_ready(0))
        };
        if has_signal {
            // Other signals than SIGCHLD are for the children, which get them themselves and end their scripts.
            while let Ok(Some(_)) = signals.read_signal() {}
        }
        if !has_request {
            continue;
        }
        match process::receive(&requests) {
            Ok(Some(Request::Fork(number, descriptors))) => {
                let [socket, output, error_output] = descriptors;
                match start([&socket, &output, &error_output]) {
                    Ok(ForkResult::Parent { child: process }) => children.push(Child {
                        number,
                        process,
                        socket: socket.into(),
                    }),
                    Ok(ForkResult::Child) => {
                        drop((children, requests, signals, output, error_output));
                        run(socket.into());
                    }
                    Err(error) => report(socket.into(), &Report::Failed(error)),
                }
            }
            Ok(Some(Request::Kill(number))) => {
                for child in children.iter().filter(|child| child.number == number) {
                    // It is not reaped yet, so that the process is still this one.
                    let _ = kill(child.process, Signal::SIGKILL);
                }
            }
            // The agent has closed its end, or is gone.
            Ok(None) => is_open = false,
            Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
            // The request is lost, and with it the agent's socket, whose end the agent sees.
            Err(_) => {}
        }
    }
}

/// Forks. The copy gets a process group of its own and these descriptors: its socket, standard output, standard error.
fn start(descriptors: [&OwnedFd; DESCRIPTORS]) -> Result<ForkResult, StepError> {
    let [_, output, error_output] = descriptors;
    let forked = sys::fork().step(Step::Fork)?;
    if forked.is_child() {
        let _ = nix::sys::prctl::set_name(child::NAME);
        // None of these can fail in a fresh copy.
        let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
        let _ = dup2_stdout(output);
        let _ = dup2_stderr(error_output);
    }
    Ok(forked)
}

/// The life of a forked child.
fn run(socket: UnixStream) -> ! {
    let code = catch_unwind(AssertUnwindSafe(|| child::main(socket))).unwrap_or(PANICKED);
    sys::exit(code.into())
}

/// Takes the ends of children. Reports those that could not do so themselves, once what they left has been killed.
fn reap(children: &mut Vec<Child>) {
    loop {
        let ended = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::EINTR) => continue,
            // None is left, or all live.
            Err(_) | Ok(WaitStatus::StillAlive) => return,
            Ok(ended) => ended,
        };
        let Some(status) = status_of(ended) else {
            continue;
        };
        let position = children
            .iter()
            .position(|child| Some(child.process) == ended.pid());
        // Everything else was an orphan.
        let Some(position) = position else { continue };
        let child = children.swap_remove(position);
        if status != Status::Exited(0) {
            // Whoever killed it may have hoped to get away.
            let known: Vec<Pid> = children.iter().map(|child| child.process).collect();
            tree::kill_orphans(&known);
            report(child.socket, &Report::Lost { status });
        }
    }
}

/// Reports in the place of a child.
fn report(mut socket: UnixStream, report: &Report) {
    // On a line of its own, behind whatever a child has written before it was killed.
    let mut line = b"\n".to_vec();
    line.extend(serde_json::to_vec(report).unwrap_or_default());
    line.push(b'\n');
    // An agent that is gone hears nothing.
    let _ = socket.write_all(&line);
}
