//! Changed trees in the store, and why one could not be reinstalled.

use std::path::PathBuf;

use super::script_runs::Suspects;
use crate::archive::UnpackError;
use crate::fs::{self, Difference};
use crate::release::digest::DigestMismatch;

/// How often a tree is reinstalled for one package.
pub(super) const ATTEMPTS: usize = 3;

/// A tree was changed after it had been sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The tree.
    pub tree: PathBuf,
    /// The first difference from its record.
    pub difference: Difference,
    /// The packages whose scripts ran since its last successful check.
    pub suspects: Suspects,
}

/// Why a changed tree could not be reinstalled.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The package was not packed.
    #[error("there is no compiled package to reinstall it from")]
    NoBlob,
    /// Its compiled package was changed as well.
    #[error("its compiled package `{}` was changed as well", path.display())]
    Blob {
        /// The compiled package.
        path: PathBuf,
        /// How its digest differs.
        source: DigestMismatch,
    },
    /// Its compiled package cannot be unpacked.
    #[error("failed to reinstall it")]
    Unpack(#[from] UnpackError),
    /// The reinstalled trees were changed, too.
    #[error("it was reinstalled {ATTEMPTS} times and changed each time")]
    Again,
}

impl From<fs::Error> for RestoreError {
    fn from(error: fs::Error) -> Self {
        Self::Unpack(error.into())
    }
}
