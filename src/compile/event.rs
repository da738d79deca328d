//! Progress reports of the core: names and numbers, never finished sentences.

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

/// An event of a package, with the number of its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It entered a phase.
    Entered {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The phase.
        phase: Phase,
    },
    /// The first run of its script, under Landlock rules, has failed. A second run without rules follows as soon as no other script
    /// runs.
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
    /// The second run of its script begins.
    SecondRunStarted {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
    },
    /// The second run of its script has succeeded.
    SecondRunSucceeded {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The first run.
        first: Arc<FirstRun>,
    },
    /// Its script has succeeded although the rules denied it access, and second runs are disabled.
    Denied {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The denied access.
        denials: Vec<Denial>,
    },
    /// Its script failed because its dependencies are mounts, and is run again with copies of them.
    RunWithCopies {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The lines that show this.
        lines: Vec<PrintedLine>,
        /// The log of the first run.
        log: PathBuf,
    },
    /// The tree of one of its dependencies was changed, and was reinstalled.
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
    /// A copy of one of its dependencies, which other packages have used, was changed and is replaced.
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
    /// A copy of one of its dependencies was changed while it was compiled, and scripts of other packages ran meanwhile.
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
    /// Its directories were kept after a failure.
    Kept {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// Where.
        directory: PathBuf,
        /// How much disk they take.
        bytes: u64,
    },
    /// A shell is about to be opened in its sandbox: nothing else may be printed until it has ended.
    ShellOpened {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The failed run of its script; `None` if the shell is opened in place of the script.
        failed: Option<FailedRun>,
    },
    /// The shell in its sandbox has ended.
    ShellEnded {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
    },
    /// A run of its script has ended.
    ScriptEnded {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// How long the script ran.
        elapsed: Duration,
        /// The resources that it and its descendants used.
        usage: Usage,
    },
    /// Its script has printed a line. Sent for the latest line from time to time, not for every line.
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
    /// Its source is unpacked.
    Unpacking,
    /// Its dependencies are installed.
    Installing,
    /// It waits for packages that conflict with it.
    Waiting,
    /// It is ready to run and waits for its turn.
    Ready,
    /// It waits for another machine.
    Queued,
    /// Its first run has failed, and it waits for its second run until no other script runs.
    SecondRun {
        /// How many scripts are running.
        running: usize,
    },
    /// Its script runs.
    Packaging,
    /// What the script installed is packed.
    Packing,
    /// What another machine has compiled is downloaded.
    Downloading,
}
