//! Caches that several machines share: a directory, an HTTP server, or a server of the Remote Execution API.
//!
//! ```text
//! location     where it is (pure)
//! credentials  who the agent is there
//! directory    in a directory
//! http         on an HTTP server
//! grpc         on a server of the Remote Execution API
//! receiver     receives a content into a local cache
//! ```
//!
//! A shared cache never fails a run. After its first failure, one warning names it and the reason, and it is not used again. Each
//! operation has a time limit.

mod credentials;
mod directory;
mod error;
mod grpc;
mod http;
mod location;
mod receiver;

use std::collections::HashSet;
use std::fmt;
use std::iter;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio_util::sync::CancellationToken;

pub use self::credentials::Credentials;
pub(super) use self::credentials::VARIABLES as CREDENTIALS;
use self::directory::Directory;
use self::error::RemoteError;
use self::grpc::GrpcServer;
use self::http::HttpServer;
pub use self::location::{InvalidLocation, Location};
use super::entry::{Content, Entry};
use super::key::Key;
use super::local::LocalCache;
use crate::config::Environment;
use crate::diag::{Chain, printable};
use crate::fs;
use crate::http::{Client, Timeouts};
use crate::runtime;
use crate::tls::{self, Profile};

/// How many descriptions are fetched concurrently.
const SEARCHES: usize = 16;

/// How many packages are fetched concurrently.
const TRANSFERS: usize = 4;

/// The lowest rate at which a content is transferred, in bytes per second. A slower server is not worth waiting for.
const SLOWEST: u64 = 1 << 20;

/// The pauses before retries.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];

/// The time limits of a shared cache.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// For a description, and for the part of a transfer that does not depend on its size.
    base: Duration,
    /// For all descriptions of a call.
    lookups: Duration,
    /// For the steps of a download.
    fetching: Timeouts,
    /// For the steps of an upload. A server may need a moment to confirm a large file.
    storing: Timeouts,
}

impl Limits {
    /// The limits of the product.
    const USUAL: Self = {
        let fetching = Timeouts {
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(5),
            stall: Duration::from_secs(10),
            expect: Duration::from_secs(1),
        };
        Self {
            base: Duration::from_secs(15),
            lookups: Duration::from_secs(30),
            fetching,
            storing: Timeouts {
                stall: Duration::from_secs(30),
                ..fetching
            },
        }
    };

    fn transfer(&self, size: u64) -> Duration {
        self.base + Duration::from_secs(size / SLOWEST)
    }
}

/// How long the transfer of a content of this size may take.
#[must_use]
pub fn time_limit(size: u64) -> Duration {
    Limits::USUAL.transfer(size)
}

/// The shared caches of a call.
#[derive(Debug, Default)]
pub struct Remotes {
    /// Those that packages are taken from, in the order in which they are asked.
    pub from: Vec<Arc<Remote>>,
    /// The one that packages are stored in.
    pub to: Option<Arc<Remote>>,
}

impl Remotes {
    /// The caches at these locations. Connects to none, but reads files: the netrc file and, for HTTPS, the CA certificates.
    #[must_use]
    pub fn new(
        from: &[Location],
        to: Option<&Location>,
        credentials: &Credentials,
        environment: &Environment,
    ) -> Self {
        let remote = |location: &Location| {
            let remote = Remote::new(location, credentials, environment, Limits::USUAL);
            Arc::new(remote)
        };
        let from: Vec<Arc<Remote>> = from.iter().map(remote).collect();
        // The same cache is one object, so that one warning suffices.
        let to = to.map(|location| {
            let same = from.iter().find(|it| it.location == *location);
            same.map_or_else(|| remote(location), Arc::clone)
        });
        Self { from, to }
    }

    /// Creates the directory in which packages are stored, if it is one, so that it can be hidden from scripts. Blocks.
    pub fn prepare(&self) {
        if let Some(remote) = &self.to
            && let Kind::Directory(directory) = &remote.kind
            && let Err(error) = directory.prepare()
        {
            match directory.is_there() {
                true => remote.only_read(&error),
                false => remote.fail(&error.into()),
            }
        }
    }
}

/// A cache that several machines share.
#[derive(Debug)]
pub struct Remote {
    location: Location,
    kind: Kind,
    limits: Limits,
    /// Canceled by the first failure.
    broken: CancellationToken,
    /// Whether it can be read, but not stored in.
    is_only_read: AtomicBool,
    /// Whether the local cache could not take a package.
    local_failed: AtomicBool,
    /// Whether wrong bytes were reported.
    has_warned: AtomicBool,
    /// The SHA-256 of the contents of packages that had wrong bytes. They are replaced when they are stored again.
    damaged: Mutex<HashSet<String>>,
}

#[derive(Debug)]
enum Kind {
    Directory(Directory),
    Http(Box<HttpServer>),
    Grpc(Box<GrpcServer>),
}

/// Where a shared cache is.
impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.location.fmt(f)
    }
}

impl Remote {
    fn new(
        location: &Location,
        credentials: &Credentials,
        environment: &Environment,
        limits: Limits,
    ) -> Self {
        let client = |protocols: &[&[u8]]| {
            let tls = tls::client(None, Profile::External).map(|mut tls| {
                tls.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
                tls
            });
            Client::new(tls, environment)
        };
        let timeouts = [limits.fetching, limits.storing];
        let kind = match location {
            Location::Directory(directory) => Kind::Directory(Directory::new(directory)),
            Location::Http(url) => {
                let server = HttpServer::new(url, credentials, &client(&[]), timeouts);
                Kind::Http(Box::new(server))
            }
            Location::Grpc(url) => {
                let client = client(&[b"h2"]);
                let server = GrpcServer::new(url, credentials, &client, timeouts);
                Kind::Grpc(Box::new(server))
            }
        };
        Self {
            location: location.clone(),
            kind,
            limits,
            broken: CancellationToken::new(),
            is_only_read: AtomicBool::new(false),
            local_failed: AtomicBool::new(false),
            has_warned: AtomicBool::new(false),
            damaged: Mutex::default(),
        }
    }

    /// Whether it has failed: it is not used again.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.is_cancelled()
    }

    /// Whether packages can be stored in it, as far as is known.
    #[must_use]
    pub fn takes_packages(&self) -> bool {
        !self.is_broken() && !self.is_only_read.load(Ordering::Relaxed)
    }

    /// The descriptions of packages, in their order; `None` for one that is missing, and after a failure.
    pub fn find_all<'a>(
        &'a self,
        wanted: &'a [(String, Key)],
    ) -> BoxFuture<'a, Vec<Option<Entry>>> {
        let find = wanted
            .iter()
            .map(|(name, key)| self.find(name, key).boxed());
        let found = self.all(self.limits.lookups, SEARCHES, find.collect());
        found
            .map(|found| found.into_iter().map(Option::flatten).collect())
            .boxed()
    }

    /// Copies packages into a local cache. Returns for each whether it is there; `false` if its files are missing or wrong, and
    /// after a failure.
    pub fn fetch_all<'a>(
        &'a self,
        entries: &'a [Entry],
        into: &'a Arc<LocalCache>,
    ) -> BoxFuture<'a, Vec<bool>> {
        let sizes = entries.iter().map(Entry::size);
        let size = sizes.fold(0, u64::saturating_add);
        // Concurrent transfers share the line.
        let concurrent = entries.len().min(TRANSFERS) as u64;
        let fetch = entries
            .iter()
            .map(|entry| self.fetch(entry, into, concurrent).boxed());
        let fetch: Vec<BoxFuture<'_, bool>> = fetch.collect();
        async move {
            if !self.has_room(entries, into).await {
                return vec![false; entries.len()];
            }
            let fetched = self.all(self.limits.transfer(size), TRANSFERS, fetch).await;
            fetched.into_iter().map(|it| it == Some(true)).collect()
        }
        .boxed()
    }

    /// Whether the local cache has space for packages. If not, it is reported.
    async fn has_room(&self, entries: &[Entry], into: &Arc<LocalCache>) -> bool {
        let (entries, local) = (entries.to_vec(), Arc::clone(into));
        let measuring =
            runtime::spawn_blocking("measure", move || local.missing_and_free(&entries));
        let error = match measuring.await {
            Ok(Ok((needed, free))) if needed <= free => return true,
            Ok(Ok((needed, free))) => RemoteError::NoSpace { needed, free },
            Ok(Err(error)) => RemoteError::Local(error),
            Err(error) => error.into(),
        };
        self.report(&error);
        false
    }

    /// Runs operations, a few of them concurrently, within a time limit for all of them.
    async fn all<T: Send>(
        &self,
        limit: Duration,
        concurrently: usize,
        operations: Vec<BoxFuture<'_, T>>,
    ) -> Vec<Option<T>> {
        let mut results: Vec<Option<T>> = Vec::new();
        results.resize_with(operations.len(), || None);
        let numbered = operations.into_iter().enumerate();
        let numbered =
            numbered.map(|(index, operation)| operation.map(move |it| (index, it)).boxed());
        // With a lazy iterator, the compiler does not see that the future is `Send`.
        let numbered: Vec<BoxFuture<'_, (usize, T)>> = numbered.collect();
        let mut running = futures_util::stream::iter(numbered).buffer_unordered(concurrently);
        let collecting = async {
            while let Some((index, result)) = running.next().await {
                results[index] = Some(result);
            }
        };
        if tokio::time::timeout(limit, collecting).await.is_err() {
            self.fail(&RemoteError::Slow { limit });
        }
        results
    }

    async fn find(&self, name: &str, key: &Key) -> Option<Entry> {
        let find = || -> BoxFuture<'_, _> {
            match &self.kind {
                Kind::Directory(directory) => Box::pin(directory.find(name, key)),
                Kind::Http(server) => Box::pin(server.find(name, key)),
                Kind::Grpc(server) => Box::pin(server.find(name, key)),
            }
        };
        self.attempt(self.limits.base, find).await.flatten()
    }

    async fn fetch(&self, entry: &Entry, into: &Arc<LocalCache>, concurrent: u64) -> bool {
        for content in entry.contents() {
            if self.local_failed.load(Ordering::Relaxed) {
                return false;
            }
            let (local, wanted) = (Arc::clone(into), content.clone());
            let looking = runtime::spawn_blocking("look", move || local.has_content(&wanted));
            if matches!(looking.await, Ok(Ok(true))) {
                continue;
            }
            let fetch = || -> BoxFuture<'_, _> {
                match &self.kind {
                    Kind::Directory(directory) => Box::pin(directory.fetch(content, into)),
                    Kind::Http(server) => Box::pin(server.fetch(content, into)),
                    Kind::Grpc(server) => Box::pin(server.fetch(content, into)),
                }
            };
            let shared = content.size.saturating_mul(concurrent);
            let fetched = self.attempt(self.limits.transfer(shared), fetch).await;
            if fetched != Some(true) {
                let local_failed = self.local_failed.load(Ordering::Relaxed);
                if fetched.is_none() && !self.is_broken() && !local_failed {
                    let all = entry.contents().map(|content| content.sha256.clone());
                    self.damaged().extend(all);
                }
                return false;
            }
        }
        let (local, added) = (Arc::clone(into), entry.clone());
        let adding = runtime::spawn_blocking("add", move || local.add_entry(&added));
        let added = match adding.await {
            Ok(added) => added.map_err(RemoteError::Local),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = added {
            self.report(&error);
            return false;
        }
        if let Kind::Directory(directory) = &self.kind
            && let Err(error) = directory.mark_used(entry).await
        {
            tracing::debug!(error = %Chain(&error), "could not note the use of a package");
        }
        true
    }

    /// Stores a package: its blob, its log, then its description. Returns whether it is there.
    pub async fn store(&self, entry: &Entry, blob: &Path, log: Option<&Path>) -> bool {
        let log_file = entry.log.as_ref().zip(log);
        let files: Vec<(&Content, &Path)> =
            iter::once((&entry.blob, blob)).chain(log_file).collect();
        let damaged = files.iter().map(|(content, _)| &content.sha256);
        let damaged = damaged.filter(|sha256| self.damaged().contains(*sha256));
        let damaged: HashSet<String> = damaged.cloned().collect();
        let (files, damaged) = (files.as_slice(), &damaged);
        let store = || -> BoxFuture<'_, _> {
            match &self.kind {
                Kind::Directory(directory) => Box::pin(directory.store(entry, blob, log, damaged)),
                Kind::Http(server) => Box::pin(server.store(entry, files, damaged)),
                Kind::Grpc(server) => Box::pin(server.store(entry, files)),
            }
        };
        let limit = self.limits.transfer(entry.size());
        self.attempt(limit, store).await.is_some()
    }

    fn damaged(&self) -> MutexGuard<'_, HashSet<String>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs an operation within a time limit, with a few retries. `None` after a failure, which is reported, and if the cache has failed
    /// before or meanwhile.
    async fn attempt<'a, T>(
        &'a self,
        limit: Duration,
        operation: impl Fn() -> BoxFuture<'a, Result<T, RemoteError>>,
    ) -> Option<T> {
        let retrying = async {
            let mut pauses = PAUSES.into_iter();
            loop {
                match operation().await {
                    Err(error) if error.is_temporary() => match pauses.next() {
                        Some(pause) => tokio::time::sleep(pause).await,
                        None => return Err(error),
                    },
                    result => return result,
                }
            }
        };
        let limited = tokio::time::timeout(limit, retrying);
        let result = self.broken.run_until_cancelled(limited).await?;
        match result.unwrap_or(Err(RemoteError::Slow { limit })) {
            Ok(value) => Some(value),
            Err(error) => {
                self.report(&error);
                None
            }
        }
    }

    /// Reports an error, once for each kind: wrong bytes, a failure of the local cache, and a failure of this one, which is then not
    /// used again.
    fn report(&self, error: &RemoteError) {
        match error {
            RemoteError::Wrong { .. } => self.warn_of_wrong_bytes(error),
            RemoteError::Local(_) | RemoteError::NoSpace { .. } => self.stop_fetching(error),
            _ => self.fail(error),
        }
    }

    /// Reports that the local cache cannot take packages. The shared cache is not to blame.
    fn stop_fetching(&self, error: &RemoteError) {
        if self.local_failed.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!(
            error = %printable(&Chain(error)),
            "the local cache cannot take packages of the shared cache {self}, and they are compiled again"
        );
    }

    /// Reports that no packages can be stored.
    fn only_read(&self, error: &fs::Error) {
        self.is_only_read.store(true, Ordering::Relaxed);
        tracing::warn!(
            error = %printable(&Chain(error)),
            "the shared cache {self} is only read: no packages can be stored in it"
        );
    }

    /// Reports the first wrong file. Others are only misses.
    fn warn_of_wrong_bytes(&self, error: &RemoteError) {
        if self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::debug!(cache = %self, error = %printable(&Chain(error)), "another file of the shared cache is wrong");
            return;
        }
        tracing::warn!(
            error = %printable(&Chain(error)),
            "a file of the shared cache {self} is damaged, and its package is compiled again"
        );
    }

    /// Reports the first failure. The cache is not used again.
    fn fail(&self, error: &RemoteError) {
        if self.broken.is_cancelled() {
            return;
        }
        self.broken.cancel();
        tracing::warn!(
            error = %printable(&Chain(error)),
            "the shared cache {self} has failed and is not used in the rest of this run"
        );
    }
}

#[cfg(test)]
mod tests;
