//! Caches that several machines share: a directory, an HTTP server, or a server of the Remote Execution API.
//!
//! ```text
//! location     the location of a shared cache (pure)
//! limits       the time limits of single operations
//! allowance    a time limit for all downloads together
//! credentials  tokens, passwords and headers for servers
//! directory    a cache in a directory
//! http         a cache on an HTTP server
//! grpc         a cache on a server of the Remote Execution API
//! receiver     receives a content into a local cache
//! health       counts failures, and decides when a cache is not used any longer
//! ```
//!
//! A shared cache never makes a run fail. A failure is reported by a warning with the cache and the
//! reason. Each operation has a time limit. After a refusal, or after a few timeouts or lost
//! connections, the run does not use the cache again.

mod allowance;
mod credentials;
mod directory;
mod error;
mod grpc;
mod health;
mod http;
mod limits;
mod location;
mod receiver;

use std::collections::HashSet;
use std::fmt;
use std::iter;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};

use self::allowance::Allowance;
pub(super) use self::credentials::VARIABLES as CREDENTIALS;
pub use self::credentials::{CERTIFICATE, CERTIFICATE_KEY, Credentials};
use self::directory::{Directory, Prepared};
use self::error::RemoteError;
use self::grpc::GrpcServer;
use self::health::Health;
pub(super) use self::health::LocalHealth;
use self::http::HttpServer;
pub(super) use self::limits::Limits;
pub use self::limits::time_limit;
pub use self::location::{InvalidLocation, Location};
use super::entry::{Content, Entry};
use super::key::Key;
use super::local::LocalCache;
use crate::config::Environment;
use crate::diag::{Bytes, Chain};
use crate::http::Client;
use crate::runtime;
use crate::tls::{self, Profile};

/// The maximum number of entries that are fetched concurrently.
const SEARCHES: usize = 16;

/// The maximum memory for entries in bytes. A typical entry takes a few KiB.
const ENTRY_MEMORY: usize = 64 << 20;

/// The maximum number of packages that are fetched concurrently.
pub const TRANSFERS: usize = 4;

/// The pauses before retries.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];

/// A cache that several machines share.
#[derive(Debug)]
pub struct Remote {
    location: Location,
    kind: Kind,
    limits: Limits,
    /// The time limit of all searches together.
    searches: Allowance,
    /// The time limit of all downloads together.
    downloads: Allowance,
    health: Health,
    /// How many bytes of memory are left for entries.
    memory_left: AtomicUsize,
    /// The keys of packages whose entries or contents are wrong or missing, and the SHA-256 of
    /// contents with wrong bytes. These files are replaced when the package is stored again.
    damaged: Mutex<HashSet<String>>,
}

#[derive(Debug)]
enum Kind {
    Directory(Directory),
    Http(Box<HttpServer>),
    Grpc(Box<GrpcServer>),
}

/// Writes the location of the cache.
impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.location.fmt(f)
    }
}

impl Remote {
    /// A cache with these time limits. `local` is the state of the local cache, which is the same
    /// for all shared caches of a run.
    pub(super) fn new(
        location: &Location,
        (credentials, environment): (&Credentials, &Environment),
        limits: Limits,
        local: Arc<LocalHealth>,
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
            health: Health::new(location.to_string(), limits.patience, local),
            limits,
            memory_left: AtomicUsize::new(ENTRY_MEMORY),
            searches: Allowance::new(limits.lookups),
            // Allow twice the base time, so that one slow package does not use up the time of all
            // packages.
            downloads: Allowance::new(2 * limits.base),
            damaged: Mutex::default(),
        }
    }

    /// The location of the cache.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Reports the first failure once, if the run still uses the cache.
    pub(super) fn report(&self) {
        self.health.report();
    }

    /// Creates the directory of a shared cache, unless the cache has failed. `is_target` means that
    /// packages will be stored in it.
    pub(super) async fn prepare(&self, is_target: bool) {
        let Kind::Directory(directory) = &self.kind else {
            return;
        };
        if self.is_broken() {
            return;
        }
        let limit = self.limits.base;
        let preparing = async {
            match is_target {
                true => directory.prepare().await,
                false => {
                    directory.create().await;
                    Ok(Prepared::Writable)
                }
            }
        };
        match tokio::time::timeout(limit, preparing).await {
            Ok(Ok(Prepared::Writable)) => {}
            Ok(Ok(Prepared::ReadOnly(error))) => self.health.note_read_only(&error),
            Ok(Err(error)) => self.health.give_up(&error),
            Err(_) => self.give_up_silent(limit),
        }
    }

    /// Whether the cache has failed, so that this run does not use it again.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.health.is_broken()
    }

    /// Stops the use of the cache and reports that storing packages at the end of a run took longer
    /// than this limit.
    pub fn give_up_slow(&self, limit: Duration) {
        self.health.give_up(&RemoteError::Slow { limit });
    }

    /// Stops the use of the cache and reports that the file system of its directory has not
    /// responded for this time.
    pub fn give_up_silent(&self, limit: Duration) {
        self.health.give_up(&RemoteError::NoResponse { limit });
    }

    /// Whether packages can be stored in the cache, as far as is known.
    #[must_use]
    pub fn takes_packages(&self) -> bool {
        !self.is_broken() && !self.health.is_read_only()
    }

    /// Finds the entries of packages, in the order of `wanted`. The result is `None` for a missing
    /// entry, and after a failure. All searches of a run share a time limit.
    pub fn find_all<'a>(
        &'a self,
        wanted: &'a [(String, Key)],
    ) -> BoxFuture<'a, Vec<Option<Entry>>> {
        let find = |(index, (name, key)): (usize, &'a (String, Key))| {
            self.find(name, key).map(move |it| (index, it)).boxed()
        };
        // Collect the futures first: with a lazy iterator, the compiler cannot prove that the
        // future is `Send`.
        let finding: Vec<BoxFuture<'_, _>> = wanted.iter().enumerate().map(find).collect();
        async move {
            let mut found: Vec<Option<Entry>> = vec![None; wanted.len()];
            let mut finding = futures_util::stream::iter(finding).buffer_unordered(SEARCHES);
            let collecting = async {
                while let Some((index, entry)) = finding.next().await {
                    found[index] = entry;
                }
            };
            let start = tokio::time::Instant::now();
            if let Err(limit) = self.searches.run(Duration::ZERO, collecting).await {
                let error = RemoteError::Slow { limit };
                match start.elapsed() < limit / 2 {
                    // Earlier searches have used most of the time, so this cache may be healthy.
                    true => self.health.note_miss(&error),
                    false => self.health.give_up(&error),
                }
            }
            found
        }
        .boxed()
    }

    /// Copies a package into a local cache. Returns `false` if its files are missing or wrong, and
    /// after a failure. Up to [`TRANSFERS`] packages may be fetched concurrently.
    pub fn fetch<'a>(&'a self, entry: &'a Entry, into: &'a Arc<LocalCache>) -> BoxFuture<'a, bool> {
        // The base time is already part of the allowance for all downloads.
        let time = self.limits.transfer(entry.size()) - self.limits.base;
        async move {
            let fetching = self.fetch_files(entry, into);
            let fetched = self.downloads.run(time, fetching).await;
            fetched.unwrap_or_else(|limit| {
                self.health.give_up(&RemoteError::Slow { limit });
                false
            })
        }
        .boxed()
    }

    /// Whether the local cache has space for these packages, which may come from several shared
    /// caches. Reports a lack of space.
    pub async fn has_room(&self, entries: Vec<Entry>, into: &Arc<LocalCache>) -> bool {
        let local = Arc::clone(into);
        let measuring =
            runtime::spawn_blocking("measure", move || local.missing_and_free(&entries));
        let error = match measuring.await {
            Ok(Ok((needed, free))) if needed <= free => return true,
            Ok(Ok((needed, free))) => RemoteError::NoSpace { needed, free },
            Ok(Err(error)) => RemoteError::Local(error),
            Err(error) => error.into(),
        };
        self.health.note(&error, Instant::now());
        false
    }

    async fn find(&self, name: &str, key: &Key) -> Option<Entry> {
        let find = || -> BoxFuture<'_, _> {
            match &self.kind {
                Kind::Directory(directory) => Box::pin(directory.find(name, key)),
                Kind::Http(server) => Box::pin(server.find(name, key)),
                Kind::Grpc(server) => Box::pin(server.find(name, key)),
            }
        };
        match self.attempt(self.limits.base, find).await {
            Ok(entry) => entry.filter(|entry| self.has_memory(entry)),
            Err(failed) => {
                if failed == Failed::Wrong {
                    self.damaged().insert(key.to_string());
                }
                None
            }
        }
    }

    /// Whether an entry fits into the memory for all entries. Reports a lack of memory.
    fn has_memory(&self, entry: &Entry) -> bool {
        let size = entry.memory();
        let take = |left: usize| left.checked_sub(size);
        let taken = self
            .memory_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        if taken.is_err() {
            let limit = Bytes(ENTRY_MEMORY as u64);
            let error = RemoteError::Wrong {
                file: format!("{}/{}", entry.parts.name, entry.key()),
                problem: format!("is not used: all descriptions need more than {limit} of memory"),
            };
            self.health.note(&error, Instant::now());
        }
        taken.is_ok()
    }

    async fn fetch_files(&self, entry: &Entry, into: &Arc<LocalCache>) -> bool {
        for content in entry.contents() {
            if self.health.has_local_failed() {
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
            // Concurrent transfers share the bandwidth.
            let shared = content.size.saturating_mul(TRANSFERS as u64);
            match self.attempt(self.limits.transfer(shared), fetch).await {
                Ok(true) => {}
                result => {
                    self.note_damage(entry, result);
                    return false;
                }
            }
        }
        let (local, added) = (Arc::clone(into), entry.clone());
        let adding = runtime::spawn_blocking("add", move || local.add_entry(&added));
        let added = match adding.await {
            Ok(added) => added.map_err(RemoteError::Local),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = added {
            self.health.note(&error, Instant::now());
            return false;
        }
        if let Kind::Directory(directory) = &self.kind
            && let Err(error) = directory.mark_used(entry).await
        {
            tracing::debug!(error = %Chain(&error), "could not note the use of a package");
        }
        true
    }

    /// Remembers a package whose contents are missing or wrong in the cache.
    fn note_damage(&self, entry: &Entry, fetched: Result<bool, Failed>) {
        let mut damaged = self.damaged();
        match fetched {
            Ok(_) => {}
            Err(Failed::Wrong) => {
                damaged.extend(entry.contents().map(|content| content.sha256.clone()));
            }
            Err(Failed::Other) => return,
        }
        damaged.insert(entry.key().to_string());
    }

    /// Stores a package: its blob, its log, then its entry. Returns whether the package is in the
    /// cache now. `concurrent` is the number of packages that are stored at the same time and share
    /// the bandwidth.
    pub async fn store(
        &self,
        entry: &Entry,
        blob: &Path,
        log: Option<&Path>,
        concurrent: u64,
    ) -> bool {
        let log_file = entry.log.as_ref().zip(log);
        let files: Vec<(&Content, &Path)> =
            iter::once((&entry.blob, blob)).chain(log_file).collect();
        let names = files.iter().map(|(content, _)| content.sha256.clone());
        let names = names.chain([entry.key().to_string()]);
        let damaged = names.filter(|name| self.damaged().contains(name));
        let damaged: HashSet<String> = damaged.collect();
        let (files, damaged) = (files.as_slice(), &damaged);
        let store = || -> BoxFuture<'_, _> {
            match &self.kind {
                Kind::Directory(directory) => Box::pin(directory.store(entry, blob, log, damaged)),
                Kind::Http(server) => Box::pin(server.store(entry, files, damaged)),
                Kind::Grpc(server) => Box::pin(server.store(entry, files)),
            }
        };
        let bytes = entry.size().saturating_mul(concurrent);
        let stored = self.attempt(self.limits.transfer(bytes), store).await;
        stored.is_ok()
    }

    /// Once a day, removes contents that no entry of a shared directory names, for example because
    /// a killed run has stored them. If the search takes too long, nothing is removed, and a run on
    /// a later day tries again.
    pub async fn tidy(&self) {
        let Kind::Directory(directory) = &self.kind else {
            return;
        };
        if !self.takes_packages() {
            return;
        }
        match tokio::time::timeout(self.limits.base, directory.tidy()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(error = %Chain(&error), "could not remove unused files of a shared cache");
            }
            Err(_) => tracing::debug!(
                cache = %self,
                "unused files of a shared cache stay there: reading its descriptions takes too long; `bosh-agent cache prune` has no time limit"
            ),
        }
    }

    fn damaged(&self) -> MutexGuard<'_, HashSet<String>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs an operation with a time limit and a few retries. Records a failure for the report.
    async fn attempt<'a, T>(
        &'a self,
        limit: Duration,
        operation: impl Fn() -> BoxFuture<'a, Result<T, RemoteError>>,
    ) -> Result<T, Failed> {
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
        let start = Instant::now();
        let limited = tokio::time::timeout(limit, retrying);
        let result = self.health.while_used(limited).await;
        match result.ok_or(Failed::Other)? {
            Ok(Ok(value)) => {
                self.health.note_success();
                Ok(value)
            }
            Ok(Err(error)) => {
                self.health.note(&error, start);
                Err(Failed::of(&error))
            }
            Err(_) => {
                self.health.note(&RemoteError::Slow { limit }, start);
                Err(Failed::Other)
            }
        }
    }
}

/// Why an operation has no result. The failure was already recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failed {
    /// A file of the cache is wrong.
    Wrong,
    /// The cache or the local cache failed.
    Other,
}

impl Failed {
    fn of(error: &RemoteError) -> Self {
        match error {
            RemoteError::Wrong { .. } => Self::Wrong,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests;
