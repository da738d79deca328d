//! A package job (one package to compile) and the package report (the result of the compilation),
//! as JSON.
//!
//! [`PackageJob`] is the input of `bosh-agent compile-package`, from flags or from the file of
//! `--job`. `--report` writes the [`PackageReport`]. Another program, or this program on another
//! machine, may write jobs and read reports. This module does no I/O.

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
