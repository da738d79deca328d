//! The exit status and resource usage of a process.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// The exit status of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The process exited with a code.
    Exited(i32),
    /// A signal terminated the process.
    Signaled(i32),
}

impl Status {
    /// Whether the exit code is zero.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Exited(0)
    }

    /// The signal that terminated the process or, if the process is a shell, its last command. In
    /// the second case, the shell exits with 128 plus the signal's number.
    #[must_use]
    pub fn signal(self) -> Option<i32> {
        match self {
            Self::Signaled(number) => Some(number),
            Self::Exited(code) => signal_of_last_command(code).map(|signal| signal as i32),
        }
    }

    /// The name of [`Self::signal`].
    #[must_use]
    pub fn signal_name(self) -> Option<String> {
        let number = self.signal()?;
        Some(match Signal::try_from(number) {
            Ok(signal) => signal.as_str().to_owned(),
            Err(_) => format!("signal {number}"),
        })
    }
}

/// The signal in an exit code of 128 plus a signal's number. A shell exits with such a code if a
/// signal terminated its last command.
fn signal_of_last_command(code: i32) -> Option<Signal> {
    Signal::try_from(code.checked_sub(128)?).ok()
}

impl From<ExitStatus> for Status {
    fn from(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::Exited(code),
            // A process without an exit code was terminated by a signal.
            None => Self::Signaled(status.signal().unwrap_or_default()),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited(code) => write!(f, "exited with {code}")?,
            Self::Signaled(number) => match Signal::try_from(number) {
                Ok(signal) => write!(f, "was killed by {signal}")?,
                Err(_) => write!(f, "was killed by signal {number}")?,
            },
        }
        if let Self::Exited(code) = *self
            && let Some(signal) = signal_of_last_command(code)
        {
            write!(f, " (a command in it was killed by {signal})")?;
        }
        Ok(())
    }
}

/// The resources that a process and all its descendants used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// The largest resident memory of any single process, in bytes.
    pub max_resident: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_has_the_code_or_the_signals_name() {
        assert_eq!(Status::Exited(7).to_string(), "exited with 7");
        assert_eq!(Status::Signaled(9).to_string(), "was killed by SIGKILL");
        assert_eq!(
            Status::Exited(137).to_string(),
            "exited with 137 (a command in it was killed by SIGKILL)"
        );
        assert_eq!(Status::Signaled(64).to_string(), "was killed by signal 64");
        assert!(Status::Exited(0).is_success() && !Status::Signaled(0).is_success());
        assert_eq!(Status::Exited(137).signal(), Some(9));
        assert_eq!(Status::Signaled(64).signal(), Some(64));
        for code in [0, 1, 126, 128, 255, -1, i32::MIN, i32::MAX] {
            assert_eq!(Status::Exited(code).signal(), None, "{code}");
        }
    }
}
