//! Why a package has not been compiled: its script failed, its source is bad, or we or the machine failed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::changed::{Changed, RestoreError};
use super::denials::Denial;
use super::finding::Finding;
use super::printed::PrintedLine;
use crate::archive::{PackError, UnpackError};
use crate::diag::Elapsed;
use crate::process::{Ending, Status, Unkillable};
use crate::release::Name;
use crate::release::digest::DigestMismatch;
use crate::sandbox::SandboxError;
use crate::{fs, runtime};

/// Why a package has not been compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The packaging script did not succeed.
    #[error(transparent)]
    Script(Box<ScriptFailure>),
    /// The source blob cannot be unpacked.
    #[error("failed to unpack the source of package `{package}`")]
    Source {
        /// The package.
        package: Name,
        /// What is wrong with it.
        source: UnpackError,
    },
    /// The blob of a package that is compiled already cannot be unpacked.
    #[error("failed to unpack the compiled package `{package}`")]
    Compiled {
        /// The package.
        package: Name,
        /// What is wrong with it.
        source: UnpackError,
    },
    /// A blob was changed after its digest had been verified.
    #[error("the blob of package `{package}` was changed after it had been verified: `{}`", path.display())]
    BlobChanged {
        /// The package.
        package: Name,
        /// Where the blob is kept.
        path: PathBuf,
        /// How it differs.
        source: DigestMismatch,
    },
    /// What a package installed was changed by somebody, and cannot be had again.
    #[error("what package `{package}` installed was changed afterwards: {}", changed.difference)]
    Changed {
        /// The package whose files were changed.
        package: Name,
        /// What was changed.
        changed: Box<Changed>,
        /// Why it cannot be installed again; `None` where it was changed before it was packed.
        source: Option<Box<RestoreError>>,
    },
    /// The packaging script is a link that leads nowhere.
    #[error("the `packaging` script of `{package}` is a link to `{}`, which does not exist", target.display())]
    DanglingScript {
        /// The package.
        package: Name,
        /// What the link says.
        target: PathBuf,
    },
    /// The packaging script is not a file.
    #[error("the `packaging` script of `{package}` is {found}, not a file")]
    ScriptIsNotAFile {
        /// The package.
        package: Name,
        /// What it is.
        found: &'static str,
    },
    /// The script left something at its install target that is no directory.
    #[error("package `{package}` has no directory at its install target `{}`: {found}", path.display())]
    InstallTarget {
        /// The package.
        package: Name,
        /// The install target.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// The script left something mounted where it installed files.
    #[error("the packaging script of `{package}` left a mount at `{}`, so what it installed there cannot be packed", mount.display())]
    Mounted {
        /// The package.
        package: Name,
        /// Where it is mounted, as the script sees it.
        mount: PathBuf,
    },
    /// Processes of the script could not be killed, and may still change what it installed.
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
        /// Where the package's directories are left.
        left: Option<PathBuf>,
    },
    /// What the script installed cannot be packed.
    #[error("failed to pack what package `{package}` installed")]
    Pack {
        /// The package.
        package: Name,
        /// What went wrong.
        source: PackError,
    },
    /// A file operation around the script failed.
    #[error("failed to compile package `{package}`")]
    Files {
        /// The package.
        package: Name,
        /// What went wrong.
        source: fs::Error,
    },
    /// The script's sandbox failed.
    #[error("failed to compile package `{package}`")]
    Sandbox {
        /// The package.
        package: Name,
        /// What went wrong.
        source: SandboxError,
    },
    /// A disk (or a quota) is full.
    #[error("no space left in `{}`: {space}", directory.display())]
    NoSpace {
        /// Where.
        directory: PathBuf,
        /// How full the disk was when it happened.
        space: fs::Space,
        /// What could not be done.
        source: Box<CompileError>,
    },
    /// A part of this program broke.
    #[error("failed to compile package `{package}`")]
    Task {
        /// The package.
        package: Name,
        /// Which part.
        source: runtime::TaskFailed,
    },
    /// The script succeeded although rules denied it something. It is run again, so that this reaches no caller.
    #[error("the packaging script of `{package}` succeeded, but was denied something")]
    Denied {
        /// The package.
        package: Name,
    },
    /// The script met the bounds of the mounts that its dependencies are. It is run again with copies, so this reaches no caller.
    #[error("the packaging script of `{package}` met the bounds of a mounted dependency")]
    AcrossMounts {
        /// The package.
        package: Name,
        /// The lines that show this.
        lines: Vec<PrintedLine>,
    },
    /// Somebody asked us to stop.
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

    /// Adds how full the disk is, where that is what is wrong: the disk of the file that it is about, or of the directory
    /// `otherwise`. To be called before anything is removed.
    pub(super) fn with_space(self, otherwise: &Path) -> Self {
        if !self.is_no_space() {
            return self;
        }
        let directory = self.file().map_or(otherwise, fs::parent).to_owned();
        match fs::space(&directory) {
            Ok(space) => Self::NoSpace {
                directory,
                space,
                source: Box::new(self),
            },
            Err(_) => self,
        }
    }

    /// The file that could not be made or written.
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

    /// Whether rules can have made the script fail. They send no signals, and take neither memory, space nor time.
    pub(super) fn may_be_for_rules(&self) -> bool {
        match self {
            Self::Script(failure) => failure.cause.is_none() && failure.status.signal().is_none(),
            Self::InstallTarget { .. } | Self::Denied { .. } => true,
            Self::Source { .. }
            | Self::Compiled { .. }
            | Self::BlobChanged { .. }
            | Self::Changed { .. }
            | Self::DanglingScript { .. }
            | Self::ScriptIsNotAFile { .. }
            | Self::AcrossMounts { .. }
            | Self::Pack { .. }
            | Self::Mounted { .. }
            | Self::Unkillable { .. }
            | Self::Files { .. }
            | Self::Sandbox { .. }
            | Self::Task { .. }
            | Self::NoSpace { .. }
            | Self::Stopped { .. } => false,
        }
    }
}

fn count_of(processes: &[Unkillable]) -> String {
    match processes.len() {
        1 => "a process".to_owned(),
        more => format!("{more} processes"),
    }
}

fn list_of(processes: &[Unkillable]) -> String {
    let shown = processes.iter().take(MOST_NAMED).map(ToString::to_string);
    let mut list: Vec<String> = shown.collect();
    if processes.len() > MOST_NAMED {
        list.push("...".to_owned());
    }
    list.join(", ")
}

/// How many processes an error names.
const MOST_NAMED: usize = 5;

/// A packaging script that did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("the packaging script of `{package}` {status}")]
pub struct ScriptFailure {
    /// The package.
    pub package: Name,
    /// How the script ended.
    pub status: Status,
    /// How long it ran.
    pub elapsed: Duration,
    /// What lies behind it, where that can be told.
    pub cause: Option<Cause>,
    /// The last lines that it printed.
    pub tail: Vec<String>,
    /// Packages that it failed to reach and that its package does not declare.
    pub undeclared: Vec<Name>,
    /// What may lie behind it.
    pub findings: Vec<Finding>,
    /// What it was denied where it ran under rules, as far as its output shows it; `None` where it ran without.
    pub denials: Option<Vec<Denial>>,
    /// The end of each of its streams.
    pub endings: Vec<Ending>,
    /// Everything that it printed.
    pub log: PathBuf,
    /// Everything that the first run printed, where this was the second.
    pub first_log: Option<PathBuf>,
    /// Why the log is not complete, where it is not.
    pub log_failure: Option<String>,
}

/// What lies behind a script's failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The kernel killed processes for lack of memory while the script ran.
    OutOfMemory {
        /// How many.
        killed: u64,
    },
    /// It ran longer than it may.
    TimeLimit {
        /// How long it may.
        limit: Duration,
    },
    /// The script tried to create a scratch directory, which is there before the script starts, or to remove it.
    Scratch {
        /// The directory, as the script sees it.
        directory: PathBuf,
    },
    /// A disk was full.
    NoSpace {
        /// A directory on it and how full it was when the script had ended, where one that is known to be used was found to be
        /// full then.
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
                write!(f, "it ran longer than the {} that it may", Elapsed(*limit))
            }
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
