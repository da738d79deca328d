//! The shared caches of a run, which several machines use. They are searched before the first script starts. Compiled packages are stored
//! in one of them while other packages are compiled.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::error::OfflineError;
use super::progress::Progress;
use super::storable::Storable;
use crate::cache::{Content, Entry, Key, LocalCache, Remote, time_limit};
use crate::diag::Chain;
use crate::fs::{self, Context as _};
use crate::release::{Algorithm, Digests};
use crate::runtime::{self, TaskSet};

/// How many packages are stored concurrently.
const UPLOADS: usize = 2;

/// How long a run waits at its end, at most: for uploads, for the pruning of the local cache and, unless large packages need more time, for
/// the local cache to store packages.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// How long a stopped run waits for files of the local cache, whose file system may no longer respond.
pub(super) const LONGEST_STOP: Duration = Duration::from_secs(5);

/// Waits until a run was stopped and the file system of the local cache has had time to respond.
pub(super) async fn stopped_long_ago(cancel: &CancellationToken) {
    cancel.cancelled().await;
    tokio::time::sleep(LONGEST_STOP).await;
}

/// A package of a shared cache.
#[derive(Debug, Clone)]
pub(super) struct InShared {
    pub entry: Entry,
    /// The first cache that has the package.
    pub remote: Arc<Remote>,
    /// The caches after `remote`, which may also have the package.
    pub others: Vec<Arc<Remote>>,
}

/// Searches shared caches for packages. Leaves out the packages of a cache if `into` has no space for them in addition to those of earlier
/// caches.
pub(super) async fn find_all(
    from: &[Arc<Remote>],
    mut missing: Vec<(String, Key)>,
    (into, accepts_unrestricted): (&Arc<LocalCache>, bool),
    cancel: &CancellationToken,
) -> HashMap<Key, InShared> {
    let mut all = HashMap::new();
    for (index, remote) in from.iter().enumerate() {
        if missing.is_empty() {
            break;
        }
        let finding = async {
            let found = find(remote, &missing, accepts_unrestricted).await;
            let before = all.values().map(|it: &InShared| &it.entry);
            let together: Vec<Entry> = before.chain(&found).cloned().collect();
            match found.is_empty() || remote.has_room(together, into).await {
                true => found,
                false => Vec::new(),
            }
        };
        let Some(found) = cancel.run_until_cancelled(finding).await else {
            break;
        };
        all.extend(found.into_iter().map(|entry| {
            let key = entry.key();
            let shared = InShared {
                entry,
                remote: Arc::clone(remote),
                others: from[index + 1..].to_vec(),
            };
            (key, shared)
        }));
        missing.retain(|(_, key)| !all.contains_key(key));
    }
    all
}

/// The packages of a shared cache that this run can use.
pub(super) async fn find(
    remote: &Remote,
    wanted: &[(String, Key)],
    accepts_unrestricted: bool,
) -> Vec<Entry> {
    let found = remote.find_all(wanted).await.into_iter().flatten();
    found
        .filter(|entry| accepts_unrestricted || !entry.unrestricted)
        .collect()
}

/// The packages of a run that are being stored in a shared cache.
#[derive(Debug)]
pub(super) struct Uploads {
    to: Arc<Remote>,
    /// The running uploads, each with the size of its package.
    running: TaskSet<u64, bool>,
    permits: Arc<Semaphore>,
    /// How many packages were not stored.
    lost: usize,
}

impl Uploads {
    pub(super) fn new(to: &Arc<Remote>) -> Self {
        Self {
            to: Arc::clone(to),
            running: TaskSet::new("upload"),
            permits: Arc::new(Semaphore::new(UPLOADS)),
            lost: 0,
        }
    }

    /// Starts a task that stores a package, after earlier ones. Keeps the package's blob until it is stored.
    pub(super) fn start(&mut self, entry: Entry, storable: Storable) {
        if !self.to.takes_packages() {
            // Count the package as lost only if the cache has failed, not if it is read-only.
            self.lost += usize::from(self.to.is_broken());
            return;
        }
        let (to, permits) = (Arc::clone(&self.to), Arc::clone(&self.permits));
        self.running.spawn(entry.blob.size, async move {
            // The semaphore is never closed.
            let Ok(_permit) = permits.acquire().await else {
                return false;
            };
            match with_log(entry, &storable.log).await {
                Ok(entry) => {
                    let log = entry.log.as_ref().map(|_| storable.log.as_path());
                    let file = &storable.blob.blob.file;
                    to.store(&entry, file, log, UPLOADS as u64).await
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "a package is not stored in the shared cache {to}");
                    false
                }
            }
        });
    }

    /// Waits until all packages are stored, at most [`LONGEST_WAIT`] in total, and prints how many were not stored. Failures were reported
    /// before.
    pub(super) async fn finish(mut self, (progress, cancel): (&Progress, &CancellationToken)) {
        // Count the uploads that have ended already.
        while let Some(Some((_, stored))) = self.running.next().now_or_never() {
            self.count(stored);
        }
        if !self.running.is_empty() && !self.to.is_broken() {
            progress.line(&format!(
                "Storing the last packages in the shared cache {}",
                self.to
            ));
        }
        let size = self.running.keys().sum::<u64>();
        let limit = time_limit(size.saturating_mul(UPLOADS as u64)).min(LONGEST_WAIT);
        let Some(is_slow) = cancel.run_until_cancelled(self.wait(limit)).await else {
            return;
        };
        if is_slow {
            self.to.give_up_slow(limit);
        } else {
            let _ = cancel.run_until_cancelled(self.to.tidy()).await;
        }
        // A warning has reported the reason.
        if let Some(text) = self.summary() {
            progress.line(&text);
        }
    }

    /// Waits until all packages are stored. Returns whether that takes longer than the limit.
    async fn wait(&mut self, limit: Duration) -> bool {
        let waiting = async {
            while let Some((_, stored)) = self.running.next().await {
                self.count(stored);
            }
        };
        tokio::time::timeout(limit, waiting).await.is_err()
    }

    fn count(&mut self, stored: Result<bool, runtime::TaskFailed>) {
        self.lost += usize::from(!matches!(stored, Ok(true)));
    }

    /// How many packages were not stored.
    fn summary(&self) -> Option<String> {
        let count = match self.lost + self.running.len() {
            0 => return None,
            1 => "1 package was".to_owned(),
            more => format!("{more} packages were"),
        };
        Some(format!(
            "{count} not stored in the shared cache {}",
            self.to
        ))
    }
}

/// Adds the log, if there is one, to an entry.
async fn with_log(mut entry: Entry, log: &Path) -> Result<Entry, OfflineError> {
    let log = log.to_owned();
    let hashing = runtime::spawn_blocking("hash", move || content(&log));
    entry.log = hashing.await??;
    Ok(entry)
}

/// The SHA-256 and size of a file, if it exists.
fn content(file: &Path) -> fs::Result<Option<Content>> {
    let Some(opened) = fs::if_there(fs::open_file(file))? else {
        return Ok(None);
    };
    let (digests, size) = Digests::of_reader(opened, &[Algorithm::Sha256]).at("read", file)?;
    Ok(Content::new(&digests, size))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::TcpListener;
    use std::time::Instant;

    use super::super::compiled_release::CompiledBlob;
    use super::*;
    use crate::cache::{Credentials, FORMAT, Form, KeyParts, Location, Remotes};
    use crate::config::Environment;
    use crate::release::Digests;

    fn parts(name: &str) -> KeyParts {
        KeyParts {
            format: FORMAT,
            name: name.to_owned(),
            version: "1".to_owned(),
            source: "s".to_owned(),
            dependencies: BTreeMap::new(),
            stemcell: "ubuntu-noble/1".to_owned(),
            architecture: "x86_64".to_owned(),
            root: BTreeMap::new(),
            base: "/var/vcap".to_owned(),
            options: BTreeMap::new(),
            variables: BTreeMap::new(),
        }
    }

    fn package(name: &str, file: &Path) -> (Entry, Storable) {
        let bytes = fs::read(file).unwrap();
        let size = bytes.len() as u64;
        let digests = Digests::of(&bytes, &[Algorithm::Sha1, Algorithm::Sha256]);
        let entry = Entry {
            parts: parts(name),
            agent: "0".to_owned(),
            stored: 1,
            milliseconds: 1,
            isolation: "none".to_owned(),
            unrestricted: false,
            form: Form::Plain,
            blob: Content::new(&digests, size).unwrap(),
            log: None,
            last_lines: Vec::new(),
            warnings: Vec::new(),
        };
        let storable = Storable {
            blob: Arc::new(CompiledBlob::of_file(file, size, &digests).unwrap()),
            log: file.with_extension("log"),
            elapsed: Duration::ZERO,
            is_unrestricted: false,
            last_lines: Vec::new(),
            warnings: Vec::new(),
        };
        (entry, storable)
    }

    #[tokio::test]
    async fn packages_of_all_caches_share_the_free_space() {
        // Larger packages are not accepted.
        const LARGEST: u64 = 60 << 30;
        let scratch = tempfile::tempdir().unwrap();
        let into = Arc::new(LocalCache::new(&scratch.path().join("into")));
        into.prepare().unwrap();
        // Two thirds of the space for each of two caches.
        let each = fs::space(into.root()).unwrap().free / 3 * 2;
        let blob = scratch.path().join("blob");
        fs::write(&blob, b"blob").unwrap();
        let directories = ["one", "two"].map(|name| Location::Directory(scratch.path().join(name)));
        let credentials = Credentials::default();
        let remotes = Remotes::new(&directories, None, &credentials, &Environment::default());
        let mut wanted = Vec::new();
        for (number, remote) in remotes.from.iter().enumerate() {
            for part in 0..=each / LARGEST {
                let name = format!("package-{number}-{part}");
                let (mut entry, _) = package(&name, &blob);
                entry.blob.size = LARGEST.min(each - part * LARGEST);
                entry.blob.sha256 = format!("{:064x}", 16 * part + number as u64);
                wanted.push((name, entry.key()));
                assert!(remote.store(&entry, &blob, None, 1).await);
            }
        }
        let cancel = CancellationToken::new();
        let found = find_all(&remotes.from, wanted, (&into, false), &cancel).await;
        let mut found = found.values();
        assert!(found.next().is_some());
        assert!(found.all(|it| Arc::ptr_eq(&it.remote, &remotes.from[0])));
    }

    #[tokio::test]
    async fn uploads_share_one_time_limit_and_are_counted() {
        let scratch = tempfile::tempdir().unwrap();
        // A server that never responds.
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        let location = Location::parse(&url).unwrap();
        let credentials = Credentials::default();
        let remotes = Remotes::new(&[], Some(&location), &credentials, &Environment::default());
        let mut uploads = Uploads::new(&remotes.to.unwrap());
        let limit = Duration::from_millis(100);
        for name in ["a", "b", "c"] {
            let file = scratch.path().join(name);
            fs::write(&file, name.as_bytes()).unwrap();
            let (entry, storable) = package(name, &file);
            uploads.start(entry, storable);
        }
        let start = Instant::now();
        assert!(uploads.wait(limit).await);
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(
            uploads.summary().unwrap(),
            format!("3 packages were not stored in the shared cache {url}")
        );
    }
}
