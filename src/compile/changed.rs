//! Errors about changed trees, and about reinstalling them. A tree is the directory of an installed package in the store. It must not change
//! after it was sealed.

use std::path::PathBuf;

use super::script_runs::Suspects;
use crate::archive::UnpackError;
use crate::fs::{self, Difference};
use crate::release::digest::DigestMismatch;

/// The maximum number of times that a changed dependency is reinstalled for one package.
pub(super) const ATTEMPTS: usize = 3;

/// A tree was changed after it had been sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The path of the changed tree.
    pub tree: PathBuf,
    /// The first difference from the record that was made when the tree was sealed.
    pub difference: Difference,
    /// The packages whose scripts ran since the last successful check of the tree.
    pub suspects: Suspects,
}

/// Why a changed tree could not be reinstalled.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The package has no compiled blob, because it was not packed.
    #[error("there is no compiled package to reinstall it from")]
    NoBlob,
    /// The compiled blob was changed as well.
    #[error("it cannot be installed again, because the compiled package `{}` has also changed", path.display())]
    Blob {
        /// The path of the blob.
        path: PathBuf,
        /// How the blob's digest differs.
        source: DigestMismatch,
    },
    /// The compiled blob cannot be unpacked.
    #[error("failed to reinstall it")]
    Unpack(#[from] UnpackError),
    /// Each reinstalled tree was changed as well.
    #[error("it was reinstalled {ATTEMPTS} times and changed each time")]
    ChangedAgain,
}

impl From<fs::Error> for RestoreError {
    fn from(error: fs::Error) -> Self {
        Self::Unpack(error.into())
    }
}
