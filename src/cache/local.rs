//! A cache in a directory. Several processes can use it at the same time, because files are only
//! added and removed by rename and link. *Sealed* JSON contains its own digest, and a *content* is
//! a compiled blob or a log.
//!
//! ```text
//! DIR/v1/entries/NAME/KEY.json    what a cached package consists of (sealed JSON)
//! DIR/v1/content/AB/SHA256        compiled blobs and logs
//! DIR/v1/sources/AB/SHA256.json   the digest of the content of a source archive (sealed JSON)
//! DIR/v1/tmp                      locked files that are being written, and contents that are being pruned
//! DIR/v1/damaged                  files that are set aside
//! DIR/v1/tidied                   an empty file, modified when unused files of a shared directory were last removed
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::damage::{Damage, DamageKind};
use super::entry::{Content, Entry};
use super::key::{Key, is_sha256};
use crate::fs::{self, Context as _, LeasedFile};
use crate::release::digest::{Hasher, HashingWriter};
use crate::release::{Algorithm, Digests};
use crate::runtime::Cancellable;

/// The subdirectory for files of this format version.
pub(super) const VERSION: &str = "v1";

/// The prefix of temporary files.
pub(super) const PREFIX: &str = "writing-";

/// The prefix of directories with contents that are being removed.
pub(super) const REMOVING: &str = "removing-";

/// Temporary files, and contents without an entry, are removed from a shared directory only if they
/// are at least this old.
pub(super) const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// The extension of sealed JSON.
pub(super) const JSON: &str = "json";

/// The maximum length of a JSON file in bytes. The files that the agent writes are shorter. The
/// limit bounds the use of memory, because several files are read concurrently.
const LONGEST: u64 = 4 << 20;

/// The mode of contents. They are read-only, because a content never changes.
pub(super) const MODE: u32 = 0o444;

/// The digests that are computed while copying: the SHA-256 verifies the copy, the SHA-1 is needed
/// for manifests.
const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha1, Algorithm::Sha256];

/// The name and the contents of the file that makes backup programs skip the cache.
const TAG: (&str, &str) = (
    "CACHEDIR.TAG",
    "Signature: 8a477f597d28d172789f06886806bc55\n# This directory is a cache of bosh-agent.\n",
);

/// A cache in a directory.
#[derive(Debug, Clone)]
pub struct LocalCache {
    root: PathBuf,
    /// Whether other machines write to the directory. Their locks may be invisible here, so an
    /// unlocked temporary file may still be in use.
    pub(super) is_shared: bool,
}

/// Why a cached package cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The package's files are damaged. The caller must set them aside.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The copy cannot be written, or the run was canceled.
    #[error(transparent)]
    Files(#[from] fs::Error),
}

impl LocalCache {
    /// A cache in this directory. Does not create anything.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            is_shared: false,
        }
    }

    /// A cache in a directory that several machines share. Does not create anything.
    pub(super) fn shared(root: &Path) -> Self {
        Self {
            is_shared: true,
            ..Self::new(root)
        }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Creates the directories, and removes temporary files of killed processes.
    ///
    /// # Errors
    /// If the cache cannot be written to.
    pub fn prepare(&self) -> fs::Result<()> {
        for directory in [
            self.temporary(),
            self.entries(),
            self.contents(),
            self.sources(),
        ] {
            fs::create_dir_all(&directory)?;
        }
        fs::check_writable(&self.temporary())?;
        let tag = self.root.join(TAG.0);
        if fs::lookup(&tag)?.is_none() {
            fs::write_atomic(&tag, TAG.1.as_bytes(), MODE)?;
        }
        self.remove_abandoned();
        Ok(())
    }

    /// Whether the directory contains a cache.
    #[must_use]
    pub fn is_there(&self) -> bool {
        fs::metadata(&self.entries()).is_ok()
    }

    /// Finds the entry of a cached package.
    ///
    /// # Errors
    /// If the entry is damaged. The caller must set it aside.
    pub fn find(&self, name: &str, key: &Key) -> Result<Option<Entry>, Damage> {
        let file = self.entry(name, key);
        match read(&file) {
            Ok(None) => Ok(None),
            Ok(Some(text)) => Entry::decode(&text, name, key)
                .map(Some)
                .map_err(|kind| Damage { file, kind }),
            Err(kind) => Err(Damage { file, kind }),
        }
    }

    /// Makes verified copies, possibly hard links, of a cached package's blob at `blob` and of its
    /// log, if there is one, at `log`. Returns the SHA-1 and SHA-256 of the blob; `None` if another
    /// process has removed the package meanwhile.
    ///
    /// # Errors
    /// If a file is damaged, or a copy cannot be written. No partial copy is left.
    pub fn fetch(
        &self,
        entry: &Entry,
        blob: &Path,
        log: &Path,
        cancel: &CancellationToken,
    ) -> Result<Option<Digests>, FetchError> {
        let fetched = self.fetch_all(entry, blob, log, cancel);
        match fetched {
            Ok(digests) => {
                self.mark_used(&self.entry(&entry.parts.name, &entry.key()));
                Ok(Some(digests))
            }
            Err(error) => {
                for file in [blob, log] {
                    // Remove copies that are partial or damaged.
                    let _ = fs::remove_file_if_there(file);
                }
                let is_missing = matches!(&error, FetchError::Damaged(it) if matches!(it.kind, DamageKind::Missing));
                let file = self.entry(&entry.parts.name, &entry.key());
                match is_missing && matches!(fs::lookup(&file), Ok(None)) {
                    true => Ok(None),
                    false => Err(error),
                }
            }
        }
    }

    fn fetch_all(
        &self,
        entry: &Entry,
        blob: &Path,
        log: &Path,
        cancel: &CancellationToken,
    ) -> Result<Digests, FetchError> {
        let file = self.current_path(&entry.blob);
        let digests = match fs::hard_link(&file, blob) {
            Ok(()) => self.check(&entry.blob, blob, cancel)?,
            Err(error) if error.is_not_found() => return Err(missing(file).into()),
            // The cache is on another file system, or the file belongs to another user.
            Err(_) => self.copy(&entry.blob, blob, cancel)?,
        };
        if let Some(content) = &entry.log {
            // Copy instead of linking, because the user may change the log.
            self.copy(content, log, cancel)?;
        }
        Ok(digests)
    }

    /// The current path of a content. While another process prunes the cache, the content may be in
    /// a directory in `tmp` for a short time; see [`remove_contents`](Self::remove_contents).
    fn current_path(&self, content: &Content) -> PathBuf {
        let file = self.content(&content.sha256);
        if !matches!(fs::lookup(&file), Ok(None)) {
            return file;
        }
        let moved = fs::list(&self.temporary()).unwrap_or_default();
        let moved = moved.iter().map(|it| it.path().join(&content.sha256));
        let mut moved = moved.filter(|it| matches!(fs::lookup(it), Ok(Some(_))));
        moved.next().unwrap_or(file)
    }

    /// Verifies a content by reading its hard link `link`.
    fn check(
        &self,
        content: &Content,
        link: &Path,
        cancel: &CancellationToken,
    ) -> Result<Digests, FetchError> {
        let file = self.content(&content.sha256);
        let unreadable = |error| unreadable(&file, error);
        let opened = fs::open(link).map_err(unreadable)?;
        let reader = Cancellable::new(opened, cancel);
        let (digests, size) = Digests::of_reader(reader, &ALGORITHMS)
            .at("read", link)
            .map_err(|error| stopped_or(cancel, error, unreadable))?;
        match Content::new(&digests, size).as_ref() == Some(content) {
            true => Ok(digests),
            false => Err(changed(file).into()),
        }
    }

    /// Copies a content and verifies it.
    fn copy(
        &self,
        content: &Content,
        to: &Path,
        cancel: &CancellationToken,
    ) -> Result<Digests, FetchError> {
        let file = self.current_path(content);
        let unreadable = |error| unreadable(&file, error);
        let from = match fs::open(&file) {
            Ok(from) => from,
            Err(error) if error.is_not_found() => return Err(missing(file).into()),
            Err(error) => return Err(unreadable(error).into()),
        };
        let mut from = Cancellable::new(from, cancel);
        let mut out = HashingWriter::new(fs::create(to)?, Hasher::new(&ALGORITHMS));
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let read = from.read(&mut buffer).at("read", &file);
            let count = read.map_err(|error| stopped_or(cancel, error, unreadable))?;
            if count == 0 {
                break;
            }
            out.write_all(&buffer[..count]).at("write", to)?;
        }
        let size = out.count();
        let (_, digests) = out.finish();
        match Content::new(&digests, size).as_ref() == Some(content) {
            true => Ok(digests),
            false => Err(changed(file).into()),
        }
    }

    /// Moves a damaged file aside, so that it is not found again. Does nothing if the file is
    /// missing: the entry that names the file stays until a run compiles the package again and
    /// replaces the entry.
    ///
    /// # Errors
    /// The error of the system.
    pub fn set_aside(&self, damaged: &Path) -> fs::Result<()> {
        let aside = self.aside();
        fs::create_dir_all(&aside)?;
        let target = aside.join(fs::file_name(damaged));
        if fs::if_there(fs::rename(damaged, &target))?.is_some() {
            // Damaged files are kept for some time, which starts now.
            self.mark_used(&target);
        }
        Ok(())
    }

    /// Moves the entry of a package with damaged files aside.
    ///
    /// # Errors
    /// The error of the system.
    pub fn set_entry_aside(&self, entry: &Entry) -> fs::Result<()> {
        self.set_aside(&self.entry(&entry.parts.name, &entry.key()))
    }

    pub(super) fn write(&self, file: &Path, text: serde_json::Result<Vec<u8>>) -> fs::Result<()> {
        let text = text.map_err(io::Error::from).at("write", file)?;
        fs::create_dir_all(fs::parent(file))?;
        let temporary = LeasedFile::create(&self.temporary(), PREFIX, "")?;
        fs::set_mode(temporary.path(), MODE)?;
        let mut open = temporary.file();
        open.write_all(&text).at("write", temporary.path())?;
        temporary.persist(file)
    }

    pub(super) fn remove_abandoned(&self) {
        let age = if self.is_shared {
            ABANDONED
        } else {
            Duration::ZERO
        };
        for prefix in [PREFIX, REMOVING] {
            fs::remove_abandoned_older(&self.temporary(), prefix, age);
        }
    }

    /// Sets the modification time of a file, which is the time of its last use. Pruning removes the
    /// least recently used packages first, and keeps damaged files for some time.
    pub(super) fn mark_used(&self, file: &Path) {
        let marked = fs::open(file)
            .and_then(|opened: File| opened.set_modified(SystemTime::now()).at("mark", file));
        if let Err(error) = marked {
            tracing::debug!(%error, "could not note the use of a cached file");
        }
    }

    pub(super) fn entries(&self) -> PathBuf {
        self.root.join(VERSION).join("entries")
    }

    /// The path of an entry. Package names are valid file names.
    pub(super) fn entry(&self, name: &str, key: &Key) -> PathBuf {
        self.entries().join(name).join(format!("{key}.{JSON}"))
    }

    pub(super) fn contents(&self) -> PathBuf {
        self.root.join(VERSION).join("content")
    }

    pub(super) fn content(&self, sha256: &str) -> PathBuf {
        in_parts(&self.contents(), sha256)
    }

    pub(super) fn sources(&self) -> PathBuf {
        self.root.join(VERSION).join("sources")
    }

    pub(super) fn source_file(&self, archive: &str) -> PathBuf {
        in_parts(&self.sources(), archive).with_extension(JSON)
    }

    pub(super) fn temporary(&self) -> PathBuf {
        self.root.join(VERSION).join("tmp")
    }

    pub(super) fn tidied(&self) -> PathBuf {
        self.root.join(VERSION).join("tidied")
    }

    pub(super) fn aside(&self) -> PathBuf {
        self.root.join(VERSION).join("damaged")
    }
}

/// The path of a file that is named by its digest, in one of 256 subdirectories.
fn in_parts(directory: &Path, sha256: &str) -> PathBuf {
    debug_assert!(is_sha256(sha256), "{sha256}");
    directory.join(&sha256[..2]).join(sha256)
}

/// Reads a JSON file; `None` if it is missing.
pub(super) fn read(file: &Path) -> Result<Option<Vec<u8>>, DamageKind> {
    let opened = fs::if_there(fs::open_file(file)).map_err(DamageKind::Unreadable)?;
    let Some(opened) = opened else {
        return Ok(None);
    };
    let mut text = Vec::new();
    let read = opened.take(LONGEST).read_to_end(&mut text);
    read.at("read", file).map_err(DamageKind::Unreadable)?;
    Ok(Some(text))
}

fn unreadable(file: &Path, error: fs::Error) -> Damage {
    Damage {
        file: file.to_owned(),
        kind: DamageKind::Unreadable(error),
    }
}

fn missing(file: PathBuf) -> Damage {
    let kind = DamageKind::Missing;
    Damage { file, kind }
}

fn changed(file: PathBuf) -> Damage {
    let kind = DamageKind::Changed;
    Damage { file, kind }
}

/// The error of a read. After a cancellation, the file must not be treated as damaged.
fn stopped_or(
    cancel: &CancellationToken,
    error: fs::Error,
    damage: impl FnOnce(fs::Error) -> Damage,
) -> FetchError {
    match cancel.is_cancelled() {
        true => FetchError::Files(error),
        false => FetchError::Damaged(damage(error)),
    }
}

#[cfg(test)]
mod tests;
