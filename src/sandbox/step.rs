//! The steps of the child, and the error of a step that failed.

use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::wire;
use crate::fs;

/// A step of the child that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("failed to {step}: {}", io::Error::from_raw_os_error(*errno))]
pub struct StepError {
    /// The step.
    pub step: Step,
    /// What the system answered.
    pub errno: i32,
}

impl StepError {
    /// Whether the disk (or the quota) is full. Steps that write nothing are answered alike where there are too many namespaces or
    /// mounts.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self.step, Step::PrepareOverlay(_) | Step::MountOverlay(_))
            && [Errno::ENOSPC, Errno::EDQUOT].contains(&Errno::from_raw(self.errno))
    }
}

/// The steps of the child, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Reading the spec.
    ReadOrders,
    /// Locking what says that the script has processes.
    Hold(#[serde(with = "wire")] PathBuf),
    /// Becoming a subreaper.
    AdoptOrphans,
    /// Making signals readable.
    ListenForSignals,
    /// A user namespace.
    SeparateUsers,
    /// The owners that there are in a user namespace.
    MapUsers(String),
    /// Becoming root in a user namespace.
    BecomeRoot,
    /// A small file system in memory, to see whether mounts are allowed at all.
    TryMount,
    /// A process namespace and an IPC namespace for what is started from now on.
    SeparateProcesses,
    /// The first process in them.
    Fork,
    /// Ending with the parent.
    FollowParent,
    /// An IPC namespace.
    SeparateIpc,
    /// A mount namespace.
    SeparateMounts,
    /// A network namespace.
    SeparateNetwork,
    /// The loopback of a network namespace.
    StartLoopback,
    /// Keeping its mounts from everybody else.
    KeepMountsPrivate,
    /// Entering the work directory.
    EnterWork(#[serde(with = "wire")] PathBuf),
    /// A private directory in memory.
    MountMemory(#[serde(with = "wire")] PathBuf),
    /// A directory, a file or a link in a private directory.
    MakePlace(#[serde(with = "wire")] PathBuf),
    /// A file system in memory for writes into dependencies.
    MountScratch(#[serde(with = "wire")] PathBuf),
    /// The directories of an overlay.
    PrepareOverlay(#[serde(with = "wire")] PathBuf),
    /// Dependencies, writable.
    MountOverlay(#[serde(with = "wire")] PathBuf),
    /// A dependency, read-only.
    MountReadOnly(#[serde(with = "wire")] PathBuf),
    /// A directory or file in another place.
    Bind(
        #[serde(with = "wire")] PathBuf,
        #[serde(with = "wire")] PathBuf,
    ),
    /// An empty directory over the work directory.
    HideWork(#[serde(with = "wire")] PathBuf),
    /// The process namespace's own `/proc`.
    MountProc,
    /// Making a mount of the host read-only, or keeping one writable that is the script's.
    Protect(#[serde(with = "wire")] PathBuf),
    /// Locking all mounts.
    LockMounts,
    /// Making its view, with everything that is mounted there.
    MakeView,
    /// Rules on what the script may reach.
    Restrict,
    /// Opening a path that a rule is for.
    OpenForRule(#[serde(with = "wire")] PathBuf),
    /// The script's working directory.
    Enter(#[serde(with = "wire")] PathBuf),
    /// The script itself.
    Start(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadOrders => write!(f, "read the orders of the sandbox child"),
            Self::Hold(path) => write!(f, "lock `{}`", path.display()),
            Self::AdoptOrphans => write!(f, "become the parent of orphans"),
            Self::ListenForSignals => write!(f, "listen for signals"),
            Self::SeparateUsers => write!(f, "make a user namespace"),
            Self::MapUsers(how) => write!(f, "set the owners of a user namespace {how}"),
            Self::BecomeRoot => write!(f, "become root in a user namespace"),
            Self::TryMount => write!(f, "mount anything"),
            Self::SeparateProcesses => write!(f, "make a process namespace"),
            Self::Fork => write!(f, "start the first process of a namespace"),
            Self::FollowParent => write!(f, "bind a process to its parent's life"),
            Self::SeparateIpc => write!(f, "make an IPC namespace"),
            Self::SeparateMounts => write!(f, "make a mount namespace"),
            Self::SeparateNetwork => write!(f, "make a network namespace"),
            Self::StartLoopback => write!(f, "start the loopback of a network namespace"),
            Self::KeepMountsPrivate => write!(f, "make mounts private"),
            Self::EnterWork(path) => write!(f, "enter `{}`", path.display()),
            Self::MountMemory(path) => write!(f, "mount a tmpfs at `{}`", path.display()),
            Self::MakePlace(path) => write!(f, "make `{}`", path.display()),
            Self::MountScratch(path) => write!(f, "mount a tmpfs at `{}`", path.display()),
            Self::PrepareOverlay(path) => write!(f, "prepare `{}`", path.display()),
            Self::MountOverlay(path) => write!(f, "mount an overlay at `{}`", path.display()),
            Self::MountReadOnly(path) => write!(f, "mount `{}` read-only", path.display()),
            Self::Bind(from, to) => {
                write!(f, "mount `{}` at `{}`", from.display(), to.display())
            }
            Self::HideWork(path) => write!(f, "hide `{}`", path.display()),
            Self::MountProc => write!(f, "mount /proc"),
            Self::Protect(path) => write!(f, "protect `{}` from writes", path.display()),
            Self::LockMounts => write!(f, "lock mounts"),
            Self::MakeView => write!(f, "make the mounts of a script"),
            Self::Restrict => write!(f, "restrict what a script may reach"),
            Self::OpenForRule(path) => {
                write!(
                    f,
                    "open `{}` for a rule on what a script may reach",
                    path.display()
                )
            }
            Self::Enter(path) => write!(f, "enter `{}`", path.display()),
            Self::Start(program) => write!(f, "start `{program}`"),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_namespaces_are_no_full_disk() {
        let errno = Errno::ENOSPC as i32;
        let failed = |step| StepError { step, errno };
        assert!(!failed(Step::SeparateMounts).is_no_space());
        assert!(failed(Step::PrepareOverlay(PathBuf::from("overlay"))).is_no_space());
    }

    #[test]
    fn a_failed_step_says_what_the_system_answered() {
        let error = StepError {
            step: Step::Start("bash".to_owned()),
            errno: 2,
        };
        assert_eq!(
            error.to_string(),
            "failed to start `bash`: No such file or directory (os error 2)"
        );
    }
}
