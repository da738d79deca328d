//! The shared caches of a call: packages are fetched from them before the first script starts, and stored in one while others compile.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::error::OfflineError;
use super::made::Made;
use super::progress::Progress;
use crate::cache::{Content, Entry, Key, LocalCache, Remote, time_limit};
use crate::diag::{Bytes, Chain};
use crate::fs::{self, Context as _};
use crate::release::Algorithm;
use crate::release::digest::{Hasher, HashingReader};
use crate::runtime::{self, TaskSet};

/// How many packages are stored concurrently.
const UPLOADS: usize = 2;

/// How long the end of a run waits for uploads, at most.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The packages that have arrived in a local cache, each with the shared cache it came from.
pub(super) type Arrived = HashMap<Key, Arc<Remote>>;

/// Copies packages from shared caches into a local one. A package is taken from the first cache that has it.
pub(super) async fn fetch(
    from: &[Arc<Remote>],
    mut missing: Vec<(String, Key)>,
    (into, takes_unrestricted): (&Arc<LocalCache>, bool),
    (progress, cancel): (&Progress, &CancellationToken),
) -> Arrived {
    let mut arrived = Arrived::new();
    for remote in from {
        if missing.is_empty() {
            break;
        }
        let finding = find(remote, &missing, takes_unrestricted);
        let Some(found) = cancel.run_until_cancelled(finding).await else {
            break;
        };
        if found.is_empty() {
            continue;
        }
        progress.line(&announcement(&found, remote));
        let fetching = remote.fetch_all(&found, into);
        let Some(fetched) = cancel.run_until_cancelled(fetching).await else {
            break;
        };
        let there = found.iter().zip(fetched).filter(|(_, is_there)| *is_there);
        arrived.extend(there.map(|(entry, _)| (entry.key(), Arc::clone(remote))));
        missing.retain(|(_, key)| !arrived.contains_key(key));
    }
    arrived
}

/// The packages of a shared cache that this call can use.
pub(super) async fn find(
    remote: &Remote,
    wanted: &[(String, Key)],
    takes_unrestricted: bool,
) -> Vec<Entry> {
    let found = remote.find_all(wanted).await.into_iter().flatten();
    found
        .filter(|entry| takes_unrestricted || !entry.unrestricted)
        .collect()
}

fn announcement(found: &[Entry], remote: &Remote) -> String {
    let sizes = found.iter().map(Entry::size);
    let size = Bytes(sizes.fold(0, u64::saturating_add));
    match found.len() {
        1 => format!("Fetching one package ({size}) from {remote}"),
        more => format!("Fetching {more} packages ({size}) from {remote}"),
    }
}

/// The packages of a call that are being stored in a shared cache.
#[derive(Debug)]
pub(super) struct Uploads {
    to: Arc<Remote>,
    /// Each has the size of its package.
    running: TaskSet<u64, bool>,
    permits: Arc<Semaphore>,
}

impl Uploads {
    pub(super) fn new(to: &Arc<Remote>) -> Self {
        Self {
            to: Arc::clone(to),
            running: TaskSet::new("upload"),
            permits: Arc::new(Semaphore::new(UPLOADS)),
        }
    }

    /// Starts to store a package, after those before it. Its blob is kept until then.
    pub(super) fn start(&mut self, entry: Entry, made: Made) {
        if !self.to.takes_packages() {
            return;
        }
        let (to, permits) = (Arc::clone(&self.to), Arc::clone(&self.permits));
        self.running.spawn(entry.blob.size, async move {
            // The semaphore is never closed.
            let Ok(_permit) = permits.acquire().await else {
                return false;
            };
            match with_log(entry, &made.log).await {
                Ok(entry) => {
                    let log = entry.log.as_ref().map(|_| made.log.as_path());
                    to.store(&entry, &made.blob.blob.file, log).await
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "a package is not stored in the shared cache {to}");
                    true
                }
            }
        });
    }

    /// Waits for a limited time until all packages are stored. A failure was reported before.
    pub(super) async fn finish(mut self, (progress, cancel): (&Progress, &CancellationToken)) {
        // Those that have ended already.
        while let Some(Some(_)) = self.running.next().now_or_never() {}
        if self.running.is_empty() || self.to.is_broken() {
            return;
        }
        progress.line(&format!(
            "Storing the last packages in the shared cache {}",
            self.to
        ));
        let size = self.running.keys().sum::<u64>();
        let limit = time_limit(size).min(LONGEST_WAIT);
        let running = &mut self.running;
        let draining = async { while running.next().await.is_some() {} };
        let limited = tokio::time::timeout(limit, draining);
        if let Some(Err(_)) = cancel.run_until_cancelled(limited).await {
            let count = self.running.len();
            progress.warn(&format!(
                "Warning: {} not stored in the shared cache {}: it takes too long",
                match count {
                    1 => "one package was".to_owned(),
                    more => format!("{more} packages were"),
                },
                self.to
            ));
        }
    }
}

/// The entry with the content of the log, if there is one.
async fn with_log(mut entry: Entry, log: &Path) -> Result<Entry, OfflineError> {
    let log = log.to_owned();
    let hashing = runtime::spawn_blocking("hash", move || content(&log));
    entry.log = hashing.await??;
    Ok(entry)
}

/// The SHA-256 and size of a file, if it exists.
fn content(file: &Path) -> fs::Result<Option<Content>> {
    let opened = match fs::open(file) {
        Ok(opened) => opened,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut reader = HashingReader::new(opened, Hasher::new(&[Algorithm::Sha256]));
    std::io::copy(&mut reader, &mut std::io::sink()).at("read", file)?;
    let size = reader.count();
    Ok(Content::new(&reader.finish().1, size))
}
