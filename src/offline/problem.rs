//! The problems that a release can have, each as a message for the user.

use std::error::Error;

use crate::archive::Compression;
use crate::diag::{Bytes, Chain};
use crate::release::graph::GraphProblem;
use crate::release::{DigestMismatch, Name, Slug};

/// The maximum size of `job.MF` in bytes. Long ones have a few hundred kilobytes.
pub(super) const MANIFEST_LIMIT: u64 = 4 << 20;

/// A problem of a release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The manifest lists something that the tarball does not have.
    #[error("{what}: `{path}` is missing from the tarball")]
    MissingBlob {
        /// The item to which the blob belongs, such as a package.
        what: String,
        /// The path at which the tarball should have it.
        path: String,
    },
    /// A directory or a link has the path of a blob.
    #[error("{what}: `{path}` is not a file")]
    NotAFile {
        /// The item to which the blob belongs, such as a package.
        what: String,
        /// The path in the tarball.
        path: String,
    },
    /// A blob does not have the digest that the manifest lists.
    #[error("{what}: `{path}` does not match its digest: {mismatch}")]
    Digest {
        /// The item to which the blob belongs, such as a package.
        what: String,
        /// The path in the tarball.
        path: String,
        /// The digest, expected and found.
        mismatch: DigestMismatch,
    },
    /// A blob has the right digest and wrong contents.
    #[error("{what}: `{path}` {problem}")]
    Content {
        /// The item to which the blob belongs, such as a package.
        what: String,
        /// The path in the tarball.
        path: String,
        /// The problem of the contents.
        problem: ContentProblem,
    },
    /// The tarball has a package that the manifest does not list.
    #[error("`{path}` is in the tarball, but release.MF lists no such package")]
    ExtraPackage {
        /// The path in the tarball.
        path: String,
    },
    /// The dependency graph has a problem.
    #[error("{0}")]
    Graph(GraphProblem),
    /// A job needs a package that the release does not have.
    #[error("job `{job}` needs package `{package}`, which is not in the release")]
    JobPackage {
        /// The job.
        job: Name,
        /// The package, escaped.
        package: String,
    },
    /// Neither `job.MF` nor `release.MF` says which packages a job needs.
    #[error(
        "cannot determine the packages of job `{job}`: its job.MF is not valid YAML, and release.MF does not list its packages. Compile \
         the whole release, without --only-needed, --job and --package"
    )]
    UnknownJobPackages {
        /// The job.
        job: Name,
    },
    /// A compiled package is for another stemcell.
    #[error(
        "package `{package}` was compiled for stemcell {theirs}, but the target is {ours}: pass the source release, or \
         `--stemcell {theirs}`"
    )]
    OtherStemcell {
        /// The package.
        package: Name,
        /// The stemcell for which it was compiled.
        theirs: Slug,
        /// The stemcell of this run.
        ours: Slug,
    },
}

/// A problem with the contents of a blob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentProblem {
    /// The blob cannot be extracted.
    #[error(
        "is not a valid tar archive ({cause}), although it matches its digest: create the release again"
    )]
    NotArchive {
        /// The cause.
        cause: String,
    },
    /// The names of the archive's entries need too much memory.
    #[error("has too many entries")]
    TooManyEntries,
    /// The `job.MF` is longer than this program reads.
    #[error("has a job.MF of more than {}", Bytes(MANIFEST_LIMIT))]
    ManifestTooLong,
    /// The job is not compressed with gzip.
    #[error("is {}, not gzip: Directors refuse the release", format_of(*found))]
    NotGzip {
        /// The compression of the job.
        found: Compression,
    },
    /// The job has no `job.MF`.
    #[error("has no job.MF at its top: Directors refuse the release")]
    NoManifest,
    /// The `job.MF` has the name of another job, or none.
    #[error("has a job.MF {}: Directors refuse the release", named(found.as_deref()))]
    OtherName {
        /// The name in `job.MF`, if any.
        found: Option<String>,
    },
    /// A listed template is missing.
    #[error(
        "lacks the template `templates/{path}`, which its job.MF lists: Directors refuse the release"
    )]
    NoTemplate {
        /// The template's path below `templates`.
        path: String,
    },
    /// The job has no file for monit.
    #[error(
        "has neither `monit` nor another `*.monit` file at its top: Directors refuse the release"
    )]
    NoMonit,
}

impl ContentProblem {
    /// The problem of a blob that cannot be extracted.
    pub(crate) fn not_archive(error: &(dyn Error + 'static)) -> Self {
        Self::NotArchive {
            cause: Chain(error).to_string(),
        }
    }
}

fn format_of(compression: Compression) -> String {
    match compression {
        Compression::None => "plain tar".to_owned(),
        other => format!("compressed with {other}"),
    }
}

fn named(found: Option<&str>) -> String {
    match found {
        Some(name) => format!("of a job `{}`", name.escape_debug()),
        None => "without a name".to_owned(),
    }
}
