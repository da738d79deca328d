//! The facts from which the documents are made.

use serde_json::Value;

use crate::package_job::{Agent, Blob};

/// A compiled release.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleaseFacts {
    /// The name.
    pub name: String,
    /// The version.
    pub version: String,
    /// The commit that the release was created from, if its manifest has one.
    pub commit: Option<String>,
    /// Whether the release was created with uncommitted changes.
    pub has_uncommitted_changes: bool,
    /// The stemcell that the release was compiled for.
    pub stemcell: StemcellFacts,
    /// The tarball of the source release; `None` if the release was compiled before the run.
    pub source: Option<NamedBlob>,
    /// The tarball of the compiled release.
    pub result: NamedBlob,
    /// The licenses of the release.
    pub licenses: Vec<License>,
    /// The packages, in the order of their names.
    pub packages: Vec<PackageFacts>,
}

/// A stemcell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StemcellFacts {
    /// The operating system, such as `ubuntu-noble`.
    pub os: String,
    /// The version.
    pub version: String,
    /// The SHA-256 of the image in which packages were compiled, if there is one.
    pub image: Option<String>,
}

/// A file with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedBlob {
    /// The name; for a tarball, without directories.
    pub name: String,
    /// The size and the digests.
    pub blob: Blob,
}

/// A package of a compiled release.
#[derive(Debug, Clone, PartialEq)]
pub struct PackageFacts {
    /// The name.
    pub name: String,
    /// The version.
    pub version: String,
    /// The fingerprint of the source; empty if it is unknown.
    pub fingerprint: String,
    /// The names of the direct dependencies, which are packages of the same release.
    pub dependencies: Vec<String>,
    /// The source; `None` if it is unknown, because the package was compiled before the run.
    pub source: Option<Blob>,
    /// The compiled package.
    pub compiled: Blob,
    /// Where the compiled package comes from.
    pub origin: Origin,
    /// The licenses in the source or, if it is unknown, in the compiled package.
    pub licenses: Vec<License>,
}

/// Where a compiled package comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The run compiled it.
    Compiled,
    /// An earlier run compiled it, and this run found it in a cache.
    Cache,
    /// The run took it from an earlier result with this file name.
    EarlierResult(String),
    /// The release contained it.
    Release,
}

impl Origin {
    /// The word for the origin in documents.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Compiled => "compiled",
            Self::Cache => "cache",
            Self::EarlierResult(_) => "earlier result",
            Self::Release => "release",
        }
    }
}

/// A license text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct License {
    /// The SPDX identifier, if the text is that of a well-known license.
    pub id: Option<&'static str>,
    /// The path of the file in its archive.
    pub path: String,
    /// The text.
    pub text: String,
}

/// Who wrote a document, and when.
#[derive(Debug, Clone, Copy)]
pub struct Creation<'a> {
    /// The program.
    pub agent: &'a Agent,
    /// The time, in RFC 3339 and UTC, without fractions of a second.
    pub time: &'a str,
}

/// How a release was compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildFacts {
    /// The URI of the build platform.
    pub builder: String,
    /// The parameters that the user chose.
    pub options: Value,
    /// The isolation tier of packaging scripts, if the run compiled packages on this machine.
    pub isolation: Option<String>,
    /// The server whose machines compiled packages of the release in the run.
    pub server: Option<String>,
    /// How many packages were compiled concurrently, at most.
    pub jobs: Option<usize>,
    /// When the run began and ended, in RFC 3339 and UTC; `None` if equal runs must have equal documents.
    pub times: Option<(String, String)>,
}
