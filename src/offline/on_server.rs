//! Packages whose results are on a server of the Remote Execution API. Each is downloaded when the local schedule needs it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cluster::{Built, Cluster, Fetched, RemoteFailure};
use crate::compile::{Fetch, FetchedBlob};
use crate::diag::Chain;

/// How long the download of a package may take, in addition to a second for each mebibyte.
const LIMIT: Duration = Duration::from_secs(30);

/// A server from which a run downloads packages.
#[derive(Debug)]
pub(super) struct Downloads {
    cluster: Arc<Cluster>,
    /// Whether a download has failed. Then no other one is tried, because each may take its whole time limit.
    has_failed: AtomicBool,
}

/// A package whose result is on a server.
#[derive(Debug)]
pub(super) struct OnServer {
    from: Arc<Downloads>,
    built: Built,
    /// The path to which its blob is downloaded.
    blob: PathBuf,
    /// The path to which its log is downloaded.
    log: PathBuf,
    /// The downloaded package, until it is taken.
    arrival: Mutex<Option<Box<Fetched>>>,
}

impl Downloads {
    pub(super) fn new(cluster: &Arc<Cluster>) -> Arc<Self> {
        Arc::new(Self {
            cluster: Arc::clone(cluster),
            has_failed: AtomicBool::new(false),
        })
    }
}

impl OnServer {
    pub(super) fn new(
        from: &Arc<Downloads>,
        built: Built,
        (blob, log): (PathBuf, PathBuf),
    ) -> Arc<Self> {
        Arc::new(Self {
            from: Arc::clone(from),
            built,
            blob,
            log,
            arrival: Mutex::default(),
        })
    }

    /// The function with which the schedule downloads the package.
    pub(super) fn fetch(self: &Arc<Self>) -> Fetch {
        let package = Arc::clone(self);
        Fetch::new(move |cancel| {
            let package = Arc::clone(&package);
            Box::pin(async move { package.run(&cancel).await })
        })
    }

    /// Takes the downloaded package, if the download has succeeded.
    pub(super) fn take(&self) -> Option<Box<Fetched>> {
        let mut arrival = self.arrival.lock().unwrap_or_else(PoisonError::into_inner);
        arrival.take()
    }

    async fn run(&self, cancel: &CancellationToken) -> Option<FetchedBlob> {
        if self.from.has_failed.load(Ordering::Relaxed) {
            return None;
        }
        let limit = LIMIT + Duration::from_secs(self.built.package.size >> 20);
        let to = (self.blob.as_path(), self.log.as_path());
        let fetching = self.from.cluster.fetch(&self.built, to, cancel);
        let digests = match tokio::time::timeout(limit, fetching).await {
            Ok(Ok(Some(digests))) => digests,
            // The server answers, but has lost this package.
            Ok(Ok(None)) => return None,
            // The run does not need this package any longer.
            Ok(Err(RemoteFailure::Stopped)) => return None,
            Ok(Err(error)) => {
                tracing::debug!(error = %Chain(&error), "could not download a package");
                self.from.has_failed.store(true, Ordering::Relaxed);
                return None;
            }
            Err(_) => {
                self.from.has_failed.store(true, Ordering::Relaxed);
                return None;
            }
        };
        let fetched = FetchedBlob {
            blob: self.blob.clone(),
            digests: digests.clone(),
        };
        let arrived = Box::new(Fetched {
            built: self.built.clone(),
            blob: self.blob.clone(),
            digests,
        });
        *self.arrival.lock().unwrap_or_else(PoisonError::into_inner) = Some(arrived);
        Some(fetched)
    }
}
