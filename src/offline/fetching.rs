//! Fetches packages from shared caches. Each package is fetched when the schedule needs it, while others are compiled.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::error::OfflineError;
use super::graph::PackageNode;
use super::known::{HitOrigin, Known};
use super::logs::PackageLogs;
use super::progress::Progress;
use super::shared_caches::{self, InShared};
use super::wanted::Wanted;
use crate::cache::{Damage, Entry, LocalCache, Remote};
use crate::compile::{Fetch, FetchedBlob};
use crate::diag::Bytes;
use crate::runtime;

/// The result of a fetch: the package or the reason for its compilation, and damaged files of the local cache.
type Arrival = Result<(Known, Vec<Damage>), OfflineError>;

/// The result of the search for a package.
#[derive(Debug)]
pub(super) enum Searched {
    /// The package is in the local cache, or must be compiled, or is compiled already.
    Known(Known),
    /// The package is in a shared cache, from which it is fetched if it is needed.
    Shared(Box<Fetchable>),
}

/// A package that is in a shared cache.
#[derive(Debug, Clone)]
pub(super) struct Fetchable {
    shared: InShared,
    /// The search for the package in the local cache, which follows the fetch.
    wanted: Wanted,
    /// The local cache that receives the package.
    into: Arc<LocalCache>,
    /// The result of the fetch, until it is taken.
    arrival: Arc<Mutex<Option<Arrival>>>,
}

impl Fetchable {
    pub(super) fn new(shared: InShared, wanted: Wanted, into: &Arc<LocalCache>) -> Self {
        Self {
            shared,
            wanted,
            into: Arc::clone(into),
            arrival: Arc::default(),
        }
    }

    /// The package's description in the shared cache.
    pub(super) fn entry(&self) -> &Entry {
        &self.shared.entry
    }

    /// The package as a miss, because it was not fetched.
    pub(super) fn missed(&self, reason: &str) -> Known {
        match &self.wanted.keyed {
            Some(keyed) => Known::Miss {
                keyed: Box::new(keyed.clone()),
                reason: reason.to_owned(),
            },
            None => Known::Compiled,
        }
    }

    /// Takes the result of the fetch, if it has ended.
    pub(super) fn take(&self) -> Option<Arrival> {
        // The result stays usable after a panic in another thread.
        let mut arrival = self.arrival.lock().unwrap_or_else(PoisonError::into_inner);
        arrival.take()
    }

    /// The function with which the schedule fetches the package.
    pub(super) fn fetch(&self) -> Fetch {
        let fetchable = self.clone();
        Fetch::new(move |cancel| Box::pin(fetchable.clone().run(cancel)))
    }

    async fn run(self, cancel: CancellationToken) -> Option<FetchedBlob> {
        let transfer = self.transfer();
        let from = cancel.run_until_cancelled(transfer).await?;
        let mut wanted = self.wanted.clone();
        if let Some(remote) = from {
            wanted.cache = Arc::clone(&self.into);
            wanted.origin = HitOrigin::Shared(remote);
        }
        let token = cancel.clone();
        let copying = runtime::spawn_blocking("cache", move || wanted.fetch(&token));
        let copied = tokio::select! {
            biased;
            copied = copying => copied,
            () = shared_caches::stopped_long_ago(&cancel) => return None,
        };
        let arrival = copied.unwrap_or_else(|error| Err(error.into()));
        if arrival.is_err() && cancel.is_cancelled() {
            return None;
        }
        let fetched = match &arrival {
            Ok((Known::Hit(hit), _)) => Some(FetchedBlob {
                blob: hit.blob.blob.file.clone(),
                digests: hit.blob.blob.digests.all().clone(),
            }),
            _ => None,
        };
        *self.arrival.lock().unwrap_or_else(PoisonError::into_inner) = Some(arrival);
        fetched
    }

    /// Copies the package into the local cache. Returns the shared cache from which it was copied.
    async fn transfer(&self) -> Option<Arc<Remote>> {
        let InShared {
            entry,
            remote,
            others,
        } = &self.shared;
        if remote.fetch(entry, &self.into).await {
            return Some(Arc::clone(remote));
        }
        let wanted = [(entry.parts.name.clone(), entry.key())];
        for other in others {
            let found = shared_caches::find(other, &wanted, self.wanted.accepts_unrestricted).await;
            // Use the entry of this cache: the caches may have different files for the same key.
            for entry in found {
                if other.fetch(&entry, &self.into).await {
                    return Some(Arc::clone(other));
                }
            }
        }
        None
    }
}

/// Prints how many packages are expected to be fetched from each shared cache. If `is_result` is false, the packages are not results of the
/// run, and only those are fetched that others are compiled against.
pub(super) fn announce(
    nodes: &[(PackageNode, PackageLogs)],
    searched: &[Searched],
    is_result: bool,
    progress: &Progress,
) {
    let mut is_needed = vec![is_result; nodes.len()];
    for ((node, _), searched) in nodes.iter().zip(searched) {
        if let Searched::Known(Known::Miss { .. }) = searched {
            let dependencies = node.dependencies.iter();
            dependencies.for_each(|it| is_needed[it.index()] = true);
        }
    }
    let mut announced: Vec<(&Arc<Remote>, Vec<&Entry>)> = Vec::new();
    for (searched, is_needed) in searched.iter().zip(is_needed) {
        let Searched::Shared(fetchable) = searched else {
            continue;
        };
        if !is_needed {
            continue;
        }
        let InShared { entry, remote, .. } = &fetchable.shared;
        match announced.iter_mut().find(|(it, _)| Arc::ptr_eq(it, remote)) {
            Some((_, entries)) => entries.push(entry),
            None => announced.push((remote, vec![entry])),
        }
    }
    for (remote, entries) in announced {
        progress.line(&announcement(&entries, remote));
    }
}

fn announcement(entries: &[&Entry], remote: &Remote) -> String {
    let sizes = entries.iter().map(|entry| entry.size());
    let size = Bytes(sizes.fold(0, u64::saturating_add));
    match entries.len() {
        1 => format!("Fetching one package ({size}) from {remote}"),
        more => format!("Fetching {more} packages ({size}) from {remote}"),
    }
}
