//! The caches of a run: finds packages of earlier runs, and stores those of this one. A local cache is a directory of this machine; a
//! shared cache is used by several machines. A package is *unrestricted* if it, or a package that it depends on, was compiled in a second
//! run without Landlock rules or was denied access to files. Such packages are used and stored only on request
//! (`--cache-unrestricted`).

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::checked::CheckedPackage;
use super::error::OfflineError;
use super::fetching::{self, Fetchable, Searched};
use super::graph::PackageNode;
use super::known::{HitOrigin, Known};
use super::logs::PackageLogs;
use super::options::{CacheOptions, Options};
use super::package_keys::{self, CommonParts, Keyed, Memory};
use super::progress::Progress;
use super::shared_caches::{self, Uploads};
use super::storable::Storable;
use super::wanted::Wanted;
use crate::cache::{Content, Damage, Entry, LocalCache, Remotes};
use crate::diag::{Chain, printable};
use crate::fs;
use crate::process;
use crate::release::{Name, Slug};
use crate::runtime;

/// How long a file that no entry of the cache names is kept. Another process may be about to write the entry.
const GRACE: Duration = Duration::from_secs(600);

/// The directory of a temporary cache in the work directory. It receives packages if the run has no writable local cache.
const RECEIVED: &str = "received";

/// The caches of a run.
#[derive(Debug)]
pub(super) struct CallCache {
    /// The local cache or, without one, a temporary cache in the work directory.
    cache: Arc<LocalCache>,
    /// The cache that receives packages of shared caches: the local one, or a temporary one in the work directory.
    receiving: Arc<LocalCache>,
    remotes: Remotes,
    common: CommonParts,
    /// Whether unrestricted packages are used and stored.
    accepts_unrestricted: bool,
    /// Whether the local cache can be written to.
    is_writable: bool,
    /// Whether results are stored in the local cache.
    stores: bool,
    /// Whether results are stored in a shared cache, if the run has one to store them in.
    shares: bool,
    /// The maximum size of the local cache, in bytes.
    limit: Option<u64>,
    /// The gzip level of compiled packages.
    level: u32,
    /// The isolation tier of the run.
    isolation: &'static str,
    reported: Reported,
}

/// The caches of a run before its isolation is known.
#[derive(Debug)]
pub(super) struct OpenedCache {
    cache: LocalCache,
    receiving: LocalCache,
    remotes: Remotes,
    settings: CacheOptions,
    common: CommonParts,
    /// Whether the local cache is kept after the run. A temporary one is not.
    is_kept: bool,
    is_writable: bool,
}

impl OpenedCache {
    /// Opens the caches of a run, if it has one. Creates a missing directory. Blocks. `work` is the work directory.
    ///
    /// # Errors
    /// If the directory cannot be created, or a file of the root file system that is part of the keys cannot be read.
    pub(super) fn open(
        options: &Options,
        stemcell: &Slug,
        work: &Path,
        progress: &Progress,
    ) -> Result<Option<Self>, OfflineError> {
        let Some(settings) = &options.cache else {
            return Ok(None);
        };
        let own = match &settings.directory {
            Some(directory) => prepare(directory, progress)?,
            None => None,
        };
        let is_writable = own.as_ref().is_none_or(|(_, is_writable)| *is_writable);
        let own = own.map(|(cache, _)| cache);
        let shared = &settings.shared;
        let environment = &options.environment;
        let to = shared.to.as_ref();
        let remotes = Remotes::new(&shared.from, to, &shared.credentials, environment);
        let receiving = match &own {
            Some(cache) if is_writable || remotes.from.is_empty() => cache.clone(),
            Some(_) | None => {
                let cache = LocalCache::new(&work.join(RECEIVED));
                cache.prepare()?;
                cache
            }
        };
        Ok(Some(Self {
            is_kept: own.is_some(),
            cache: own.unwrap_or_else(|| receiving.clone()),
            receiving,
            remotes,
            settings: settings.clone(),
            common: CommonParts::of(options, stemcell)?,
            is_writable,
        }))
    }

    /// The shared caches.
    pub(super) fn remotes(&self) -> &Remotes {
        &self.remotes
    }
}

/// Prepares a local cache. Returns it and whether it can be written to; `None` if the disk is full, so that it cannot be created.
fn prepare(
    directory: &Path,
    progress: &Progress,
) -> Result<Option<(LocalCache, bool)>, OfflineError> {
    let cache = LocalCache::new(directory);
    let Err(error) = cache.prepare() else {
        return Ok(Some((cache, true)));
    };
    let is_there = cache.is_there();
    if !is_there && !error.is_no_space() {
        return Err(error.into());
    }
    progress.warn(&format!(
        "Warning: the cache is {}: {}",
        if is_there { "only read" } else { "not used" },
        Chain(&error)
    ));
    Ok(is_there.then_some((cache, false)))
}

impl CallCache {
    /// The cache of a compilation with this isolation and this number of jobs.
    pub(super) fn new(
        opened: OpenedCache,
        options: &Options,
        (isolation, jobs): (&'static str, usize),
        progress: &Progress,
    ) -> Self {
        let OpenedCache {
            cache,
            receiving,
            remotes,
            settings,
            common,
            is_kept,
            is_writable,
        } = opened;
        // If a shell may be opened, store nothing: its user can change packages, and the keys do not show that.
        let mut shares = options.shell.is_none();
        if isolation == "none" && jobs > 1 {
            progress.warn(
                "Warning: the cache is only read: with --isolation=none and several jobs, packages can affect each other",
            );
            shares = false;
        }
        Self {
            cache: Arc::new(cache),
            receiving: Arc::new(receiving),
            remotes,
            common,
            accepts_unrestricted: settings.unrestricted,
            is_writable,
            stores: shares && is_writable && is_kept,
            shares,
            limit: settings.max_size,
            level: options.compression_level,
            isolation,
            reported: Reported::default(),
        }
    }

    /// Searches the caches for packages. The results have the order of `nodes`. Makes verified copies of the blobs and logs that the local
    /// cache has. The package `except` is not searched for; if it is given, only packages that others are compiled against are fetched.
    pub(super) async fn find(
        &self,
        nodes: &[(PackageNode, PackageLogs)],
        blobs: impl Fn(&PackageNode) -> PathBuf,
        except: Option<&Name>,
        (progress, cancel): (&Progress, &CancellationToken),
    ) -> Result<Vec<Searched>, OfflineError> {
        let keyed = self.keyed(nodes, (progress, cancel)).await?;
        let wanted = nodes.iter().zip(keyed).map(|((node, logs), keyed)| Wanted {
            keyed,
            blob: blobs(node),
            log: logs.own.clone(),
            is_searched: except != Some(node.package().name()),
            cache: Arc::clone(&self.cache),
            origin: HitOrigin::Local(self.cache.root().to_owned()),
            accepts_unrestricted: self.accepts_unrestricted,
        });
        let wanted: Vec<Wanted> = wanted.collect();
        nodes.iter().for_each(|(_, logs)| logs.remove());
        let known = self.find_locally(wanted.clone(), progress, cancel).await?;
        let missing = wanted.iter().zip(&known).filter_map(|(wanted, known)| {
            let is_missing = wanted.is_searched && matches!(known, Known::Miss { .. });
            wanted.named_key().filter(|_| is_missing)
        });
        let into = (&self.receiving, self.accepts_unrestricted);
        let from = &self.remotes.from;
        let shared = shared_caches::find_all(from, missing.collect(), into, cancel).await;
        if cancel.is_cancelled() {
            return Err(OfflineError::Stopped);
        }
        let searched = wanted.into_iter().zip(known).map(|(wanted, known)| {
            let key = wanted.named_key();
            match key.and_then(|(_, key)| shared.get(&key).cloned()) {
                Some(found) => {
                    let fetchable = Fetchable::new(found, wanted, &self.receiving);
                    Searched::Shared(Box::new(fetchable))
                }
                None => Searched::Known(known),
            }
        });
        let searched: Vec<Searched> = searched.collect();
        fetching::announce(nodes, &searched, except.is_none(), progress);
        Ok(searched)
    }

    /// Finds the packages that are in the local cache, and makes verified copies of their files. Reports damaged files. A package with
    /// such a file counts as missing, and may still be found in a shared cache.
    async fn find_locally(
        &self,
        wanted: Vec<Wanted>,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Vec<Known>, OfflineError> {
        let token = cancel.clone();
        let look = move |wanted: Wanted| wanted.fetch(&token);
        let looked = runtime::map_blocking("cache", process::processors(), wanted, look).await?;
        if cancel.is_cancelled() {
            return Err(OfflineError::Stopped);
        }
        let then = match self.remotes.from.is_empty() {
            true => "the package is compiled again",
            false => "the package is fetched or compiled again",
        };
        let mut found = Vec::new();
        for looked in looked {
            let (known, damaged) = looked?;
            self.set_aside(damaged, then, progress);
            found.push(known);
        }
        Ok(found)
    }

    /// The key of each package; `None` for a package that is compiled already.
    async fn keyed(
        &self,
        nodes: &[(PackageNode, PackageLogs)],
        (progress, cancel): (&Progress, &CancellationToken),
    ) -> Result<Vec<Option<Keyed>>, OfflineError> {
        let packages = nodes
            .iter()
            .map(|(node, _)| Arc::clone(&node.first.package));
        let packages: Vec<Arc<CheckedPackage>> = packages.collect();
        let memory = match self.is_writable {
            true => Memory::ReadAndWrite,
            false => Memory::Read,
        };
        let remembered = Some((&self.cache, memory));
        let (sources, damaged) =
            package_keys::sources(remembered, packages, self.level, cancel).await?;
        self.set_aside(damaged, "the source is read again", progress);
        let nodes = nodes.iter().map(|(node, _)| node);
        Ok(package_keys::keyed(nodes, &sources, &self.common))
    }

    /// The uploads to a shared cache, if the run has one to store packages in.
    pub(super) fn uploads(&self) -> Option<Uploads> {
        let to = self.remotes.to.as_ref();
        to.filter(|_| self.shares).map(Uploads::new)
    }

    /// Reports failures of the shared caches after which the run continued to use them.
    pub(super) fn report_failures(&self) {
        self.remotes.report_failures();
    }

    /// Whether the caller may warn about a failure of the local cache. Only the first caller may, because a run prints one such warning.
    pub(super) fn may_warn(&self) -> bool {
        self.remotes.may_warn_about_local()
    }

    /// Whether the run stores packages in a local cache whose size is limited.
    pub(super) fn has_limit(&self) -> bool {
        self.stores && self.limit.is_some()
    }

    /// Whether a package may be stored.
    pub(super) fn accepts(&self, is_unrestricted: bool) -> bool {
        self.accepts_unrestricted || !is_unrestricted
    }

    /// Whether results are stored in the local cache.
    pub(super) fn stores(&self) -> bool {
        self.stores
    }

    /// The description of a package that was compiled in this run, without its log.
    pub(super) fn entry(&self, keyed: &Keyed, storable: &Storable) -> Entry {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let blob = &storable.blob.blob;
        Entry {
            parts: keyed.parts.clone(),
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            stored: since_1970.unwrap_or_default().as_secs(),
            milliseconds: u64::try_from(storable.elapsed.as_millis()).unwrap_or(u64::MAX),
            isolation: self.isolation.to_owned(),
            unrestricted: storable.is_unrestricted,
            form: keyed.form,
            blob: Content {
                sha256: blob.digests.sha256().to_owned(),
                size: blob.size,
            },
            log: None,
            last_lines: storable.last_lines.clone(),
            warnings: storable.warnings.clone(),
        }
    }

    /// Returns a function that stores a package of this run in the local cache. Until it is called, it keeps the package's
    /// blob.
    pub(super) fn storing(
        &self,
        entry: Entry,
        storable: Storable,
        cancel: &CancellationToken,
    ) -> impl FnOnce() -> fs::Result<()> + Send + 'static {
        let (cache, cancel) = (Arc::clone(&self.cache), cancel.clone());
        move || {
            let log = fs::lookup(&storable.log)?.map(|_| storable.log.as_path());
            cache.store(entry, &storable.blob.blob.file, log, &cancel)
        }
    }

    /// Returns a function that removes files that no entry names and, if the cache is too large, the least recently used packages. The
    /// function blocks.
    pub(super) fn pruning(
        &self,
        cancel: CancellationToken,
    ) -> impl FnOnce() -> fs::Result<()> + Send + 'static {
        let (cache, limit) = (Arc::clone(&self.cache), self.limit);
        move || cache.prune(limit, GRACE, &cancel).map(drop)
    }

    /// Reports damaged files and sets them aside. `then` ends the warning: what the run does next.
    pub(super) fn set_aside(
        &self,
        damaged: impl IntoIterator<Item = Damage>,
        then: &str,
        progress: &Progress,
    ) {
        for damage in damaged {
            if self.reported.is_new(&damage) {
                report_damage(&self.cache, &damage, then, progress);
            }
        }
    }
}

/// The files of the cache that were reported because they cannot be read now. They are not set aside, so a later search may find them
/// again.
#[derive(Debug, Default)]
struct Reported(Mutex<HashSet<PathBuf>>);

impl Reported {
    /// Whether to report a damaged file. If only reading it failed, it is reported only once.
    fn is_new(&self, damage: &Damage) -> bool {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        damage.kind.is_lasting() || files.insert(damage.file.clone())
    }
}

/// Reports a damaged file, and sets it aside if the file itself is damaged.
fn report_damage(cache: &LocalCache, damage: &Damage, then: &str, progress: &Progress) {
    let is_lasting = damage.kind.is_lasting();
    let done = match is_lasting.then(|| cache.set_aside(&damage.file)) {
        None => "It stays there".to_owned(),
        Some(Ok(())) => "It was set aside".to_owned(),
        Some(Err(error)) => format!("It could not be set aside: {}", Chain(&error)),
    };
    progress.warn(&format!(
        "Warning: the file of the cache {}. {done}, and {then}",
        printable(&Chain(damage))
    ));
}

#[cfg(test)]
mod tests {
    use std::io;

    use nix::libc;

    use super::*;
    use crate::cache::DamageKind;
    use crate::fs::Context as _;

    #[test]
    fn passing_error_of_a_file_is_reported_once() {
        let file = Path::new("/cache/file");
        let unreadable = |errno| {
            let error: io::Result<()> = Err(io::Error::from_raw_os_error(errno));
            Damage {
                file: file.to_owned(),
                kind: DamageKind::Unreadable(error.at("read", file).unwrap_err()),
            }
        };
        let reported = Reported::default();
        let [passing, lasting] = [libc::EIO, libc::ELOOP].map(unreadable);
        assert_eq!([(); 2].map(|()| reported.is_new(&passing)), [true, false]);
        assert_eq!([(); 2].map(|()| reported.is_new(&lasting)), [true, true]);
    }
}
