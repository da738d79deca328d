//! Events that report the progress of a compilation, as data. The front ends format them as text.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::changed::Changed;
use super::denials::Denial;
use super::printed::PrintedLine;
use super::second_run::FirstRun;
use super::shell::FailedRun;
use crate::process::Usage;
use crate::release::Name;

/// An event of a package. Every variant has the number of the package's [`Job`](super::Job), because several jobs can have the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The package entered a phase.
    Entered {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The phase.
        phase: Phase,
    },
    /// The first run of the package's script, under Landlock rules, has failed. A second run without rules follows as soon as no other
    /// script runs.
    FirstRunFailed {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The first run.
        first: Arc<FirstRun>,
        /// How many other scripts are running.
        running: usize,
    },
    /// The second run of the script begins.
    SecondRunStarted {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
    },
    /// The second run of the script has succeeded.
    SecondRunSucceeded {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The first run.
        first: Arc<FirstRun>,
    },
    /// The script has succeeded although Landlock rules denied it access, and second runs are disabled.
    Denied {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The denied access.
        denials: Vec<Denial>,
    },
    /// The script failed because its dependencies are mounts. It is run again with copies of the dependencies.
    RunWithCopies {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The output lines that report this failure.
        lines: Vec<PrintedLine>,
        /// The log of the first run.
        log: PathBuf,
    },
    /// The installed files of a dependency were changed, and were reinstalled.
    TreeChanged {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The dependency.
        dependency: Name,
        /// The change.
        changed: Box<Changed>,
    },
    /// A copy of a dependency was changed after another package had used it, and is replaced.
    CopyChanged {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The dependency.
        dependency: Name,
        /// The change.
        changed: Box<Changed>,
    },
    /// A copy of a dependency was changed while the package was compiled, and scripts of other packages ran meanwhile.
    CopyChangedInUse {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The dependency.
        dependency: Name,
        /// The change.
        changed: Box<Changed>,
    },
    /// The package's directories were kept after a failure.
    Kept {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The directory that contains the kept directories.
        directory: PathBuf,
        /// The size of the kept directories on disk.
        bytes: u64,
    },
    /// A shell is about to be opened in the package's sandbox. Nothing else may be printed until [`ShellEnded`](Self::ShellEnded).
    ShellOpened {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The failed run of its script; `None` if the shell is opened in place of the script.
        failed: Option<FailedRun>,
    },
    /// The shell in the package's sandbox has ended.
    ShellEnded {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
    },
    /// A run of the script has ended.
    ScriptEnded {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// How long the script ran.
        elapsed: Duration,
        /// The resources that the script and its descendants used.
        usage: Usage,
    },
    /// The script has printed lines. This event is sent from time to time, not for every line.
    Printed {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The last line.
        line: String,
    },
}

impl Event {
    /// The number of the package's job.
    #[must_use]
    pub fn job(&self) -> usize {
        match self {
            Self::Entered { job, .. }
            | Self::FirstRunFailed { job, .. }
            | Self::SecondRunStarted { job, .. }
            | Self::SecondRunSucceeded { job, .. }
            | Self::Denied { job, .. }
            | Self::RunWithCopies { job, .. }
            | Self::TreeChanged { job, .. }
            | Self::CopyChanged { job, .. }
            | Self::CopyChangedInUse { job, .. }
            | Self::Kept { job, .. }
            | Self::ShellOpened { job, .. }
            | Self::ShellEnded { job, .. }
            | Self::ScriptEnded { job, .. }
            | Self::Printed { job, .. } => *job,
        }
    }
}

/// A phase in the compilation of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The source is being unpacked.
    Unpacking,
    /// The dependencies are being installed.
    Installing,
    /// The package waits for packages that use the same directories.
    Waiting,
    /// The script is ready and waits for its turn.
    Ready,
    /// The package waits for a machine that compiles it.
    Queued,
    /// The first run has failed. The second run starts when no other script runs.
    SecondRun {
        /// How many scripts are running.
        running: usize,
    },
    /// The script runs.
    Packaging,
    /// The installed files are being packed.
    Packing,
    /// The result of another machine is being downloaded.
    Downloading,
}
