//! Why an entry of a layer must not be merged.

use std::path::PathBuf;

use crate::archive::entry::EntryPathError;

/// The largest length of a path or of the target of a symbolic link, in bytes: programs cannot use longer ones.
pub(super) const MAX_PATH: usize = 4096;

/// How many symbolic links are followed for a path, as in the kernel.
pub(super) const MAX_LINKS: usize = 40;

/// Why an entry must not be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// The name is not a path below the root.
    #[error("an entry is outside the root")]
    Outside {
        /// The reason.
        source: EntryPathError,
    },
    /// The target of a hard link is not a path below the root.
    #[error("the target of the hard link `{}` is outside the root", entry.display())]
    TargetOutside {
        /// The link.
        entry: PathBuf,
        /// The reason.
        source: EntryPathError,
    },
    /// The target of a hard link is missing or a directory.
    #[error("the target `{}` of the hard link `{}` is not an earlier file", target.display(), entry.display())]
    TargetMissing {
        /// The link.
        entry: PathBuf,
        /// Its target.
        target: PathBuf,
    },
    /// A symbolic link without a target.
    #[error("the symbolic link `{}` has no target", entry.display())]
    NoTarget {
        /// The link.
        entry: PathBuf,
    },
    /// The root is not a directory.
    #[error("an entry replaces the root by something else than a directory")]
    RootNotDirectory,
    /// A directory of an entry is a file.
    #[error("`{}` is inside `{}`, which is not a directory", entry.display(), parent.display())]
    NotDirectory {
        /// The entry.
        entry: PathBuf,
        /// The file.
        parent: PathBuf,
    },
    /// Too many symbolic links on the way.
    #[error("`{}` leads through more than {MAX_LINKS} symbolic links", entry.display())]
    Links {
        /// The entry.
        entry: PathBuf,
    },
    /// A whiteout that names nothing in its directory, or that has entries.
    #[error("`{}` is not a valid whiteout", entry.display())]
    Whiteout {
        /// The entry.
        entry: PathBuf,
    },
    /// A path is too long.
    #[error("a path or target of {length} bytes is longer than {MAX_PATH} bytes")]
    TooLong {
        /// The length, in bytes.
        length: usize,
    },
    /// The files are too many, or their paths and the targets of links too long.
    #[error(
        "the image has more than 5 million files, or its paths and the targets of its links need more than 1 GiB"
    )]
    TooMany,
    /// The rest of a file on another volume.
    #[error("`{}` is part of an archive of several volumes", entry.display())]
    Unsupported {
        /// The entry.
        entry: PathBuf,
    },
    /// Merging takes too long.
    #[error("the links and whiteouts of the layers need too much time")]
    TooMuchWork,
}
