//! The errors of compiling a package. The cause of an error can be the script, the source, the machine, or this program.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::changed::{Changed, RestoreError};
use super::denials::Denial;
use super::finding::Finding;
use super::printed::PrintedLine;
use crate::archive::{PackError, UnpackError};
use crate::diag::Elapsed;
use crate::process::{Ending, LastLines, RunningProcess, Status, Unkillable};
use crate::release::Name;
use crate::release::digest::DigestMismatch;
use crate::sandbox::SandboxError;
use crate::{fs, runtime};

/// Why a package was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The packaging script failed.
    #[error(transparent)]
    Script(Box<ScriptFailure>),
    /// The source blob cannot be unpacked.
    #[error("failed to unpack the source of package `{package}`")]
    Source {
        /// The package.
        package: Name,
        /// Why.
        source: UnpackError,
    },
    /// The blob of a compiled package cannot be unpacked.
    #[error("failed to unpack the compiled package `{package}`")]
    Compiled {
        /// The package.
        package: Name,
        /// Why.
        source: UnpackError,
    },
    /// A blob was changed after its digest had been verified.
    #[error("the blob of package `{package}` was changed after it had been verified: `{}`", path.display())]
    BlobChanged {
        /// The package.
        package: Name,
        /// The blob.
        path: PathBuf,
        /// How the blob's digest differs.
        source: DigestMismatch,
    },
    /// The installed files of a package were changed and cannot be reinstalled.
    #[error("the files of package `{package}` were changed after it was installed: {}", changed.difference)]
    Changed {
        /// The package whose files were changed.
        package: Name,
        /// What was changed.
        changed: Box<Changed>,
        /// Why the files cannot be reinstalled. `None` if they were changed before the package was packed.
        source: Option<Box<RestoreError>>,
    },
    /// The installed files of a dependency were changed while the package was compiled against them.
    #[error(
        "the files of its dependency `{dependency}` were changed while package `{package}` was compiled: {}",
        changed.difference
    )]
    ChangedInUse {
        /// The package.
        package: Name,
        /// The dependency.
        dependency: Name,
        /// What was changed.
        changed: Box<Changed>,
    },
    /// The packaging script is a dangling link.
    #[error("the `packaging` script of `{package}` is a link to `{}`, which does not exist", target.display())]
    DanglingScript {
        /// The package.
        package: Name,
        /// The target of the link.
        target: PathBuf,
    },
    /// The packaging script is not a file.
    #[error("the `packaging` script of `{package}` is {found}, not a file")]
    ScriptIsNotAFile {
        /// The package.
        package: Name,
        /// The kind of file that was found.
        found: &'static str,
    },
    /// The script left no directory at its install target.
    #[error("package `{package}` has no directory at its install target `{}`: {found}", path.display())]
    InstallTarget {
        /// The package.
        package: Name,
        /// The install target.
        path: PathBuf,
        /// What was found instead.
        found: Cow<'static, str>,
    },
    /// The script left a mount in, at or above its install target.
    #[error("the packaging script of `{package}` left a mount at `{}`, so its files there cannot be packed", mount.display())]
    Mounted {
        /// The package.
        package: Name,
        /// The mount point, as the script sees it.
        mount: PathBuf,
    },
    /// Processes of the script could not be killed, and may still change its files.
    #[error(
        "{} of the packaging script of `{package}` cannot be killed: {}",
        count_of(processes),
        list_of(processes)
    )]
    Unkillable {
        /// The package.
        package: Name,
        /// The processes.
        processes: Vec<Unkillable>,
        /// How the script itself ended.
        status: Status,
        /// Where the package's directories remain.
        left: Option<PathBuf>,
    },
    /// A link leads to a file system that does not respond. The agent's processes that wait for it cannot be killed.
    #[error(
        "a link of package `{package}` leads to a file system that does not respond, so {} of the agent cannot be killed: {}",
        count_of(processes),
        list_of(processes)
    )]
    NoResponse {
        /// The package.
        package: Name,
        /// The agent's processes that wait for the file system.
        processes: Vec<Unkillable>,
    },
    /// A link leads to a file system that does not respond. The agent's process that waited for it was killed.
    #[error(
        "a link of package `{package}` leads to a file system that does not respond: could not {step} in time"
    )]
    TimedOut {
        /// The package.
        package: Name,
        /// The operation that did not end in time.
        step: String,
    },
    /// The installed tree cannot be packed.
    #[error("failed to pack the files of package `{package}`")]
    Pack {
        /// The package.
        package: Name,
        /// Why.
        source: PackError,
    },
    /// A file operation around the script failed.
    #[error("failed to compile package `{package}`")]
    Files {
        /// The package.
        package: Name,
        /// Why.
        source: fs::Error,
    },
    /// The sandbox failed.
    #[error("failed to compile package `{package}`")]
    Sandbox {
        /// The package.
        package: Name,
        /// Why.
        source: SandboxError,
    },
    /// A disk (or a quota) is full.
    #[error("no space left in `{}`: {space}", directory.display())]
    NoSpace {
        /// A directory on the disk.
        directory: PathBuf,
        /// How full the disk was when the operation failed.
        space: fs::Space,
        /// The operation that failed.
        source: Box<CompileError>,
    },
    /// A task of this program panicked.
    #[error("failed to compile package `{package}`")]
    Task {
        /// The package.
        package: Name,
        /// The task.
        source: runtime::TaskFailed,
    },
    /// The script succeeded although Landlock rules denied it access. Used internally to start a second run; callers do not get it.
    #[error(
        "the packaging script of `{package}` succeeded, but Landlock denied it access to files"
    )]
    Denied {
        /// The package.
        package: Name,
    },
    /// The script failed because its dependencies are mounts. Used internally to start a run with copies; callers do not get it.
    #[error(
        "the packaging script of `{package}` cannot hard-link, move or replace the files of its dependencies, because their directories are \
         mounts"
    )]
    AcrossMounts {
        /// The package.
        package: Name,
        /// The output lines that report this failure.
        lines: Vec<PrintedLine>,
    },
    /// The user ran a shell in place of the script, so there is no result.
    #[error("the packaging script of `{package}` did not run: a shell was opened in its place")]
    ReplacedByShell {
        /// The package.
        package: Name,
    },
    /// The compilation was canceled.
    #[error("the compilation of package `{package}` was stopped")]
    Stopped {
        /// The package.
        package: Name,
    },
}

impl CompileError {
    /// Whether a disk (or a quota) is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Sandbox { source, .. } => source.is_no_space(),
            other => fs::is_no_space_behind(other),
        }
    }

    /// Converts the error of a full disk to [`NoSpace`](Self::NoSpace), which contains the disk's free space. The disk is that of the
    /// error's file or, if the error names no file, that of the directory `default`. Blocks. Call this before files are removed.
    pub(super) fn with_space(self, default: &Path) -> Self {
        if !self.is_no_space() {
            return self;
        }
        let directory = self.file().map_or(default, fs::parent).to_owned();
        match fs::space(&directory) {
            Ok(space) => Self::NoSpace {
                directory,
                space,
                source: Box::new(self),
            },
            Err(_) => self,
        }
    }

    /// The file that could not be created or written, if the error names one.
    fn file(&self) -> Option<&Path> {
        match self {
            Self::Files { source, .. }
            | Self::Sandbox {
                source: SandboxError::Files(source),
                ..
            }
            | Self::Source {
                source: UnpackError::File(source),
                ..
            }
            | Self::Compiled {
                source: UnpackError::File(source),
                ..
            } => Some(&source.path),
            _ => None,
        }
    }

    /// Whether Landlock rules may have caused the failure. Rules cannot cause a signal, a lack of memory or disk space, or a timeout.
    pub(super) fn may_be_caused_by_rules(&self) -> bool {
        match self {
            Self::Script(failure) => failure.cause.is_none() && failure.status.signal().is_none(),
            Self::InstallTarget { .. } | Self::Denied { .. } => true,
            Self::Source { .. }
            | Self::Compiled { .. }
            | Self::BlobChanged { .. }
            | Self::Changed { .. }
            | Self::ChangedInUse { .. }
            | Self::DanglingScript { .. }
            | Self::ScriptIsNotAFile { .. }
            | Self::AcrossMounts { .. }
            | Self::Pack { .. }
            | Self::Mounted { .. }
            | Self::Unkillable { .. }
            | Self::NoResponse { .. }
            | Self::TimedOut { .. }
            | Self::Files { .. }
            | Self::Sandbox { .. }
            | Self::Task { .. }
            | Self::NoSpace { .. }
            | Self::ReplacedByShell { .. }
            | Self::Stopped { .. } => false,
        }
    }
}

fn count_of(processes: &[Unkillable]) -> String {
    match processes.len() {
        1 => "a process".to_owned(),
        several => format!("{several} processes"),
    }
}

fn list_of(processes: &[Unkillable]) -> String {
    let shown = processes.iter().take(MAX_NAMED).map(ToString::to_string);
    let mut list: Vec<String> = shown.collect();
    if processes.len() > MAX_NAMED {
        list.push("...".to_owned());
    }
    list.join(", ")
}

/// How many processes an error names.
const MAX_NAMED: usize = 5;

/// A failed packaging script.
#[derive(Debug, thiserror::Error)]
#[error("the packaging script of `{package}` {status}")]
pub struct ScriptFailure {
    /// The package.
    pub package: Name,
    /// How the script ended.
    pub status: Status,
    /// How long the script ran.
    pub elapsed: Duration,
    /// The cause, if it is known.
    pub cause: Option<Cause>,
    /// The processes that were running when the script exceeded a time limit. Empty if it did not exceed one.
    pub processes: Vec<RunningProcess>,
    /// The last lines of the script's output.
    pub tail: LastLines,
    /// Undeclared dependencies that the script failed to access.
    pub undeclared: Vec<Name>,
    /// Possible causes.
    pub findings: Vec<Finding>,
    /// The denied access that the output shows. `None` if the script ran without Landlock rules.
    pub denials: Option<Vec<Denial>>,
    /// How each output stream ended.
    pub endings: Vec<Ending>,
    /// The log of the whole output.
    pub log: PathBuf,
    /// The log of the first run, if the second run failed.
    pub first_log: Option<PathBuf>,
    /// Why the log is incomplete, if it is.
    pub log_failure: Option<String>,
}

/// The cause of a script's failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The kernel killed processes because memory ran out while the script ran.
    OutOfMemory {
        /// The number of processes.
        killed: u64,
    },
    /// The script exceeded the time limit.
    TimeLimit {
        /// The time limit.
        limit: Duration,
    },
    /// The script printed nothing for too long.
    Silence {
        /// The limit.
        limit: Duration,
    },
    /// The script tried to create a scratch directory, which exists before the script starts, or to remove it.
    Scratch {
        /// The directory, as the script sees it.
        directory: PathBuf,
    },
    /// A disk was full.
    NoSpace {
        /// A directory of the script whose disk was still full after the script had ended, and the free space of this disk. `None` if
        /// there is no such disk.
        full: Option<(PathBuf, fs::Space)>,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory { killed } => write!(
                f,
                "out of memory: the kernel killed {killed} process{} while the script ran",
                if *killed == 1 { "" } else { "es" }
            ),
            Self::TimeLimit { limit } => {
                write!(f, "it exceeded the time limit of {}", Elapsed(*limit))
            }
            Self::Silence { limit } => write!(
                f,
                "it printed nothing for {}, the limit of --silence-timeout",
                Elapsed(*limit)
            ),
            Self::Scratch { directory } => write!(
                f,
                "`{}` is a scratch directory: it exists before the script starts, and the script cannot remove it",
                directory.display()
            ),
            Self::NoSpace { full: None } => write!(f, "no space left on a device"),
            Self::NoSpace {
                full: Some((directory, space)),
            } => write!(
                f,
                "no space left on the device of `{}`: {space}",
                directory.display(),
            ),
        }
    }
}
