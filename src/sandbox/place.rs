//! The place of one package in a sandbox.

use std::path::PathBuf;
use std::sync::Arc;

use super::landlocked::{LandlockPlace, Landlocked, ReplacedCopy};
use super::namespaces::{NamespacePlace, Namespaces};
use super::sequential::{Sequential, SequentialPlace};
use crate::config::Vcap;
use crate::release::Name;

/// The place of one package in a sandbox: where the agent creates the package's directories. When the package is compiled, pass it to
/// [`Sandbox::leave`](super::Sandbox::leave) and drop it: until then other packages may have to wait.
#[derive(Debug)]
pub struct Place {
    root: PathBuf,
    pub(super) tier: TierPlace,
}

/// The part of a place that depends on the tier.
#[derive(Debug)]
pub(super) enum TierPlace {
    Namespace(Arc<NamespacePlace>),
    Landlock(Arc<LandlockPlace>),
    Sequential(Arc<SequentialPlace>),
}

impl Place {
    /// The directory that the script sees as its base directory. The agent creates the package's directories in it.
    #[must_use]
    pub fn vcap(&self) -> Vcap {
        Vcap::new(&self.root)
    }

    /// Whether the script is denied something that the Go agent allows, so that it may succeed in a place of
    /// [`Sandbox::enter_alone`](super::Sandbox::enter_alone).
    #[must_use]
    pub fn is_restricted(&self) -> bool {
        match &self.tier {
            TierPlace::Landlock(place) => place.has_rules(),
            TierPlace::Namespace(_) | TierPlace::Sequential(_) => false,
        }
    }

    /// Copies of dependencies that were made for other packages, had been changed by a script, and were removed when this package entered.
    #[must_use]
    pub fn replaced(&self) -> &[ReplacedCopy] {
        match &self.tier {
            TierPlace::Landlock(place) => place.replaced(),
            TierPlace::Namespace(_) | TierPlace::Sequential(_) => &[],
        }
    }

    /// Whether a dependency of the package is already available in the place, because another package uses it. Otherwise
    /// [`Sandbox::provide`](super::Sandbox::provide) makes it available.
    #[must_use]
    pub fn has(&self, dependency: &Name) -> bool {
        match &self.tier {
            TierPlace::Landlock(place) => place.has(dependency),
            TierPlace::Namespace(_) | TierPlace::Sequential(_) => false,
        }
    }

    pub(super) fn in_namespaces(namespaces: &Namespaces, place: Arc<NamespacePlace>) -> Self {
        Self {
            root: namespaces.root(&place),
            tier: TierPlace::Namespace(place),
        }
    }

    pub(super) fn landlocked(landlocked: &Landlocked, place: Arc<LandlockPlace>) -> Self {
        Self {
            root: landlocked.tree().base().to_owned(),
            tier: TierPlace::Landlock(place),
        }
    }

    pub(super) fn sequential(sequential: &Sequential, place: Arc<SequentialPlace>) -> Self {
        Self {
            root: sequential.tree().base().to_owned(),
            tier: TierPlace::Sequential(place),
        }
    }
}
