//! Where the packages of a schedule come from.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::release::Digests;

/// How a package is obtained.
#[derive(Debug, Clone)]
pub enum Origin {
    /// It is compiled from source.
    Source(Source),
    /// It is already compiled, and only installed for dependents that are compiled.
    Compiled {
        /// Its compiled blob, which is kept while the package has dependents. Without dependents, nothing is installed or reported.
        blob: PathBuf,
        /// The blob's digests, which were verified.
        digests: Digests,
    },
    /// Its compiled blob is fetched if it is needed. If that fails, the package is compiled from source.
    Fetched {
        /// Fetches the blob.
        fetch: Fetch,
        /// Whether the package is part of a result. Otherwise it is needed only by dependents that are compiled.
        is_result: bool,
        /// Its source.
        source: Source,
    },
}

/// The source of a package, and where its results go.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its source blob, which is removed after compilation.
    pub source: PathBuf,
    /// The blob's digests, which were verified.
    pub digests: Digests,
    /// The log of its script's output.
    pub log: PathBuf,
    /// The path of the compiled blob.
    pub blob: PathBuf,
}

/// The blob of a compiled package.
#[derive(Debug)]
pub struct FetchedBlob {
    /// The blob.
    pub blob: PathBuf,
    /// Its digests, which were verified.
    pub digests: Digests,
}

/// Fetches the blob of a compiled package, from a cache that several machines share.
#[derive(Clone)]
pub struct Fetch(Arc<FetchFunction>);

type FetchFunction =
    dyn Fn(CancellationToken) -> BoxFuture<'static, Option<FetchedBlob>> + Send + Sync;

impl Fetch {
    /// `fetch` returns `None` if the package cannot be fetched, and soon after the cancellation of its argument. It reports failures itself.
    pub fn new(
        fetch: impl Fn(CancellationToken) -> BoxFuture<'static, Option<FetchedBlob>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Arc::new(fetch))
    }

    /// Starts to fetch.
    pub(super) fn start(
        &self,
        cancel: CancellationToken,
    ) -> BoxFuture<'static, Option<FetchedBlob>> {
        (self.0)(cancel)
    }
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fetch")
    }
}
