//! The steps of a process in a sandbox, and the error of a failed step. Such a process prepares and starts a script, or examines files.

use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::wire;
use crate::fs;

/// A failed step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("failed to {step}: {}", io::Error::from_raw_os_error(*errno))]
pub struct StepError {
    /// The step.
    pub step: Step,
    /// The system's error number; `ETIMEDOUT` if the step took too long.
    pub errno: i32,
}

impl StepError {
    /// Whether the disk (or the quota) is full. Only steps that write to a disk are considered: for others, the kernel returns the same error
    /// numbers if there are too many namespaces or mounts.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        let step = &self.step;
        matches!(
            step,
            Step::PrepareOverlay(_)
                | Step::MountOverlay(_)
                | Step::PrepareRoot(_)
                | Step::MountRoot(_)
        ) && [Errno::ENOSPC, Errno::EDQUOT].contains(&Errno::from_raw(self.errno))
    }
}

/// The steps, roughly in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Read the orders: the spec of a script, or a question about files.
    ReadOrders,
    /// Lock a file. Other runs see from the lock that the script still has processes.
    LockProcesses(#[serde(with = "wire")] PathBuf),
    /// Become a subreaper.
    AdoptOrphans,
    /// Open a descriptor from which signals are read.
    ListenForSignals,
    /// Create a user namespace.
    SeparateUsers,
    /// Set the ID maps of a user namespace. The string is the end of the error message: which program
    /// sets the maps, or why they cannot be set.
    MapUsers(String),
    /// Become root in a user namespace.
    BecomeRoot,
    /// Mount a file system in memory, to check whether mounts are allowed.
    TryMount,
    /// Create a PID namespace and an IPC namespace for the processes that are started next.
    SeparateProcesses,
    /// Fork a process.
    Fork,
    /// Have the kernel kill this process when its parent exits.
    FollowParent,
    /// Create an IPC namespace.
    SeparateIpc,
    /// Create a mount namespace.
    SeparateMounts,
    /// Create a network namespace.
    SeparateNetwork,
    /// Start the loopback interface of a network namespace.
    StartLoopback,
    /// Stop the propagation of mounts to other namespaces.
    KeepMountsPrivate,
    /// Change to a directory, as a part of mounting the files that the script sees.
    EnterWork(#[serde(with = "wire")] PathBuf),
    /// Mount a private directory in memory.
    MountMemory(#[serde(with = "wire")] PathBuf),
    /// Create a directory, a file or a link in a private directory or in a stemcell image.
    MakePlace(#[serde(with = "wire")] PathBuf),
    /// Create the directories of the overlay over a stemcell image.
    PrepareRoot(#[serde(with = "wire")] PathBuf),
    /// Mount a stemcell image, writable.
    MountRoot(#[serde(with = "wire")] PathBuf),
    /// Make a stemcell image the root of the script.
    ChangeRoot(#[serde(with = "wire")] PathBuf),
    /// Remove the host's root from the view of the script.
    LeaveHost,
    /// Mount a file system in memory for writes into dependencies.
    MountScratch(#[serde(with = "wire")] PathBuf),
    /// Create the directories of an overlay.
    PrepareOverlay(#[serde(with = "wire")] PathBuf),
    /// Mount dependencies, writable.
    MountOverlay(#[serde(with = "wire")] PathBuf),
    /// Mount a dependency read-only.
    MountReadOnly(#[serde(with = "wire")] PathBuf),
    /// Mount a directory or file at another path.
    Bind(
        #[serde(with = "wire")] PathBuf,
        #[serde(with = "wire")] PathBuf,
    ),
    /// Make a directory or file appear empty.
    HideWork(#[serde(with = "wire")] PathBuf),
    /// Mount the `/proc` of the PID namespace.
    MountProc,
    /// Make a mount of the host read-only, or make a mount of the script writable.
    Protect(#[serde(with = "wire")] PathBuf),
    /// Lock the mounts, except those below `/dev` and `/sys`, so that the script cannot unmount them.
    LockMounts,
    /// Mount all files that the script sees. This step is reported only if the mounts take too long. If a mount fails, the error names the
    /// step of this mount.
    MakeView,
    /// Set Landlock rules.
    Restrict,
    /// Open the path of a rule.
    OpenForRule(#[serde(with = "wire")] PathBuf),
    /// Look up a path that a script or a package's source contains, such as the target of a link.
    LookUp(#[serde(with = "wire")] PathBuf),
    /// Read a file that a source links to.
    Read(#[serde(with = "wire")] PathBuf),
    /// Copy a directory or file from the tree behind a link, if the script has replaced its install target by this link.
    Copy(#[serde(with = "wire")] PathBuf),
    /// Give a shell its terminal.
    TakeTerminal,
    /// Enter the script's working directory.
    Enter(#[serde(with = "wire")] PathBuf),
    /// Execute the script.
    Start(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadOrders => write!(f, "read the instructions for the sandbox child"),
            Self::LockProcesses(path) => write!(f, "lock `{}`", path.display()),
            Self::AdoptOrphans => write!(f, "become a subreaper"),
            Self::ListenForSignals => write!(f, "listen for signals"),
            Self::SeparateUsers => write!(f, "create a user namespace"),
            Self::MapUsers(how) => write!(f, "set the ID maps of a user namespace {how}"),
            Self::BecomeRoot => write!(f, "become root in a user namespace"),
            Self::TryMount => write!(f, "mount a test file system"),
            Self::SeparateProcesses => write!(f, "create a PID namespace and an IPC namespace"),
            Self::Fork => write!(f, "fork a process"),
            Self::FollowParent => write!(f, "set the parent death signal"),
            Self::SeparateIpc => write!(f, "create an IPC namespace"),
            Self::SeparateMounts => write!(f, "create a mount namespace"),
            Self::SeparateNetwork => write!(f, "create a network namespace"),
            Self::StartLoopback => write!(f, "start the loopback interface of a network namespace"),
            Self::KeepMountsPrivate => write!(f, "make mounts private"),
            Self::EnterWork(path) => write!(f, "enter `{}`", path.display()),
            Self::MountMemory(path) => write!(f, "mount a tmpfs at `{}`", path.display()),
            Self::MakePlace(path) => write!(f, "create `{}`", path.display()),
            Self::PrepareRoot(path) => {
                write!(f, "prepare the overlay at `{}`", path.display())
            }
            Self::MountRoot(path) => {
                write!(f, "mount an overlay over the image `{}`", path.display())
            }
            Self::ChangeRoot(path) => write!(f, "change the root to `{}`", path.display()),
            Self::LeaveHost => write!(f, "unmount the host's root"),
            Self::MountScratch(path) => write!(
                f,
                "mount a tmpfs for changes of dependencies at `{}`",
                path.display()
            ),
            Self::PrepareOverlay(path) => {
                write!(f, "prepare the overlay at `{}`", path.display())
            }
            Self::MountOverlay(path) => write!(f, "mount an overlay at `{}`", path.display()),
            Self::MountReadOnly(path) => write!(f, "mount `{}` read-only", path.display()),
            Self::Bind(from, to) => {
                write!(f, "mount `{}` at `{}`", from.display(), to.display())
            }
            Self::HideWork(path) => write!(f, "hide `{}`", path.display()),
            Self::MountProc => write!(f, "mount /proc"),
            Self::Protect(path) => write!(f, "set the write protection of `{}`", path.display()),
            Self::LockMounts => write!(f, "lock the mounts of a script"),
            Self::MakeView => write!(f, "mount the view of a script"),
            Self::Restrict => write!(f, "set the Landlock rules of a script"),
            Self::OpenForRule(path) => {
                write!(f, "open `{}` for a Landlock rule", path.display())
            }
            Self::LookUp(path) => write!(f, "look up `{}`", path.display()),
            Self::Read(path) => write!(f, "read `{}`", path.display()),
            Self::Copy(path) => write!(f, "copy `{}`", path.display()),
            Self::TakeTerminal => write!(f, "take a terminal for a shell"),
            Self::Enter(path) => write!(f, "enter `{}`", path.display()),
            Self::Start(program) => write!(f, "start `{program}`"),
        }
    }
}

/// Adds the step to an error.
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
    fn too_many_namespaces_are_not_a_full_disk() {
        let errno = Errno::ENOSPC as i32;
        let failed = |step| StepError { step, errno };
        assert!(!failed(Step::SeparateMounts).is_no_space());
        assert!(failed(Step::PrepareOverlay(PathBuf::from("overlay"))).is_no_space());
    }

    #[test]
    fn failed_step_has_the_systems_error() {
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
