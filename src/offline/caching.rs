//! The cache of a call: finds packages of earlier runs, and stores those of this one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::cache_lookup::{self, Found};
use super::checked::CheckedPackage;
use super::compiled_release::CompiledBlob;
use super::error::OfflineError;
use super::graph::PackageNode;
use super::logs::PackageLogs;
use super::options::{CacheOptions, Options};
use super::package_keys::{self, CommonParts, Keyed, Memory};
use super::progress::Progress;
use super::recompress::recompress;
use crate::cache::{Content, Damage, Entry, FetchError, Form, LocalCache};
use crate::diag::{Chain, Elapsed};
use crate::fs;
use crate::process;
use crate::release::{Name, Slug, Version};
use crate::runtime;

/// How long a content that no entry names is kept: another process may be about to write the entry.
const GRACE: Duration = Duration::from_secs(600);

/// The cache of a call.
#[derive(Debug)]
pub(super) struct CallCache {
    cache: Arc<LocalCache>,
    common: CommonParts,
    /// Whether results of unrestricted second runs are used and stored.
    takes_unrestricted: bool,
    is_writable: bool,
    /// Whether results are stored.
    stores: bool,
    limit: Option<u64>,
    level: u32,
    isolation: &'static str,
}

/// A package that was found in the cache, and its verified blob.
#[derive(Debug)]
pub(super) struct Hit {
    pub entry: Entry,
    pub blob: Arc<CompiledBlob>,
}

impl Hit {
    /// The line about the package. It starts as that of a compiled one.
    pub(super) fn line(&self, name: &Name, version: &Version) -> String {
        format!(
            "Finished compiling release {name}/{version} BlobstoreID={} after 0.0s, from the cache (compiled in {})",
            self.blob.digest,
            Elapsed(self.entry.elapsed())
        )
    }
}

/// A package of the call, as far as the cache knows it.
#[derive(Debug)]
pub(super) enum Known {
    /// It was compiled before the call.
    Compiled,
    /// It is in the cache.
    Hit(Box<Hit>),
    /// It must be compiled.
    Miss {
        keyed: Box<Keyed>,
        /// Why, as the end of a sentence.
        reason: String,
    },
}

/// A package that was compiled in this call.
#[derive(Debug)]
pub(super) struct Made {
    pub blob: Arc<CompiledBlob>,
    pub log: PathBuf,
    pub elapsed: Duration,
    pub is_unrestricted: bool,
    pub last_lines: Vec<String>,
    pub warnings: Vec<String>,
}

/// The directory of a cache.
#[derive(Debug)]
pub(super) struct OpenedCache {
    cache: LocalCache,
    settings: CacheOptions,
    common: CommonParts,
    is_writable: bool,
}

impl OpenedCache {
    /// Opens the cache of a call, if it has one. Creates a missing directory. Blocks.
    ///
    /// # Errors
    /// If the directory cannot be created, or a file that identifies this machine cannot be read.
    pub(super) fn open(
        options: &Options,
        stemcell: &Slug,
        progress: &Progress,
    ) -> Result<Option<Self>, OfflineError> {
        let Some(settings) = &options.cache else {
            return Ok(None);
        };
        let cache = LocalCache::new(&settings.directory);
        let prepared = cache.prepare();
        let is_writable = prepared.is_ok();
        if let Err(error) = prepared {
            if !cache.is_there() {
                return Err(error.into());
            }
            progress.warn(&format!(
                "Warning: the cache is only read: {}",
                Chain(&error)
            ));
        }
        Ok(Some(Self {
            cache,
            settings: settings.clone(),
            common: CommonParts::of(options, stemcell)?,
            is_writable,
        }))
    }
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
            settings,
            common,
            is_writable,
        } = opened;
        let mut stores = is_writable;
        if isolation == "none" && jobs > 1 {
            progress.warn(
                "Warning: the cache is only read: with --isolation=none and several jobs, packages can affect each other",
            );
            stores = false;
        }
        Self {
            cache: Arc::new(cache),
            common,
            takes_unrestricted: settings.unrestricted,
            is_writable,
            // What a user does in a shell is not part of the key.
            stores: stores && options.shell.is_none(),
            limit: settings.max_size,
            level: options.compression_level,
            isolation,
        }
    }

    /// Finds the packages that are in the cache, in the order of `nodes`, and makes verified copies of their blobs and logs. `except` is
    /// not searched.
    pub(super) async fn find(
        &self,
        nodes: &[(PackageNode, PackageLogs)],
        blobs: impl Fn(&PackageNode) -> PathBuf,
        except: Option<&Name>,
        (progress, cancel): (&Progress, &CancellationToken),
    ) -> Result<Vec<Known>, OfflineError> {
        let packages = nodes
            .iter()
            .map(|(node, _)| Arc::clone(&node.first.package));
        let packages: Vec<Arc<CheckedPackage>> = packages.collect();
        let memory = match self.is_writable {
            true => Memory::ReadAndWrite,
            false => Memory::Read,
        };
        let remembered = (&self.cache, memory);
        let (sources, damaged) =
            package_keys::sources(remembered, packages, self.level, cancel).await?;
        self.set_aside(damaged, progress);
        let keyed = package_keys::keyed(nodes.iter().map(|(node, _)| node), &sources, &self.common);
        let wanted = nodes.iter().zip(keyed).map(|((node, logs), keyed)| Wanted {
            keyed,
            blob: blobs(node),
            log: logs.own.clone(),
            is_searched: except != Some(node.package().name()),
        });
        let wanted: Vec<Wanted> = wanted.collect();
        nodes.iter().for_each(|(_, logs)| logs.remove());
        let (cache, token) = (Arc::clone(&self.cache), cancel.clone());
        let takes_unrestricted = self.takes_unrestricted;
        let fetch = move |wanted: Wanted| wanted.fetch(&cache, takes_unrestricted, &token);
        let fetched = runtime::map_blocking("cache", process::processors(), wanted, fetch).await?;
        if cancel.is_cancelled() {
            return Err(OfflineError::Stopped);
        }
        let mut known = Vec::new();
        for fetched in fetched {
            let (one, damaged) = fetched?;
            self.set_aside(damaged, progress);
            known.push(one);
        }
        Ok(known)
    }

    /// Whether the size of the cache is limited.
    pub(super) fn has_limit(&self) -> bool {
        self.stores && self.limit.is_some()
    }

    /// Whether a result is stored.
    pub(super) fn takes(&self, is_unrestricted: bool) -> bool {
        self.stores && (self.takes_unrestricted || !is_unrestricted)
    }

    /// What stores a package that was compiled in this call. Its blob is kept until then.
    pub(super) fn storing(
        &self,
        keyed: &Keyed,
        made: Made,
        cancel: &CancellationToken,
    ) -> impl FnOnce() -> fs::Result<()> + Send + 'static {
        let (cache, isolation, cancel) = (Arc::clone(&self.cache), self.isolation, cancel.clone());
        let keyed = keyed.clone();
        move || {
            let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let blob = &made.blob.blob;
            let entry = Entry {
                parts: keyed.parts,
                agent: env!("CARGO_PKG_VERSION").to_owned(),
                stored: since_1970.unwrap_or_default().as_secs(),
                milliseconds: u64::try_from(made.elapsed.as_millis()).unwrap_or(u64::MAX),
                isolation: isolation.to_owned(),
                unrestricted: made.is_unrestricted,
                form: keyed.form,
                blob: Content {
                    sha256: blob.digests.sha256().to_owned(),
                    size: blob.size,
                },
                log: None,
                last_lines: made.last_lines,
                warnings: made.warnings,
            };
            let log = fs::lookup(&made.log)?.map(|_| made.log.as_path());
            cache.store(entry, &blob.file, log, &cancel)
        }
    }

    /// Removes what no entry names, and if the cache is too large, the packages that were used least recently. Blocks.
    pub(super) fn pruning(&self) -> impl FnOnce() -> fs::Result<()> + Send + 'static {
        let (cache, limit) = (Arc::clone(&self.cache), self.limit);
        move || cache.prune(limit, GRACE).map(drop)
    }

    /// Reports damaged files and sets them aside.
    fn set_aside(&self, damaged: impl IntoIterator<Item = Damage>, progress: &Progress) {
        for damage in damaged {
            report_damage(&self.cache, &damage, progress);
        }
    }
}

/// Reports a damaged file and sets it aside.
fn report_damage(cache: &LocalCache, damage: &Damage, progress: &Progress) {
    let done = match cache.set_aside(&damage.file) {
        Ok(()) => "It was set aside".to_owned(),
        Err(error) => format!("It could not be set aside: {}", Chain(&error)),
    };
    progress.warn(&format!(
        "Warning: the file of the cache {}. {done}, and the package is compiled again",
        Chain(damage)
    ));
}

/// A package that is searched.
struct Wanted {
    /// `None` for a package that is compiled already.
    keyed: Option<Keyed>,
    blob: PathBuf,
    log: PathBuf,
    is_searched: bool,
}

impl Wanted {
    fn fetch(
        self,
        cache: &LocalCache,
        takes_unrestricted: bool,
        cancel: &CancellationToken,
    ) -> Result<(Known, Vec<Damage>), OfflineError> {
        let Some(keyed) = &self.keyed else {
            return Ok((Known::Compiled, Vec::new()));
        };
        let keyed = Box::new(keyed.clone());
        if !self.is_searched {
            let reason = "a shell is opened for it".to_owned();
            return Ok((Known::Miss { keyed, reason }, Vec::new()));
        }
        let mut damaged = Vec::new();
        let reason = match cache_lookup::find(cache, &keyed.parts, takes_unrestricted) {
            Found::Hit(entry) => {
                let fetched = self.fetch_entry(cache, *entry.clone(), keyed.form, cancel);
                match fetched {
                    Ok(Some(hit)) => return Ok((Known::Hit(Box::new(hit)), damaged)),
                    Ok(None) => "it was just removed from the cache".to_owned(),
                    Err(FetchError::Damaged(damage)) => {
                        // Without its files, the entry is useless.
                        if let Err(error) = cache.set_entry_aside(&entry) {
                            tracing::debug!(error = %Chain(&error), "could not set an entry aside");
                        }
                        damaged.push(damage);
                        cache_lookup::DAMAGED.to_owned()
                    }
                    Err(FetchError::Files(error)) => return Err(error.into()),
                }
            }
            Found::Miss { reason, damage } => {
                damaged.extend(damage);
                reason
            }
        };
        Ok((Known::Miss { keyed, reason }, damaged))
    }

    /// Copies the files of an entry, and compresses the blob as this call does.
    fn fetch_entry(
        &self,
        cache: &LocalCache,
        entry: Entry,
        form: Form,
        cancel: &CancellationToken,
    ) -> Result<Option<Hit>, FetchError> {
        let Some(digests) = cache.fetch(&entry, &self.blob, &self.log, cancel)? else {
            return Ok(None);
        };
        let (digests, size) = match form == entry.form {
            true => (digests, entry.blob.size),
            false => recompress(&self.blob, form, cancel)?,
        };
        let blob = CompiledBlob::of_file(&self.blob, size, &digests);
        Ok(blob.map(Arc::new).map(|blob| Hit { entry, blob }))
    }
}
