//! The input ([`Job`]) and the result ([`Compiled`]) of the compilation of one package.

use std::path::PathBuf;
use std::time::Duration;

use super::finding::Finding;
use super::installed::Installed;
use super::source_date::SourceDate;
use crate::release::digest::Algorithm;
use crate::release::{Digests, Name, Version};
use crate::sandbox::ScriptEnd;

/// One package to compile.
#[derive(Debug, Clone)]
pub struct Job {
    /// Identifies the job's events: several jobs may have packages of the same name.
    pub number: usize,
    /// The package's name.
    pub name: Name,
    /// The package's version, which the script sees as `BOSH_PACKAGE_VERSION`.
    pub version: Version,
    /// The source blob: a tar archive, compressed or not, whose digest has been verified.
    pub source: PathBuf,
    /// The directory of a package that `--keep-failed` has kept. Its sources and installed files are used instead of the source blob.
    pub kept: Option<PathBuf>,
    /// The digests with which the source blob is verified again before it is unpacked. Empty if no script can have changed the blob since
    /// the first verification.
    pub source_digests: Digests,
    /// The upper limit of the times of files in the compiled package, if there is one.
    pub source_date: Option<SourceDate>,
    /// The direct dependencies. The script cannot use other packages.
    pub dependencies: Vec<Dependency>,
    /// The log of the script's output. Its directory exists.
    pub log: PathBuf,
    /// The log of the script's standard output, if it is separate from that of standard error.
    pub stdout_log: Option<PathBuf>,
    /// The path of the compiled blob. Its directory exists.
    pub blob: PathBuf,
    /// Whether another package will be compiled against this one.
    pub is_dependency: bool,
    /// The digests to compute for the compiled blob.
    pub algorithms: Vec<Algorithm>,
}

/// A dependency of a package.
#[derive(Debug, Clone)]
pub struct Dependency {
    /// The name of the dependency.
    pub name: Name,
    /// The version of the dependency.
    pub version: Version,
    /// The installed files.
    pub installed: Installed,
}

/// A compiled package.
#[derive(Debug)]
pub struct Compiled {
    /// The compiled blob: a tar archive, compressed as the source was.
    pub blob: PathBuf,
    /// The blob's size in bytes.
    pub size: u64,
    /// The blob's digests, for the algorithms of the job.
    pub digests: Digests,
    /// The tree in the store, if the package has dependents. [`Schedule`](super::Schedule) removes it when they are compiled.
    pub installed: Option<Installed>,
    /// Whether another compilation may give another result: this package, or one that it was compiled against, was compiled in a second run
    /// without restrictions, or was denied access to files (`--second-run=never`).
    pub unrestricted: bool,
    /// The time until the package's dependents could start. It includes neither waiting for a turn nor packing, which runs concurrently with
    /// the dependents.
    pub elapsed: Duration,
    /// The problems that were detected.
    pub findings: Vec<Finding>,
    /// How the script ended; `None` if the package has none.
    pub script: Option<ScriptEnd>,
}
