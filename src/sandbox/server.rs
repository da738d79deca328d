//! The fork server: this program, started again, which forks the parent of each script.
//!
//! It stays small and has one thread, so that a fork copies little and is safe. It keeps a copy of each child's socket until it has
//! reaped the child: the agent sees the end of the socket only when the child is gone and, if the child was killed, when its orphans
//! are gone too. `process::fork_server` is the agent's side.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, setpgid};

use super::child;
use super::progress::NAME;
use super::spec::Report;
use super::step::{Step, StepError, StepResult};
use super::sys;
use super::wait::{listen, status_of};
use crate::fs;
use crate::process::{self, DESCRIPTORS, Request, Status, tree};

/// A forked child's exit code after a panic.
const PANICKED: u8 = 101;

/// Runs as the fork server. Must be called first, while there is one thread and no file is open.
#[must_use]
pub(crate) fn main() -> ExitCode {
    // Scripts inherit the dispositions of this process.
    sys::default_signals(&[]);
    let served = Server::start().and_then(Server::serve);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The server's connection to the agent, and its children.
struct Server {
    /// The socket to the agent; `None` when the agent has closed its end.
    requests: Option<UnixStream>,
    signals: SignalFd,
    children: Vec<Child>,
}

/// The parent of a script.
struct Child {
    /// The agent's number for it.
    number: u32,
    process: Pid,
    /// A copy of its socket.
    socket: UnixStream,
}

impl Server {
    /// Takes the socket from standard input, and becomes the subreaper of what a killed child leaves.
    fn start() -> io::Result<Self> {
        let _ = nix::sys::prctl::set_name(c"sandbox-server");
        let requests = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let null = fs::open("/dev/null".as_ref()).map_err(|error| error.source)?;
        dup2_stdin(&null)?;
        sys::leave_terminal();
        nix::sys::prctl::set_child_subreaper(true)?;
        Ok(Self {
            requests: Some(requests),
            signals: listen()?,
            children: Vec::new(),
        })
    }

    /// Handles requests until the agent closes the socket, and then waits for the children.
    fn serve(mut self) -> io::Result<()> {
        loop {
            self.reap();
            if self.requests.is_none() && self.children.is_empty() {
                return Ok(());
            }
            if !self.wait() {
                continue;
            }
            match self.requests.as_ref().map(process::receive) {
                Some(Ok(Some(Request::Fork(number, descriptors)))) => {
                    self = self.fork(number, descriptors);
                }
                Some(Ok(Some(Request::Kill(number)))) => self.kill(number),
                // The agent has closed its end, or is gone.
                Some(Ok(None)) => self.requests = None,
                // After other errors the request is lost, and with it the child's socket: the agent sees its end.
                Some(Err(_)) | None => {}
            }
        }
    }

    /// Waits for a request or a signal. Returns whether there is a request.
    fn wait(&self) -> bool {
        let mut sources = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        sources.extend(
            self.requests
                .iter()
                .map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN)),
        );
        // After an interrupted wait the caller waits again.
        let _ = poll(&mut sources, PollTimeout::NONE);
        let is_ready = |source: Option<&PollFd>| source.is_some_and(|it| it.any().unwrap_or(false));
        if is_ready(sources.first()) {
            // Other signals than SIGCHLD are for the children, which receive them themselves.
            while let Ok(Some(_)) = self.signals.read_signal() {}
        }
        is_ready(sources.get(1))
    }

    /// Forks a child with these descriptors. The child does not return.
    fn fork(mut self, number: u32, descriptors: [OwnedFd; DESCRIPTORS]) -> Self {
        let [socket, output, error_output] = descriptors;
        match fork(&output, &error_output) {
            Ok(ForkResult::Parent { child: process }) => self.children.push(Child {
                number,
                process,
                socket: socket.into(),
            }),
            Ok(ForkResult::Child) => {
                drop((self, output, error_output));
                run(socket.into());
            }
            Err(error) => report(socket.into(), &Report::Failed(error)),
        }
        self
    }

    fn kill(&self, number: u32) {
        for child in self.children.iter().filter(|child| child.number == number) {
            // It is not reaped yet, so the PID still belongs to it.
            let _ = kill(child.process, Signal::SIGKILL);
        }
    }

    /// Reaps children. For each child that could not report itself, kills its orphans and reports in its place.
    fn reap(&mut self) {
        loop {
            let ended = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::EINTR) => continue,
                // There is no child, or all are running.
                Err(_) | Ok(WaitStatus::StillAlive) => return,
                Ok(ended) => ended,
            };
            let Some(status) = status_of(ended) else {
                continue;
            };
            let mut children = self.children.iter();
            let position = children.position(|child| Some(child.process) == ended.pid());
            // Any other process is an orphan that this process has adopted.
            let Some(position) = position else { continue };
            let child = self.children.swap_remove(position);
            if status != Status::Exited(0) {
                // A script may have killed it to escape.
                let known: Vec<Pid> = self.children.iter().map(|child| child.process).collect();
                tree::kill_orphans(&known);
                report(child.socket, &Report::Lost { status });
            }
        }
    }
}

/// Forks. The copy has its own process group, and these descriptors as standard output and standard error.
fn fork(output: &OwnedFd, error_output: &OwnedFd) -> Result<ForkResult, StepError> {
    let forked = sys::fork().step(Step::Fork)?;
    if forked.is_child() {
        let _ = nix::sys::prctl::set_name(NAME);
        // None of these calls can fail in a new process.
        let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
        let _ = dup2_stdout(output);
        let _ = dup2_stderr(error_output);
    }
    Ok(forked)
}

/// Runs a forked child.
fn run(socket: UnixStream) -> ! {
    let code = catch_unwind(AssertUnwindSafe(|| child::main(socket))).unwrap_or(PANICKED);
    sys::exit(code.into())
}

/// Reports in the place of a child.
fn report(mut socket: UnixStream, report: &Report) {
    // Start a new line, because the killed child may have written a partial one.
    let mut line = b"\n".to_vec();
    line.extend(serde_json::to_vec(report).unwrap_or_default());
    line.push(b'\n');
    // Fails if the agent is gone.
    let _ = socket.write_all(&line);
}
