//! How a process ended, and what it used.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// By itself, with an exit code.
    Exited(i32),
    /// By a signal.
    Signaled(i32),
}

impl Status {
    /// Whether this is success.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Exited(0)
    }

    /// The signal that ended the process, or that ended the last command of a shell, which exits with 128 and the number then.
    #[must_use]
    pub fn signal(self) -> Option<i32> {
        match self {
            Self::Signaled(number) => Some(number),
            Self::Exited(code) => signal_of_last_command(code).map(|signal| signal as i32),
        }
    }
}

/// A shell reports the signal that ended its last command as 128 and the number.
fn signal_of_last_command(code: i32) -> Option<Signal> {
    Signal::try_from(code.checked_sub(128)?).ok()
}

impl From<ExitStatus> for Status {
    fn from(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::Exited(code),
            // What has no exit code was ended by a signal.
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

/// What a process and all its descendants used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// The most memory that any single process of them had, in bytes.
    pub max_resident: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_by_code_or_by_the_signals_name() {
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
