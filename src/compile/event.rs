//! What the core tells while it works: names and numbers, never finished sentences.

use std::path::PathBuf;
use std::sync::Arc;

use super::changed::Changed;
use super::denials::Denial;
use super::printed::PrintedLine;
use super::second_run::FirstRun;
use crate::release::Name;

/// Something happened to a package. Each has the number of its job, too.
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
    /// The first run of its script, under rules, has failed. A second one without rules follows as soon as no other script runs.
    FirstRunFailed {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// How it failed.
        first: Arc<FirstRun>,
        /// How many scripts run beside it.
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
        /// How the first one failed.
        first: Arc<FirstRun>,
    },
    /// Its script has succeeded although rules denied it something, and no second run is wanted.
    Denied {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// What it was denied.
        denials: Vec<Denial>,
    },
    /// Its script met the bounds of the mounts that its dependencies are, and is run again with copies of them.
    RunWithCopies {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The lines that show this.
        lines: Vec<PrintedLine>,
        /// Where the log of the first run is kept.
        log: PathBuf,
    },
    /// What one of its dependencies installed was changed by somebody, and was installed again.
    TreeChanged {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The dependency.
        dependency: Name,
        /// What was changed.
        changed: Box<Changed>,
    },
    /// A copy of one of its dependencies, which others had as well, was changed by somebody, and another one is made.
    CopyChanged {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The dependency.
        dependency: Name,
        /// What was changed.
        changed: Box<Changed>,
    },
    /// Its script printed something. Not every line is told, only where it stands from time to time.
    Printed {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// The last line.
        line: String,
    },
}

/// What is being done with a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its source is unpacked.
    Unpacking,
    /// Its dependencies are put in place.
    Installing,
    /// It waits until packages that are in its way are done.
    Waiting,
    /// It is ready, and waits until fewer scripts run.
    Ready,
    /// Its first run has failed, and it waits until no other script runs.
    SecondRun {
        /// How many run.
        running: usize,
    },
    /// Its script runs.
    Packaging,
    /// What the script installed is packed.
    Packing,
}
