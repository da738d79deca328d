//! The reasons why an input is not a usable release tarball.

use std::io;
use std::path::PathBuf;

use super::lookalike::Lookalike;
use crate::archive::ReadError;
use crate::archive::entry::EntryPathError;
use crate::diag::Bytes;
use crate::fs;
use crate::release::ManifestProblem;

/// The reason why an input is not a usable release tarball.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file operation failed.
    #[error(transparent)]
    Files(#[from] fs::Error),
    /// The tarball cannot be decompressed.
    #[error("failed to read the tarball")]
    Decode(#[source] io::Error),
    /// The tarball is not a tar archive, or is damaged.
    #[error("failed to read the tarball")]
    Read(#[from] ReadError),
    /// The path of an entry would be outside the directory of the release.
    #[error("entry `{name}`")]
    Path {
        /// The entry's name in the archive.
        name: String,
        /// The problem of the name.
        source: EntryPathError,
    },
    /// The file is something other than a tar archive.
    #[error("{0}")]
    Lookalike(Lookalike),
    /// The input is a URL.
    #[error("it is a URL, not a path: {}", if *is_file { "pass the path without `file://`" } else { "download it first" })]
    Url {
        /// Whether the URL names a local file.
        is_file: bool,
    },
    /// No file matches a pattern.
    #[error("no file matches this pattern: {advice}")]
    NoMatch {
        /// The possible reason.
        advice: String,
    },
    /// The path does not exist.
    #[error("it does not exist: {advice}")]
    Absent {
        /// The possible reason, or what the user may have meant.
        advice: String,
    },
    /// The input is a directory.
    #[error("it is a directory, not a tarball: {}", advice)]
    Directory {
        /// What to do.
        advice: String,
    },
    /// There is no manifest.
    #[error("the tarball has no release.MF at its top; {0}")]
    NoManifest(Lookalike),
    /// The manifest is not a file, or it is too long.
    #[error("release.MF is {0}")]
    OddManifest(String),
    /// The manifest has problems.
    #[error("release.MF is not valid")]
    Manifest(Vec<ManifestProblem>),
    /// The sparse files of the tarball have too many zeros that the tarball does not store.
    #[error("the sparse files up to entry `{}` are too large: more than {limit}", path.display())]
    Sparse {
        /// The entry.
        path: PathBuf,
        /// The limit.
        limit: Bytes,
    },
    /// The target of a hard link is not an earlier entry.
    #[error("entry `{}` is a link to `{target}`, which is not in the tarball before it", path.display())]
    Link {
        /// The entry.
        path: PathBuf,
        /// The target of the link.
        target: String,
    },
}
