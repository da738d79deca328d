//! Controls the terminal of this process, and creates pseudo-terminals for interactive shells.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

/// The terminal of this process.
#[derive(Debug)]
pub struct Terminal {
    pub(super) input: OwnedFd,
    pub(super) output: OwnedFd,
}

impl Terminal {
    /// The terminal at stdin and stderr; `None` if one of the two is not a terminal.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        let (input, output) = (io::stdin(), io::stderr());
        if !input.is_terminal() || !output.is_terminal() {
            return None;
        }
        Some(Self {
            input: input.as_fd().try_clone_to_owned().ok()?,
            output: output.as_fd().try_clone_to_owned().ok()?,
        })
    }
}

/// The terminal's settings before raw mode, for [`restore_terminal`].
static SETTINGS: Mutex<Option<Termios>> = Mutex::new(None);

/// Switches the terminal to raw mode, in which all keys reach this process unchanged, until
/// dropped.
#[derive(Debug)]
pub(super) struct RawMode(());

impl RawMode {
    pub(super) fn enter(terminal: &Terminal) -> io::Result<Self> {
        let settings = tcgetattr(&terminal.input)?;
        let mut raw = settings.clone();
        raw.make_raw();
        *SETTINGS.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings);
        let entered = Self(());
        tcsetattr(&terminal.input, OptionalActions::Drain, &raw)?;
        Ok(entered)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore_terminal();
    }
}

/// Ends raw mode of the terminal at stdin, if it is active. Call this before an exit that runs no
/// destructors.
pub(crate) fn restore_terminal() {
    let settings = SETTINGS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some(settings) = settings {
        // Ignore the error: the terminal may be gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &settings);
    }
}

/// A pseudo-terminal.
#[derive(Debug)]
pub(super) struct PseudoTerminal {
    /// The end that this process uses.
    pub(super) ours: OwnedFd,
    /// The end that is the terminal of the shell.
    pub(super) theirs: OwnedFd,
}

impl PseudoTerminal {
    /// Opens a pseudo-terminal with the settings and the size of the terminal `like`.
    pub(super) fn open(like: &Terminal) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        // Do not open it by its path in `/dev/pts`, which may belong to another instance of devpts.
        let theirs = ioctl_tiocgptpeer(&ours, flags)?;
        tcsetattr(&theirs, OptionalActions::Now, &tcgetattr(&like.input)?)?;
        copy_size(&like.output, &ours);
        Ok(Self { ours, theirs })
    }
}

/// Gives a pseudo-terminal the size of another terminal.
pub(super) fn copy_size(from: impl AsFd, to: impl AsFd) {
    // Some terminals, such as serial lines, have no size, which is not an error.
    if let Ok(size) = tcgetwinsize(from) {
        let _ = tcsetwinsize(to, size);
    }
}
