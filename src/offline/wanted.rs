//! The search for a package in a local cache. If the cache has the package, its files are copied.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::cache_lookup::{self, Found};
use super::compiled_release::CompiledBlob;
use super::error::OfflineError;
use super::known::{Hit, HitOrigin, Known};
use super::package_keys::Keyed;
use super::recompress::{self, recompress};
use crate::cache::{Damage, DamageKind, Entry, FetchError, Form, Key, LocalCache};
use crate::diag::Chain;
use crate::fs;

/// A package to search for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// The parts of the key. `None` for a package that is compiled already.
    pub keyed: Option<Keyed>,
    /// The path to which the package's blob is copied.
    pub blob: PathBuf,
    /// The path to which the package's log is copied.
    pub log: PathBuf,
    /// Whether to search for the package. `false` if a shell is opened for it.
    pub is_searched: bool,
    /// The local cache that is searched.
    pub cache: Arc<LocalCache>,
    /// The cache from which the package came into `cache`.
    pub origin: HitOrigin,
    /// Whether results of second runs without Landlock rules are used.
    pub accepts_unrestricted: bool,
}

impl Wanted {
    /// The package's name and key. `None` for a package that is compiled already.
    pub(super) fn named_key(&self) -> Option<(String, Key)> {
        let parts = &self.keyed.as_ref()?.parts;
        Some((parts.name.clone(), parts.key()))
    }

    /// Makes verified copies of the package's files if the cache has the package. Also returns damaged files of the cache. Blocks.
    pub(super) fn fetch(
        self,
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
        let (cache, mut damaged) = (&*self.cache, Vec::new());
        let reason = match cache_lookup::find(cache, &keyed.parts, self.accepts_unrestricted) {
            Found::Hit(entry) => {
                let fetched = self.fetch_entry(*entry.clone(), keyed.form, cancel);
                match fetched {
                    Ok(Some(hit)) => return Ok((Known::Hit(Box::new(hit)), damaged)),
                    Ok(None) => "it was just removed from the cache".to_owned(),
                    Err(FetchError::Damaged(damage)) => {
                        // Without its files, the entry is not usable.
                        if damage.kind.is_lasting()
                            && let Err(error) = cache.set_entry_aside(&entry)
                        {
                            tracing::debug!(error = %Chain(&error), "could not set an entry aside");
                        }
                        damaged.push(damage);
                        cache_lookup::DAMAGED.to_owned()
                    }
                    Err(FetchError::Files(error)) if recompress::is_no_room(&error) => {
                        "there is too little space to change its compression".to_owned()
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

    /// Copies the files of an entry. Changes the compression of the copied blob, if this run compresses in another way.
    fn fetch_entry(
        &self,
        entry: Entry,
        form: Form,
        cancel: &CancellationToken,
    ) -> Result<Option<Hit>, FetchError> {
        let Some(digests) = self.cache.fetch(&entry, &self.blob, &self.log, cancel)? else {
            return Ok(None);
        };
        let (digests, size) = match form == entry.form {
            true => (digests, entry.blob.size),
            false => {
                let forms = (entry.form, form);
                let recompressed = recompress(&self.blob, forms, cancel);
                recompressed.map_err(|error| self.failed(error, &entry))?
            }
        };
        let blob = CompiledBlob::of_file(&self.blob, size, &digests);
        Ok(blob.map(Arc::new).map(|blob| Hit {
            entry,
            blob,
            origin: self.origin.clone(),
        }))
    }

    /// Converts the error of a recompression. If the blob cannot be decompressed, the file of the cache is damaged. Removes the copies.
    fn failed(&self, error: fs::Error, entry: &Entry) -> FetchError {
        for file in [&self.blob, &self.log] {
            let _ = fs::remove_file_if_there(file);
        }
        if !recompress::is_damage(&error) {
            return error.into();
        }
        let file = self.cache.content_file(&entry.blob);
        let kind = DamageKind::Unreadable(error);
        FetchError::Damaged(Damage { file, kind })
    }
}
