//! Where the packages of a schedule come from: they are compiled from source, compiled already, or fetched from a shared cache.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::release::Digests;

/// How a package is obtained.
#[derive(Debug, Clone)]
pub enum Origin {
    /// The package is compiled from source.
    Source(Source),
    /// The package is already compiled. It is installed if dependents are compiled.
    Compiled {
        /// The compiled blob, which must exist until all dependents are compiled. Without dependents, the package is neither installed nor
        /// reported.
        blob: PathBuf,
        /// The blob's digests, which were verified.
        digests: Digests,
    },
    /// The compiled blob is fetched if it is needed. If the fetch fails, the package is compiled from source.
    Fetched {
        /// Fetches the blob.
        fetch: Fetch,
        /// Whether the caller needs the compiled blob. Otherwise, the package is fetched only if dependents are compiled.
        is_result: bool,
        /// The source that is compiled if the fetch fails.
        source: Source,
    },
    /// The package failed before the schedule. Neither it nor its dependents are compiled.
    Lost,
}

/// The source of a package, and where its results go.
#[derive(Debug, Clone)]
pub struct Source {
    /// The source blob, which is removed after compilation.
    pub source: PathBuf,
    /// The blob's digests, which were verified.
    pub digests: Digests,
    /// The log of the script's output.
    pub log: PathBuf,
    /// The path of the compiled blob.
    pub blob: PathBuf,
}

/// The blob of a compiled package.
#[derive(Debug)]
pub struct FetchedBlob {
    /// The blob.
    pub blob: PathBuf,
    /// The blob's digests, which were verified.
    pub digests: Digests,
}

/// Fetches the blob of a compiled package from a shared cache.
#[derive(Clone)]
pub struct Fetch(Arc<FetchFunction>);

type FetchFunction =
    dyn Fn(CancellationToken) -> BoxFuture<'static, Option<FetchedBlob>> + Send + Sync;

impl Fetch {
    /// `fetch` returns `None` if the package cannot be fetched, or soon after the token is canceled. `fetch` itself reports failures to the
    /// user.
    pub fn new(
        fetch: impl Fn(CancellationToken) -> BoxFuture<'static, Option<FetchedBlob>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Arc::new(fetch))
    }

    /// Starts the fetch.
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
