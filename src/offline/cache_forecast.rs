//! What a call would find in its cache, for `--dry-run`. Changes nothing there.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::cache_lookup::{self, Found};
use super::error::OfflineError;
use super::graph::PackageNode;
use super::options::Options;
use super::package_keys::{self, CommonParts, Memory};
use crate::cache::LocalCache;
use crate::process;
use crate::release::Slug;
use crate::runtime;

/// What a call would do with a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expectation {
    /// Compile it; if it has a cache, with the reason for the miss.
    Compile(Option<String>),
    /// Take it from the cache.
    Cached,
    /// Nothing: it is compiled already.
    Nothing,
}

/// What a call would do with each package. Without a stemcell, nothing is found in the cache.
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
    let Some((used, stemcell)) = options.cache.as_ref().zip(stemcell) else {
        return Ok(nodes.iter().map(without_cache).collect());
    };
    let cache = Arc::new(LocalCache::new(&used.directory));
    let packages = nodes.iter().map(|node| Arc::clone(&node.first.package));
    let sources = package_keys::sources(
        (&cache, Memory::Read),
        packages.collect(),
        options.compression_level,
        cancel,
    );
    let (sources, _) = sources.await?;
    let (own, slug) = (options.clone(), stemcell.clone());
    let common = runtime::spawn_blocking("root", move || CommonParts::of(&own, &slug)).await??;
    let keyed = package_keys::keyed(nodes.iter(), &sources, &common);
    let takes_unrestricted = used.unrestricted;
    let find = move |keyed: Option<package_keys::Keyed>| {
        let Some(keyed) = keyed else {
            return Expectation::Nothing;
        };
        match cache_lookup::find(&cache, &keyed.parts, takes_unrestricted) {
            Found::Hit(_) => Expectation::Cached,
            Found::Miss { reason, .. } => Expectation::Compile(Some(reason)),
        }
    };
    let found = runtime::map_blocking("cache", process::processors(), keyed, find).await?;
    match cancel.is_cancelled() {
        true => Err(OfflineError::Stopped),
        false => Ok(found),
    }
}
