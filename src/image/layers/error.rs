//! Why an entry of a layer must not be merged.

use std::path::PathBuf;

use crate::archive::entry::EntryPathError;

/// The maximum length of a path or of the target of a symbolic link, in bytes: `PATH_MAX` of Linux.
pub(super) const MAX_PATH: usize = 4096;

/// The maximum number of symbolic links that are followed for a path, as in the kernel.
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
    /// The target of a hard link is missing, or is a directory.
    #[error("the target `{}` of the hard link `{}` is not an earlier file", target.display(), entry.display())]
    TargetMissing {
        /// The link.
        entry: PathBuf,
        /// Its target.
        target: PathBuf,
    },
    /// A symbolic link has no target, or one with a null byte.
    #[error("the symbolic link `{}` has no target", entry.display())]
    NoTarget {
        /// The link.
        entry: PathBuf,
    },
    /// An entry for the root is not a directory.
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
    /// The path of an entry leads through too many symbolic links.
    #[error("`{}` leads through more than {MAX_LINKS} symbolic links", entry.display())]
    Links {
        /// The entry.
        entry: PathBuf,
    },
    /// A whiteout names no file in its directory, or is used as a directory.
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
    /// There are too many files, or their paths and the targets of links are too long in total.
    #[error(
        "the image has more than 5 million files, or its paths and the targets of its links need more than 1 GiB"
    )]
    TooMany,
    /// The entry has a type that cannot be unpacked, such as the rest of a file of a multi-volume archive.
    #[error("`{}` is part of an archive of several volumes", entry.display())]
    Unsupported {
        /// The entry.
        entry: PathBuf,
    },
    /// Merging needs too many lookups.
    #[error("the links and whiteouts of the layers need too much time")]
    TooMuchWork,
}
