//! Why an archive could not be unpacked.

use std::io;
use std::path::PathBuf;

use crate::archive::entry::EntryPathError;
use crate::archive::read::ReadError;
use crate::fs;

/// Why a symbolic link cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkProblem {
    /// It is absolute, or has too many `..`.
    #[error("leads out of the archive")]
    Outside,
    /// It leads to something that does not exist.
    #[error("leads to nothing")]
    Missing,
    /// It leads to something that is no directory.
    #[error("leads to something that is not a directory")]
    NotDirectory,
    /// It leads to itself, or through too many other links.
    #[error("leads in a circle or through too many links")]
    Circle,
    /// It was not there a moment ago.
    #[error("something else has made while the archive was unpacked")]
    New,
}

/// Why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is none, ends early, or is damaged.
    #[error(transparent)]
    Archive(#[from] ReadError),
    /// The compressed data is of no known kind, or bad behind the archive's end.
    #[error("failed to read the archive")]
    Decode {
        /// What the [`Decoder`](crate::archive::Decoder) said.
        #[source]
        source: io::Error,
    },
    /// The system refused something; `fs::Error::is_no_space` says whether the disk is full.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// An entry would lie outside the destination, or its name is none.
    #[error("the archive has an entry that must not be unpacked")]
    Outside {
        /// What is wrong with its name.
        #[source]
        source: EntryPathError,
    },
    /// An entry would be written through a symbolic link that does not lead to a directory inside.
    #[error("`{}` would be unpacked through the symbolic link `{}`, which {problem}", entry.display(), link.display())]
    ThroughSymlink {
        /// The entry's path.
        entry: PathBuf,
        /// The link's path.
        link: PathBuf,
        /// Why it cannot be followed.
        problem: LinkProblem,
    },
    /// An entry lies below something that is not a directory.
    #[error("`{}` would be unpacked below `{}`, which is not a directory", entry.display(), parent.display())]
    ParentNotDirectory {
        /// The entry's path.
        entry: PathBuf,
        /// What is not a directory.
        parent: PathBuf,
    },
    /// A hard link points out of the destination.
    #[error("the hard link `{}` points out of the archive", entry.display())]
    HardLinkOutside {
        /// The entry's path.
        entry: PathBuf,
        /// What is wrong with its target.
        #[source]
        source: EntryPathError,
    },
    /// A hard link points to a file that has not come before it.
    #[error("the hard link `{}` points to `{}`, which does not exist", entry.display(), target.display())]
    HardLinkMissing {
        /// The entry's path.
        entry: PathBuf,
        /// What it points to.
        target: PathBuf,
    },
    /// A symbolic link says nothing.
    #[error("the symbolic link `{}` has no target, or one with a NUL byte", entry.display())]
    NoTarget {
        /// The entry's path.
        entry: PathBuf,
    },
    /// A directory that is not empty is where something else should go.
    #[error("`{}` is a directory that is not empty and cannot be replaced", entry.display())]
    DirectoryInTheWay {
        /// The entry's path.
        entry: PathBuf,
    },
    /// The entry for the destination itself is not a directory.
    #[error("the archive's root is not a directory")]
    RootNotDirectory,
    /// An entry is of a type that cannot be unpacked.
    #[error("`{}` is of the unsupported type `{}`", entry.display(), kind.escape_ascii())]
    Unsupported {
        /// The entry's path.
        entry: PathBuf,
        /// The type byte of its header.
        kind: u8,
    },
}
