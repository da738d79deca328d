//! One package to compile, and the report of its compilation, as JSON.
//!
//! [`PackageJob`] is the input of `bosh-agent compile-package`: from its flags, or from the file of `--job`. [`PackageReport`] is what
//! `--report` writes. Another program, or this one on another machine, writes the first and reads the second. Nothing here does I/O.

mod job;
mod report;

#[cfg(test)]
mod tests;

pub use job::{
    JobDependency, JobIsolation, JobNetwork, JobProblem, JobSecondRun, JobSettings, PackageJob,
    ScriptUser,
};
pub use report::{
    Agent, Blame, Blob, CompiledBlob, LogLine, PackageFailureReport, PackageReport, PackageResult,
    Phase, PhaseName, REPORT_VERSION, ReportedDependency, Script, SecondRun, SecondRunWith,
    Seconds,
};
