//! A shared cache in a directory, such as a network file system. It has the same layout as a local
//! cache.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::error::RemoteError;
use crate::cache::damage::{Damage, DamageKind};
use crate::cache::entry::{Content, Entry};
use crate::cache::key::Key;
use crate::cache::local::LocalCache;
use crate::diag::Chain;
use crate::fs::{self, Context as _};
use crate::runtime::{self, Cancellable};

/// The size, in bytes, of the parts in which a file is copied.
const CHUNK: usize = 128 * 1024;

/// Whether packages can be stored in a shared directory.
#[derive(Debug)]
pub(super) enum Prepared {
    Writable,
    /// Packages can only be read, because of this error.
    ReadOnly(fs::Error),
}

#[derive(Debug)]
pub(super) struct Directory {
    cache: Arc<LocalCache>,
}

impl Directory {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            cache: Arc::new(LocalCache::shared(directory)),
        }
    }

    /// Creates the directory if it is missing and this user may create it.
    pub(super) async fn create(&self) {
        let cache = Arc::clone(&self.cache);
        let creating = runtime::spawn_blocking("create", move || fs::create_dir_all(cache.root()));
        if let Ok(Err(error)) = creating.await {
            tracing::debug!(error = %Chain(&error), "could not create the directory of a shared cache");
        }
    }

    /// Creates the directory and the layout of a cache in it.
    pub(super) async fn prepare(&self) -> Result<Prepared, RemoteError> {
        let cache = Arc::clone(&self.cache);
        let preparing = runtime::spawn_blocking("prepare", move || match cache.prepare() {
            Ok(()) => Ok(Prepared::Writable),
            Err(error) if cache.is_there() => Ok(Prepared::ReadOnly(error)),
            Err(error) => Err(error.into()),
        });
        preparing.await?
    }

    /// Removes contents that no package uses, at most once a day.
    pub(super) async fn tidy(&self) -> Result<(), RemoteError> {
        let cache = Arc::clone(&self.cache);
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let tidying = runtime::spawn_blocking("tidy", move || cache.tidy(&stop));
        Ok(tidying.await??)
    }

    /// Sets the time of a package's last use, because pruning removes the least recently used
    /// packages first.
    pub(super) async fn mark_used(&self, entry: &Entry) -> Result<(), RemoteError> {
        let cache = Arc::clone(&self.cache);
        let file = cache.entry(&entry.parts.name, &entry.key());
        let marking = runtime::spawn_blocking("mark", move || cache.mark_used(&file));
        Ok(marking.await?)
    }

    pub(super) async fn find(&self, name: &str, key: &Key) -> Result<Option<Entry>, RemoteError> {
        let (cache, name, key) = (Arc::clone(&self.cache), name.to_owned(), key.clone());
        let finding = runtime::spawn_blocking("find", move || cache.find(&name, &key));
        finding.await?.map_err(|damage| match damage.kind {
            DamageKind::Unreadable(error) => error.into(),
            kind => Damage { kind, ..damage }.into(),
        })
    }

    /// Copies a content into a local cache; `false` if the directory does not have the content.
    pub(super) async fn fetch(
        &self,
        content: &Content,
        into: &Arc<LocalCache>,
    ) -> Result<bool, RemoteError> {
        let (from, into, content) = (Arc::clone(&self.cache), Arc::clone(into), content.clone());
        // Stops the copy if the caller drops this future.
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let copying = runtime::spawn_blocking("copy", move || {
            let file = from.content(&content.sha256);
            let opened = match fs::open_file(&file) {
                Ok(opened) => opened,
                Err(error) if error.is_not_found() => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            let mut opened = Cancellable::new(opened, &stop);
            let mut incoming = into.incoming(&content).map_err(RemoteError::Local)?;
            let mut buffer = vec![0; CHUNK];
            loop {
                match opened.read(&mut buffer).at("read", &file)? {
                    0 => break,
                    count => {
                        let written = incoming.write(&buffer[..count]);
                        if !written.map_err(RemoteError::Local)? {
                            return Err(RemoteError::wrong(&content));
                        }
                    }
                }
            }
            from.mark_used(&file);
            match incoming.finish().map_err(RemoteError::Local)? {
                true => Ok(true),
                false => Err(RemoteError::wrong(&content)),
            }
        });
        copying.await?
    }

    /// Stores a package. Contents that are in `damaged` are replaced.
    pub(super) async fn store(
        &self,
        entry: &Entry,
        blob: &Path,
        log: Option<&Path>,
        damaged: &HashSet<String>,
    ) -> Result<(), RemoteError> {
        let (cache, entry) = (Arc::clone(&self.cache), entry.clone());
        let (blob, log) = (blob.to_owned(), log.map(PathBuf::from));
        let damaged = damaged.clone();
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let storing = runtime::spawn_blocking("store", move || {
            cache.prepare()?;
            for sha256 in damaged {
                cache.set_aside(&cache.content(&sha256))?;
            }
            cache.store(entry, &blob, log.as_deref(), &stop)
        });
        Ok(storing.await??)
    }
}
