//! A sealed tree that was changed, and why it could not be installed again.

use std::path::PathBuf;

use super::script_runs::Suspects;
use crate::archive::UnpackError;
use crate::fs::{self, Difference};
use crate::release::digest::DigestMismatch;

/// How often a tree is installed again for one package.
pub(super) const ATTEMPTS: usize = 3;

/// A tree was changed after it had been sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Where it is.
    pub tree: PathBuf,
    /// What of it.
    pub difference: Difference,
    /// The packages whose scripts ran since it was last known to be good.
    pub suspects: Suspects,
}

/// Why a changed tree could not be installed again.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The package was not packed before.
    #[error("there is no compiled package to install it from again")]
    NoBlob,
    /// Its compiled package was changed as well.
    #[error("its compiled package `{}` was changed as well", path.display())]
    Blob {
        /// The file.
        path: PathBuf,
        /// How.
        source: DigestMismatch,
    },
    /// Its compiled package cannot be unpacked.
    #[error("failed to install it again")]
    Unpack(#[from] UnpackError),
    /// Somebody changes it again and again.
    #[error("it was installed again {ATTEMPTS} times, and changed each time")]
    Again,
}

impl From<fs::Error> for RestoreError {
    fn from(error: fs::Error) -> Self {
        Self::Unpack(error.into())
    }
}
