//! The errors of unpacking an archive.

use std::io;
use std::path::PathBuf;

use crate::archive::entry::EntryPathError;
use crate::archive::read::ReadError;
use crate::fs;

/// Why a symbolic link cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkProblem {
    /// The link's target is absolute, or has too many `..`.
    #[error("leads out of the archive")]
    Outside,
    /// The link's target does not exist.
    #[error("leads to nothing")]
    Missing,
    /// The link's target is not a directory.
    #[error("leads to something that is not a directory")]
    NotDirectory,
    /// The link leads to itself, or there are too many links on the way.
    #[error("leads in a circle or through too many links")]
    Circle,
    /// The link did not exist when the entry's path was resolved.
    #[error("another process created while the archive was unpacked")]
    New,
}

/// Why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The input is not an archive, ends early, or is damaged.
    #[error(transparent)]
    Archive(#[from] ReadError),
    /// The compressed data has an unknown format, or is damaged after the end of the archive.
    #[error("failed to read the archive")]
    Decode {
        /// The error of the [`Decoder`](crate::archive::Decoder).
        #[source]
        source: io::Error,
    },
    /// A file operation failed; `fs::Error::is_no_space` says whether the disk is full.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The path of an entry would be outside the destination, or its name is invalid.
    #[error("the archive has an entry that must not be unpacked")]
    Outside {
        /// The problem of the name.
        #[source]
        source: EntryPathError,
    },
    /// The path of an entry contains a symbolic link that does not lead to a directory inside the destination.
    #[error("`{}` would be unpacked through the symbolic link `{}`, which {problem}", entry.display(), link.display())]
    ThroughSymlink {
        /// The path of the entry.
        entry: PathBuf,
        /// The path of the link.
        link: PathBuf,
        /// Why the link cannot be followed.
        problem: LinkProblem,
    },
    /// A component of an entry's path is not a directory.
    #[error("`{}` would be unpacked below `{}`, which is not a directory", entry.display(), parent.display())]
    ParentNotDirectory {
        /// The path of the entry.
        entry: PathBuf,
        /// The path of the component.
        parent: PathBuf,
    },
    /// The target of a hard link is outside the destination.
    #[error("the hard link `{}` points out of the archive", entry.display())]
    HardLinkOutside {
        /// The path of the entry.
        entry: PathBuf,
        /// The problem of the target.
        #[source]
        source: EntryPathError,
    },
    /// The target of a hard link is not an earlier file.
    #[error("the hard link `{}` points to `{}`, which does not exist", entry.display(), target.display())]
    HardLinkMissing {
        /// The path of the entry.
        entry: PathBuf,
        /// The target of the hard link.
        target: PathBuf,
    },
    /// The target of a symbolic link is empty or has a NUL byte.
    #[error("the symbolic link `{}` has no target, or one with a NUL byte", entry.display())]
    NoTarget {
        /// The path of the entry.
        entry: PathBuf,
    },
    /// A directory that is not empty cannot be replaced.
    #[error("`{}` is a directory that is not empty and cannot be replaced", entry.display())]
    DirectoryInTheWay {
        /// The path of the entry.
        entry: PathBuf,
    },
    /// The entry for the destination itself is not a directory.
    #[error("the archive's root is not a directory")]
    RootNotDirectory,
    /// An entry has a type that cannot be unpacked.
    #[error("`{}` is of the unsupported type `{}`", entry.display(), kind.escape_ascii())]
    Unsupported {
        /// The path of the entry.
        entry: PathBuf,
        /// The type byte of the entry's header.
        kind: u8,
    },
}
