//! Predicts for `--dry-run` which packages a run would find in its caches. Does not change the caches.

use std::collections::HashSet;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::cache_directories;
use super::cache_lookup::{self, Found};
use super::error::OfflineError;
use super::graph::PackageNode;
use super::options::{CacheOptions, Options};
use super::package_keys::{self, CommonParts, Keyed, Memory};
use super::shared_caches;
use crate::cache::{Entry, Key, LocalCache, Remotes};
use crate::process;
use crate::release::Slug;
use crate::runtime;

/// What a run would do with a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expectation {
    /// Compile it. With the reason why it is not in the caches; `None` if they were not searched: the run has none, or the stemcell
    /// is unknown.
    Compile(Option<String>),
    /// Take it from the local cache.
    Cached,
    /// Fetch it from this shared cache.
    Shared(String),
    /// Nothing, because it is compiled already.
    Nothing,
}

impl Expectation {
    /// Whether a cache has the package.
    pub(super) fn is_cached(&self) -> bool {
        matches!(self, Self::Cached | Self::Shared(_))
    }
}

/// What a run would do with each package, in the order of `nodes`. Without a stemcell, the caches are not searched, because keys contain
/// it.
pub(super) async fn expectations(
    nodes: &[PackageNode],
    options: &Options,
    stemcell: Option<&Slug>,
    cancel: &CancellationToken,
) -> Result<Vec<Expectation>, OfflineError> {
    let without_cache = |node: &PackageNode| match node.package().is_source() {
        true => Expectation::Compile(None),
        false => Expectation::Nothing,
    };
    let options = &cache_directories::without_unresponsive_cache(options, cancel).await?;
    let Some((caches, stemcell)) = options.cache.as_ref().zip(stemcell) else {
        return Ok(nodes.iter().map(without_cache).collect());
    };
    let cache = caches
        .directory
        .as_deref()
        .map(LocalCache::new)
        .map(Arc::new);
    let packages = nodes.iter().map(|node| Arc::clone(&node.first.package));
    let sources = package_keys::sources(
        cache.as_ref().map(|cache| (cache, Memory::Read)),
        packages.collect(),
        options.compression_level,
        cancel,
    );
    let (sources, _) = sources.await?;
    let (own, slug) = (options.clone(), stemcell.clone());
    let common =
        runtime::spawn_blocking("root file system", move || CommonParts::of(&own, &slug)).await??;
    let keyed = package_keys::keyed(nodes.iter(), &sources, &common);
    let local = locally(cache, keyed.clone(), caches.unrestricted).await?;
    let searching = in_shared(local, &keyed, (options, caches), cancel);
    match cancel.run_until_cancelled(searching).await {
        Some(found) if !cancel.is_cancelled() => found,
        _ => Err(OfflineError::Stopped),
    }
}

/// Looks for the packages in the local cache; if `accepts_unrestricted`, also for those that were compiled in a second run without restrictions.
async fn locally(
    cache: Option<Arc<LocalCache>>,
    keyed: Vec<Option<Keyed>>,
    accepts_unrestricted: bool,
) -> Result<Vec<Expectation>, OfflineError> {
    let find = move |keyed: Option<Keyed>| {
        let (cache, parts) = match (&cache, keyed) {
            (_, None) => return Expectation::Nothing,
            (Some(cache), Some(keyed)) => (cache, keyed.parts),
            (None, Some(keyed)) => {
                let reason = cache_lookup::no_entry(&keyed.parts.name);
                return Expectation::Compile(Some(reason));
            }
        };
        match cache_lookup::find(cache, &parts, accepts_unrestricted) {
            Found::Hit(_) => Expectation::Cached,
            Found::Miss { reason, .. } => Expectation::Compile(Some(reason)),
        }
    };
    Ok(runtime::map_blocking("cache", process::processors(), keyed, find).await?)
}

/// Looks for the remaining packages in the shared caches.
async fn in_shared(
    mut expectations: Vec<Expectation>,
    keyed: &[Option<Keyed>],
    (options, caches): (&Options, &CacheOptions),
    cancel: &CancellationToken,
) -> Result<Vec<Expectation>, OfflineError> {
    let (shared, environment) = (caches.shared.clone(), options.environment.clone());
    let opening = runtime::spawn_blocking("shared caches", move || {
        Remotes::new(&shared.from, None, &shared.credentials, &environment)
    });
    let remotes = opening.await?;
    cache_directories::check(&remotes, &options.fork_server, cancel).await?;
    for remote in &remotes.from {
        let wanted = expectations.iter().zip(keyed);
        let wanted =
            wanted.filter(|(expectation, _)| matches!(expectation, Expectation::Compile(_)));
        let wanted = wanted.filter_map(|(_, keyed)| keyed.as_ref());
        let wanted = wanted.map(|it| (it.parts.name.clone(), it.parts.key()));
        let wanted: Vec<(String, Key)> = wanted.collect();
        let found = shared_caches::find(remote, &wanted, caches.unrestricted).await;
        let found: HashSet<Key> = found.iter().map(Entry::key).collect();
        for (expectation, keyed) in expectations.iter_mut().zip(keyed) {
            let is_found = |it: &Keyed| found.contains(&it.parts.key());
            if keyed.as_ref().is_some_and(is_found) {
                *expectation = Expectation::Shared(remote.to_string());
            }
        }
    }
    remotes.report_failures();
    Ok(expectations)
}
