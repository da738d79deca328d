//! How a package gets its place in the sandbox of the run.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::Sandbox;
use super::error::SandboxError;
use super::place::{Place, TierPlace};
use super::request::PlaceRequest;
use crate::release::Name;

impl Sandbox {
    /// Makes room for one package and its dependencies, given as names and sealed trees. Waits while another package is in the way:
    /// in a shared tree, every other package or, with rules, one that uses one of the names with other contents. `waits` is called
    /// once if it has to wait. `scratch` names the scratch directories that the package shares with others. `cancel` ends the wait for a
    /// file system.
    ///
    /// Cancel-safe: what was made for a canceled package is removed.
    ///
    /// # Errors
    /// The tree cannot be created or cleared.
    pub async fn enter(
        &self,
        package: &Name,
        dependencies: &[(Name, PathBuf)],
        scratch: &[Name],
        waits: &(dyn Fn() + Send + Sync),
        cancel: &CancellationToken,
    ) -> Result<Place, SandboxError> {
        let request = PlaceRequest::new(package, dependencies, scratch);
        match self {
            Self::Namespaces(namespaces) => {
                let place = namespaces.enter(false, scratch, cancel).await?;
                Ok(Place::in_namespaces(namespaces, place))
            }
            Self::Landlocked(landlocked) => {
                let place = landlocked.enter(request, waits).await?;
                Ok(Place::landlocked(landlocked, place))
            }
            Self::Sequential(sequential) => {
                let place = sequential.enter(request, waits).await?;
                Ok(Place::sequential(sequential, place))
            }
        }
    }

    /// Announces that a package whose script has ended will [`enter_alone`](Self::enter_alone). Returns for how many packages that
    /// will wait.
    #[must_use]
    pub fn step_aside(&self, place: &Place) -> usize {
        match (self, &place.tier) {
            (Self::Landlocked(landlocked), TierPlace::Landlock(place)) => {
                landlocked.step_aside(place)
            }
            _ => 0,
        }
    }

    /// Like [`enter`](Self::enter), but the script is not restricted and, if that requires it, no other script runs meanwhile. The
    /// package must return its previous place first. `waits` receives the number of packages that this waits for, each time it
    /// changes.
    ///
    /// # Errors
    /// The tree cannot be created or cleared.
    pub async fn enter_alone(
        &self,
        package: &Name,
        dependencies: &[(Name, PathBuf)],
        scratch: &[Name],
        waits: &(dyn Fn(usize) + Send + Sync),
        cancel: &CancellationToken,
    ) -> Result<Place, SandboxError> {
        match self {
            Self::Landlocked(landlocked) => {
                let request = PlaceRequest::new(package, dependencies, scratch);
                let place = landlocked.enter_alone(request, waits).await?;
                Ok(Place::landlocked(landlocked, place))
            }
            Self::Namespaces(_) | Self::Sequential(_) => {
                self.enter(package, dependencies, scratch, &|| {}, cancel)
                    .await
            }
        }
    }

    /// Like [`enter`](Self::enter), but dependencies that `enter` would mount are copied to the file system of the package's own
    /// directories. The package must return its previous place first.
    ///
    /// # Errors
    /// The tree cannot be created or cleared.
    pub async fn enter_with_copies(
        &self,
        package: &Name,
        dependencies: &[(Name, PathBuf)],
        scratch: &[Name],
        cancel: &CancellationToken,
    ) -> Result<Place, SandboxError> {
        match self {
            Self::Namespaces(namespaces) => {
                let place = namespaces.enter(true, scratch, cancel).await?;
                Ok(Place::in_namespaces(namespaces, place))
            }
            Self::Landlocked(_) | Self::Sequential(_) => {
                self.enter(package, dependencies, scratch, &|| {}, cancel)
                    .await
            }
        }
    }
}
