//! Why a tarball is not a release.

use std::io;
use std::path::PathBuf;

use super::lookalike::Lookalike;
use crate::archive::ReadError;
use crate::archive::entry::EntryPathError;
use crate::diag::Bytes;
use crate::fs;
use crate::release::ManifestProblem;

/// Why a tarball is not a release.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file operation failed.
    #[error(transparent)]
    Files(#[from] fs::Error),
    /// It cannot be decompressed.
    #[error("failed to read the tarball")]
    Decode(#[source] io::Error),
    /// It is not a tar archive, or it is damaged.
    #[error("failed to read the tarball")]
    Read(#[from] ReadError),
    /// An entry would be unpacked outside.
    #[error("entry `{name}`")]
    Path {
        /// The entry's name in the archive.
        name: String,
        /// What is wrong with it.
        source: EntryPathError,
    },
    /// It is something other than a tar archive.
    #[error("{0}")]
    Lookalike(Lookalike),
    /// A URL is given.
    #[error("it is a URL, not a path: {}", if *is_file { "pass the path without `file://`" } else { "download it first" })]
    Url {
        /// Whether it names a local file.
        is_file: bool,
    },
    /// No file matches a pattern.
    #[error("no file matches this pattern: {advice}")]
    NoMatch {
        /// What may be the reason.
        advice: String,
    },
    /// The path does not exist.
    #[error("it does not exist: {advice}")]
    Absent {
        /// What may be the reason, or meant instead.
        advice: String,
    },
    /// A directory is given.
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
    /// The manifest does not say what it must.
    #[error("release.MF is not valid")]
    Manifest(Vec<ManifestProblem>),
    /// The sparse files of the tarball have too many zeros that it does not store.
    #[error("the sparse files up to entry `{}` are too large: more than {limit}", path.display())]
    Sparse {
        /// The entry.
        path: PathBuf,
        /// The limit.
        limit: Bytes,
    },
    /// A link leads to nothing that came before.
    #[error("entry `{}` is a link to `{target}`, which is not in the tarball before it", path.display())]
    Link {
        /// The entry.
        path: PathBuf,
        /// What it links to.
        target: String,
    },
}
