//! What a package requests of a sandbox, and the directories that it claims.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::SandboxError;
use crate::release::Name;

/// The request of a package for a place in a sandbox.
#[derive(Debug, Clone)]
pub(super) struct PlaceRequest {
    pub(super) package: Name,
    /// Names and sealed trees.
    pub(super) dependencies: Vec<(Name, PathBuf)>,
    /// The scratch directories that it shares with other packages.
    pub(super) scratch: Vec<Name>,
}

impl PlaceRequest {
    pub(super) fn new(package: &Name, dependencies: &[(Name, PathBuf)], scratch: &[Name]) -> Self {
        Self {
            package: package.clone(),
            dependencies: dependencies.to_vec(),
            scratch: scratch.to_vec(),
        }
    }

    pub(super) fn dependency_names(&self) -> impl Iterator<Item = &Name> {
        self.dependencies.iter().map(|(name, _)| name)
    }

    /// The package and its dependencies.
    pub(super) fn names(&self) -> Vec<Name> {
        let package = std::iter::once(&self.package);
        package.chain(self.dependency_names()).cloned().collect()
    }
}

/// The data directories that one package has to itself. Clones share one list.
#[derive(Debug, Clone, Default)]
pub(super) struct PrivateNames(Arc<Mutex<ClaimedNames>>);

#[derive(Debug, Default)]
struct ClaimedNames {
    names: Vec<Name>,
    /// Whether the package has left the sandbox. Then no name is added.
    has_left: bool,
}

impl PrivateNames {
    /// Calls `claim` to add names, unless the package has left: a canceled claim may still run then.
    pub(super) fn extend(
        &self,
        claim: impl FnOnce(&mut Vec<Name>) -> Result<(), SandboxError>,
    ) -> Result<(), SandboxError> {
        let mut claimed = self.lock();
        match claimed.has_left {
            true => Ok(()),
            false => claim(&mut claimed.names),
        }
    }

    pub(super) fn names(&self) -> Vec<Name> {
        self.lock().names.clone()
    }

    /// Removes all names. None is added afterwards.
    pub(super) fn leave(&self) -> Vec<Name> {
        let mut claimed = self.lock();
        claimed.has_left = true;
        std::mem::take(&mut claimed.names)
    }

    fn lock(&self) -> MutexGuard<'_, ClaimedNames> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
