//! What is to be compiled, and what came of it.

use std::path::PathBuf;
use std::time::Duration;

use super::finding::Finding;
use super::installed::Installed;
use crate::release::digest::Algorithm;
use crate::release::{Digests, Name, Version};
use crate::sandbox::ScriptEnd;

/// One package to compile.
#[derive(Debug, Clone)]
pub struct Job {
    /// Tells the job's events from those of others, which may have packages of the same name.
    pub number: usize,
    /// The package's name.
    pub name: Name,
    /// The package's version, which the script sees as `BOSH_PACKAGE_VERSION`.
    pub version: Version,
    /// The source blob: a tar archive, compressed or not, whose digest has been verified.
    pub source: PathBuf,
    /// The digests of the source blob by which it is verified once more before it is unpacked; none where no script can have run
    /// since it was verified.
    pub source_digests: Digests,
    /// The direct dependencies. No others are there while the script runs.
    pub dependencies: Vec<Dependency>,
    /// Where everything that the script prints is kept. The directory exists.
    pub log: PathBuf,
    /// The separate log of its standard output, if the two streams are not to share one log.
    pub stdout_log: Option<PathBuf>,
    /// Where the compiled blob is written. The directory exists.
    pub blob: PathBuf,
    /// Whether another package will be compiled against this one.
    pub is_dependency: bool,
    /// The digests of the compiled blob that are wanted.
    pub algorithms: Vec<Algorithm>,
}

/// A package that another one is compiled against.
#[derive(Debug, Clone)]
pub struct Dependency {
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// What it installed.
    pub installed: Installed,
}

/// A compiled package.
#[derive(Debug)]
pub struct Compiled {
    /// The compiled blob: a tar archive, compressed where the source was.
    pub blob: PathBuf,
    /// The blob's size in bytes.
    pub size: u64,
    /// The blob's digests, by the algorithms that the job names.
    pub digests: Digests,
    /// What the script installed, in the store: where others can be compiled against it, or [`Schedule`](super::Schedule) has it
    /// removed.
    pub installed: Option<Installed>,
    /// Whether it was compiled by a script that nothing kept from undeclared packages, after it had failed otherwise.
    pub unrestricted: bool,
    /// How long it took until those compiled against it could start, without the wait for its turn. Packing goes on beside them.
    pub elapsed: Duration,
    /// What a person should know of it.
    pub findings: Vec<Finding>,
    /// How the script ended; `None` where the package has none.
    pub script: Option<ScriptEnd>,
}
