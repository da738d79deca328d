//! What the core tells while it works: names and numbers, never finished sentences.

use std::path::PathBuf;

use super::printed::PrintedLine;
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
    /// Its script has failed where it could not reach all that there is, and is tried once more by itself, unrestricted.
    Retried {
        /// The job's number.
        job: usize,
        /// The package.
        package: Name,
        /// How it failed.
        failure: String,
        /// Packages that it speaks of and that are no dependencies of its package.
        undeclared: Vec<Name>,
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
    /// It is ready, and waits until fewer scripts run.
    Ready,
    /// Its script runs.
    Packaging,
    /// What the script installed is packed.
    Packing,
}
