//! The errors of packing a tree.

use std::io;
use std::path::PathBuf;

use crate::fs;

/// Why a tree could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file of the tree could not be read.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// A file was written, replaced or removed while it was packed.
    #[error("`{}` changed while it was packed", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The path to be packed is not a directory.
    #[error("`{}` is not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The archive could not be written.
    #[error("failed to write the archive")]
    Output {
        /// The error of the writer.
        #[source]
        source: io::Error,
    },
}
