//! The packages of a run in the caches: which packages were found (hits) or not (misses), which can be fetched from shared caches, and
//! which are being stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::caching::CallCache;
use super::compiled_release::CompiledBlob;
use super::error::OfflineError;
use super::fetching::{Fetchable, Searched};
use super::graph::PackageNode;
use super::ids::{NodeId, ReleaseId};
use super::known::{Hit, Known};
use super::ledger::{PackageRecord, ReleaseJob};
use super::logs::PackageLogs;
use super::package_events::LOG_LINES;
use super::progress::Progress;
use super::shared_caches::{LONGEST_WAIT, Uploads, stopped_long_ago};
use super::storable::Storable;
use crate::cache::{Entry, time_limit};
use crate::compile::Compiled;
use crate::diag::{Chain, Elapsed};
use crate::fs;
use crate::release::Name;
use crate::runtime::{self, TaskSet};

/// Why a package is compiled if the task that fetched it panicked.
const NOT_FETCHED: &str = "it could not be fetched";

/// For each package of a run, the result of its search in the caches.
#[derive(Debug)]
pub(super) struct CachedPackages<'a> {
    cache: Option<&'a CallCache>,
    searched: Vec<Searched>,
    /// The dependencies of each package.
    dependencies: Vec<Vec<NodeId>>,
    /// For each package, whether it or a package that it depends on was taken from the cache and had been compiled by a script without
    /// Landlock rules.
    unrestricted: Vec<bool>,
    /// The tasks that store packages, each with the size of its package in bytes.
    storing: TaskSet<u64, fs::Result<()>>,
    /// Whether the storing of a package in the local cache has started.
    has_stored: bool,
    uploads: Option<Uploads>,
}

impl<'a> CachedPackages<'a> {
    /// The packages of a run without a cache.
    pub(super) fn none() -> Self {
        Self::new(None, Vec::new(), &[])
    }

    /// Searches the caches for the packages of a run, except for the package `except`.
    pub(super) async fn find(
        cache: Option<&'a CallCache>,
        nodes: &[(PackageNode, PackageLogs)],
        releases: &BTreeMap<ReleaseId, ReleaseJob>,
        except: Option<&Name>,
        to: (&Progress, &CancellationToken),
    ) -> Result<Self, OfflineError> {
        let Some(found_in) = cache else {
            return Ok(Self::none());
        };
        let blob = |node: &PackageNode| releases[&node.first.release].blob(node);
        let searched = tokio::select! {
            biased;
            searched = found_in.find(nodes, blob, except, to) => searched?,
            () = stopped_long_ago(to.1) => return Err(OfflineError::Stopped),
        };
        Ok(Self::new(cache, searched, nodes))
    }

    fn new(
        cache: Option<&'a CallCache>,
        searched: Vec<Searched>,
        nodes: &[(PackageNode, PackageLogs)],
    ) -> Self {
        let dependencies = nodes.iter().map(|(node, _)| node.dependencies.clone());
        let dependencies: Vec<Vec<NodeId>> = dependencies.collect();
        Self {
            cache,
            unrestricted: unrestricted(&searched, &dependencies),
            searched,
            dependencies,
            storing: TaskSet::new("store"),
            has_stored: false,
            uploads: cache.and_then(CallCache::uploads),
        }
    }

    /// The cached package, if it was found or has been fetched.
    pub(super) fn hit(&self, node: NodeId) -> Option<&Hit> {
        match self.searched.get(node.index())? {
            Searched::Known(Known::Hit(hit)) => Some(hit),
            Searched::Known(_) | Searched::Shared(_) => None,
        }
    }

    /// The package, if it is in a shared cache and was not fetched yet.
    pub(super) fn fetchable(&self, node: NodeId) -> Option<&Fetchable> {
        match self.searched.get(node.index())? {
            Searched::Shared(fetchable) => Some(fetchable),
            Searched::Known(_) => None,
        }
    }

    /// The packages in shared caches that were not fetched yet, and their descriptions.
    pub(super) fn fetchables(&self) -> impl Iterator<Item = (NodeId, &Entry)> {
        let ids = (0..self.searched.len()).map(NodeId::from_index);
        ids.filter_map(|id| Some((id, self.fetchable(id)?.entry())))
    }

    /// How many packages are in the local cache or in a shared one.
    pub(super) fn count(&self) -> usize {
        self.hits().count() + self.fetchables().count()
    }

    /// Records the end of a package's fetch, after which the package is a hit or a miss. Reports damaged files.
    ///
    /// # Errors
    /// The package's files could not be written.
    pub(super) fn set_arrived(
        &mut self,
        node: NodeId,
        progress: &Progress,
    ) -> Result<(), OfflineError> {
        let Some(fetchable) = self.fetchable(node) else {
            return Ok(());
        };
        // If there is no result, the task panicked.
        let arrival = fetchable.take();
        let arrival = arrival.unwrap_or_else(|| Ok((fetchable.missed(NOT_FETCHED), Vec::new())));
        let (known, damaged) = arrival?;
        if let Some(cache) = self.cache {
            cache.set_aside(damaged, "the package is compiled again", progress);
        }
        self.searched[node.index()] = Searched::Known(known);
        self.unrestricted = unrestricted(&self.searched, &self.dependencies);
        Ok(())
    }

    /// Why a package is not in the cache.
    pub(super) fn miss(&self, node: NodeId) -> Option<&str> {
        match self.searched.get(node.index())? {
            Searched::Known(Known::Miss { reason, .. }) => Some(reason),
            Searched::Known(_) | Searched::Shared(_) => None,
        }
    }

    /// The packages in the cache.
    pub(super) fn hits(&self) -> impl Iterator<Item = (NodeId, &Hit)> {
        let ids = (0..self.searched.len()).map(NodeId::from_index);
        ids.filter_map(|id| Some((id, self.hit(id)?)))
    }

    /// Why packages are not in the cache.
    pub(super) fn misses(&self) -> impl Iterator<Item = (NodeId, &str)> {
        let ids = (0..self.searched.len()).map(NodeId::from_index);
        ids.filter_map(|id| Some((id, self.miss(id)?)))
    }

    /// Starts to store a package that was compiled.
    pub(super) fn store(
        &mut self,
        node: NodeId,
        record: &PackageRecord,
        compiled: &Compiled,
        (blob, warnings): (&Arc<CompiledBlob>, Vec<String>),
        cancel: &CancellationToken,
    ) {
        let searched = self.searched.get(node.index());
        let Some((cache, Searched::Known(Known::Miss { keyed, .. }))) = self.cache.zip(searched)
        else {
            return;
        };
        let is_unrestricted = compiled.unrestricted || self.unrestricted[node.index()];
        if !cache.accepts(is_unrestricted) {
            return;
        }
        let end = compiled.script.as_ref();
        let last_lines = end.map(|it| it.output.tail.clone().shortened(LOG_LINES).lines);
        let storable = Storable {
            blob: Arc::clone(blob),
            log: record.logs.own.clone(),
            elapsed: compiled.elapsed,
            is_unrestricted,
            last_lines: last_lines.unwrap_or_default(),
            warnings,
        };
        let entry = cache.entry(keyed, &storable);
        if let Some(uploads) = &mut self.uploads {
            uploads.start(entry.clone(), storable.clone());
        }
        if cache.stores() {
            let size = entry.size();
            let storing = cache.storing(entry, storable, cancel);
            self.storing.spawn_blocking(size, storing);
            self.has_stored = true;
        }
    }

    /// Waits until all packages are stored, and prunes the local cache. A failure is only a warning, because it affects no result.
    pub(super) async fn finish(self, (progress, cancel): (&Progress, &CancellationToken)) {
        let Self {
            cache: Some(cache),
            mut storing,
            has_stored,
            uploads,
            ..
        } = self
        else {
            return;
        };
        let failure = wait_until_stored(&mut storing, cancel).await;
        if cancel.is_cancelled() {
            return;
        }
        if let Some(error) = failure.filter(|_| cache.may_warn()) {
            progress.warn(&format!(
                "Warning: not all packages were stored in the cache: {error}"
            ));
        }
        if let Some(uploads) = uploads {
            uploads.finish((progress, cancel)).await;
        }
        cache.report_failures();
        if cancel.is_cancelled() || !has_stored && !cache.has_limit() {
            return;
        }
        if let Some(error) = prune(cache, cancel).await
            && cache.may_warn()
        {
            progress.warn(&format!("Warning: the cache could not be pruned: {error}"));
        }
    }
}

/// Waits until all packages are stored in the local cache. Returns the first failure. The time is limited, because the file system may
/// have stopped responding.
async fn wait_until_stored(
    storing: &mut TaskSet<u64, fs::Result<()>>,
    cancel: &CancellationToken,
) -> Option<String> {
    let limit = LONGEST_WAIT.max(time_limit(storing.keys().sum::<u64>()));
    let mut failure = None;
    let waiting = async {
        while let Some((_, stored)) = storing.next().await {
            if let Ok(Err(error)) = stored {
                failure.get_or_insert_with(|| Chain(&error).to_string());
            }
        }
    };
    let is_done = tokio::select! {
        biased;
        () = waiting => true,
        () = tokio::time::sleep(limit) => false,
        () = stopped_long_ago(cancel) => false,
    };
    match is_done {
        true => failure,
        false => failure.or_else(|| Some(no_result(limit))),
    }
}

/// Prunes the local cache. Returns the failure, if there is one.
async fn prune(cache: &CallCache, cancel: &CancellationToken) -> Option<String> {
    let stop = cancel.child_token();
    let pruning = runtime::spawn_blocking("prune", cache.pruning(stop.clone()));
    let _stop = stop.drop_guard();
    let limited = tokio::time::timeout(LONGEST_WAIT, pruning);
    match cancel.run_until_cancelled(limited).await? {
        Ok(Ok(Err(error))) => Some(Chain(&error).to_string()),
        Ok(_) => None,
        Err(_) => Some(no_result(LONGEST_WAIT)),
    }
}

fn no_result(limit: Duration) -> String {
    format!("no result after {}", Elapsed(limit))
}

/// For each package, whether it or a package that it depends on is taken from a cache and was compiled without restrictions.
fn unrestricted(searched: &[Searched], dependencies: &[Vec<NodeId>]) -> Vec<bool> {
    let mut unrestricted: Vec<bool> = Vec::new();
    for (searched, dependencies) in searched.iter().zip(dependencies) {
        unrestricted.push(match searched {
            Searched::Known(Known::Hit(hit)) => hit.entry.unrestricted,
            Searched::Shared(fetchable) => fetchable.entry().unrestricted,
            // Dependencies have smaller ids, so their values are known.
            Searched::Known(Known::Miss { .. }) => {
                dependencies.iter().any(|it| unrestricted[it.index()])
            }
            Searched::Known(Known::Compiled) => false,
        });
    }
    unrestricted
}

/// The line that says how many packages are in the cache.
pub(super) fn count_line(cached: usize, sources: usize) -> String {
    match (cached, sources) {
        (1, 1) => "The package is in the cache".to_owned(),
        (all, sources) if all == sources => format!("All {sources} packages are in the cache"),
        (1, _) => format!("One of {sources} packages is in the cache"),
        (some, _) => format!("{some} of {sources} packages are in the cache"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::shared_caches::LONGEST_STOP;
    use super::*;
    use crate::fs::Context as _;

    #[tokio::test(start_paused = true)]
    async fn storing_on_a_silent_file_system_has_time_limits() {
        let mut storing = TaskSet::new("store");
        storing.spawn(1, std::future::pending());
        let cancel = CancellationToken::new();
        let start = Instant::now();
        let failure = wait_until_stored(&mut storing, &cancel).await;
        assert_eq!(failure.unwrap(), "no result after 5m00s");
        assert_eq!(start.elapsed(), LONGEST_WAIT);

        cancel.cancel();
        let start = Instant::now();
        assert!(wait_until_stored(&mut storing, &cancel).await.is_some());
        assert_eq!(start.elapsed(), LONGEST_STOP);
    }

    #[tokio::test(start_paused = true)]
    async fn storing_large_packages_may_take_longer() {
        const SIZE: u64 = 10 << 30;
        let mut storing = TaskSet::new("store");
        storing.spawn(SIZE, async {
            tokio::time::sleep(2 * LONGEST_WAIT).await;
            Ok(())
        });
        let cancel = CancellationToken::new();
        assert_eq!(wait_until_stored(&mut storing, &cancel).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn first_failure_of_storing_is_reported_after_the_time_limit() {
        let mut storing = TaskSet::new("store");
        storing.spawn(1, std::future::pending());
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let failed = Err(full).at("write", std::path::Path::new("/cache/file"));
        storing.spawn(1, async { failed });
        let cancel = CancellationToken::new();
        let failure = wait_until_stored(&mut storing, &cancel).await.unwrap();
        assert!(failure.contains("/cache/file"), "{failure}");
    }
}
