//! Copies bytes between the terminal of this process and the pseudo-terminal of an interactive
//! shell.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::terminal::{Terminal, copy_size};

/// How many bytes are copied at a time.
const BUFFER: usize = 16 * 1024;

/// Copies in both directions. Dropping the relay hangs up the pseudo-terminal.
pub(super) struct Relay {
    input: File,
    output: File,
    shell: File,
    /// Each byte means that the size of the terminal has changed. The end of the pipe means that
    /// the relay must end.
    orders: io::PipeReader,
    /// Typed input that the shell has not read yet.
    typed: Vec<u8>,
}

/// Which descriptors are ready after a wait.
struct Ready {
    has_order: bool,
    shell: PollFlags,
    has_input: bool,
}

impl Relay {
    pub(super) fn new(
        terminal: &Terminal,
        shell: OwnedFd,
        orders: io::PipeReader,
    ) -> io::Result<Self> {
        // Do not block on writing to a shell that does not read, so that its output is still shown.
        fcntl(&shell, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self {
            input: terminal.input.try_clone()?.into(),
            output: terminal.output.try_clone()?.into(),
            shell: shell.into(),
            orders,
            typed: Vec::new(),
        })
    }

    /// Copies until the end of `orders`, or until one of the terminals hangs up.
    pub(super) fn run(mut self) {
        // Ignore the error: it usually means that a terminal has hung up.
        let _ = self.copy();
    }

    fn copy(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let ready = self.wait()?;
            if ready.shell.intersects(!PollFlags::POLLOUT) {
                self.show(&mut buffer)?;
            }
            if ready.shell.contains(PollFlags::POLLOUT) {
                self.type_in()?;
            }
            if ready.has_input {
                let length = self.input.read(&mut buffer)?;
                if length == 0 {
                    return Ok(());
                }
                self.typed.extend_from_slice(&buffer[..length]);
                self.type_in()?;
            }
            if ready.has_order {
                if self.orders.read(&mut [0])? == 0 {
                    // Show the last output of the shell.
                    while self.show(&mut buffer)? {}
                    return Ok(());
                }
                copy_size(&self.output, &self.shell);
            }
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let to_shell = match self.typed.is_empty() {
            true => PollFlags::POLLIN,
            false => PollFlags::POLLIN | PollFlags::POLLOUT,
        };
        let mut sources = vec![
            PollFd::new(self.orders.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shell.as_fd(), to_shell),
        ];
        if self.typed.is_empty() {
            sources.push(PollFd::new(self.input.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut sources, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = |at: usize| {
            let source = sources.get(at).and_then(PollFd::revents);
            source.unwrap_or(PollFlags::empty())
        };
        Ok(Ready {
            has_order: !flags(0).is_empty(),
            shell: flags(1),
            has_input: !flags(2).is_empty(),
        })
    }

    /// Shows output of the shell. Returns `false` if there was none. The end of the pseudo-terminal
    /// is an error.
    fn show(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        match self.shell.read(buffer) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.output.write_all(&buffer[..length])?;
                Ok(true)
            }
            Err(error) if is_retry(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes as much of the typed input as the shell accepts.
    fn type_in(&mut self) -> io::Result<()> {
        match self.shell.write(&self.typed) {
            Ok(length) => {
                self.typed.drain(..length);
                Ok(())
            }
            Err(error) if is_retry(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn is_retry(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
