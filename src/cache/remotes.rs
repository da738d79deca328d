//! The shared caches that a run uses.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::remote::{Credentials, Limits, LocalHealth, Location, Remote};
use crate::config::Environment;

/// The shared caches of a run.
#[derive(Debug, Default)]
pub struct Remotes {
    /// The caches that packages are fetched from, in this order.
    pub from: Vec<Arc<Remote>>,
    /// The cache that packages are stored in.
    pub to: Option<Arc<Remote>>,
    local: Arc<LocalHealth>,
}

impl Remotes {
    /// Creates the clients of the caches at these locations. Does not connect to them, but reads
    /// files: the netrc file and, for HTTPS, the CA certificates.
    #[must_use]
    pub fn new(
        from: &[Location],
        to: Option<&Location>,
        credentials: &Credentials,
        environment: &Environment,
    ) -> Self {
        let local = Arc::default();
        let remote = |location: &Location| {
            let with = (credentials, environment);
            let remote = Remote::new(location, with, Limits::USUAL, Arc::clone(&local));
            Arc::new(remote)
        };
        let from: Vec<Arc<Remote>> = from.iter().map(remote).collect();
        // If `to` is also in `from`, use one client for both, so that it prints only one warning.
        let to = to.map(|location| {
            let same = from.iter().find(|it| it.location() == location);
            same.map_or_else(|| remote(location), Arc::clone)
        });
        Self { from, to, local }
    }

    /// All shared caches, each once.
    fn all(&self) -> impl Iterator<Item = &Arc<Remote>> {
        let is_from = |to: &Arc<Remote>| self.from.iter().any(|it| Arc::ptr_eq(it, to));
        let to = self.to.iter().filter(move |to| !is_from(to));
        self.from.iter().chain(to)
    }

    /// The shared caches in directories, each once.
    pub fn directories(&self) -> impl Iterator<Item = (PathBuf, &Arc<Remote>)> {
        let directory = |remote: &Remote| remote.location().directory().map(Path::to_owned);
        self.all()
            .filter_map(move |remote| Some((directory(remote)?, remote)))
    }

    /// Creates the directories of shared caches, so that they can be hidden from scripts. A script
    /// could otherwise create a missing directory itself.
    pub async fn prepare(&self) {
        for remote in &self.from {
            remote.prepare(false).await;
        }
        if let Some(remote) = &self.to {
            remote.prepare(true).await;
        }
    }

    /// Reports the first failure of each cache that the run still uses.
    pub fn report_failures(&self) {
        self.all().for_each(|remote| remote.report());
    }

    /// Whether the caller may warn about a failure of the local cache. Only the first caller may,
    /// because a run prints one such warning.
    #[must_use]
    pub fn may_warn_about_local(&self) -> bool {
        self.local.may_warn()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_location_is_one_cache() {
        let location = Location::parse("http://host/a").unwrap();
        let from = [Location::parse("/dir").unwrap(), location.clone()];
        let remotes = Remotes::new(
            &from,
            Some(&location),
            &Credentials::default(),
            &Environment::default(),
        );
        assert!(Arc::ptr_eq(&remotes.from[1], remotes.to.as_ref().unwrap()));
    }
}
