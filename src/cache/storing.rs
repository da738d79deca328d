//! Stores packages in a local cache.

use std::io;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::entry::{Content, Entry};
use super::local::{LocalCache, MODE, PREFIX};
use crate::fs::{self, Context as _, LeasedDirectory, LeasedFile};
use crate::release::Algorithm;
use crate::release::digest::{Hasher, HashingWriter};
use crate::runtime::Cancellable;

impl LocalCache {
    /// Stores a package. The blob is hard-linked if it is on the same file system. The log's digest
    /// and size are added to the entry.
    ///
    /// # Errors
    /// The error of the system. Files that were already written stay until [`prune`](Self::prune)
    /// removes them.
    pub fn store(
        &self,
        mut entry: Entry,
        blob: &Path,
        log: Option<&Path>,
        cancel: &CancellationToken,
    ) -> fs::Result<()> {
        if let Some(log) = log {
            entry.log = Some(self.add_copy(log, cancel)?);
        }
        self.add(&entry.blob, blob, cancel)?;
        let file = self.entry(&entry.parts.name, &entry.key());
        self.write(&file, entry.encode())?;
        // Another process may have pruned the blob before the entry named it.
        if fs::lookup(&self.content(&entry.blob.sha256))?.is_none() {
            self.add(&entry.blob, blob, cancel)?;
        }
        if let (Some(content), Some(log)) = (&entry.log, log)
            && fs::lookup(&self.content(&content.sha256))?.is_none()
        {
            self.add_copy(log, cancel)?;
        }
        Ok(())
    }

    /// Adds a file with a known digest. Uses a hard link if the file is on the same file system.
    fn add(&self, content: &Content, file: &Path, cancel: &CancellationToken) -> fs::Result<()> {
        let target = self.content(&content.sha256);
        fs::create_dir_all(fs::parent(&target))?;
        // An existing file may be damaged, for example after a power failure. Replace it
        // atomically, so that it is never missing.
        let directory = LeasedDirectory::create(&self.temporary(), PREFIX)?;
        let link = directory.path().join(&content.sha256);
        if fs::hard_link(file, &link).is_err() {
            // The cache is on another file system: copy the file, unless the cache has it.
            if self.has_right_size(content, &target)? {
                return Ok(());
            }
            return self.add_copy(file, cancel).map(drop);
        }
        fs::set_mode(&link, MODE)?;
        fs::rename(&link, &target)?;
        self.mark_used(&target);
        directory.remove()
    }

    /// Whether the cache has a content with the right size. If so, sets the time of its last use,
    /// so that it is not pruned before its entry is written. A content with the wrong size is
    /// removed.
    pub(super) fn has_right_size(&self, content: &Content, target: &Path) -> fs::Result<bool> {
        match fs::lookup(target)? {
            None => Ok(false),
            Some(metadata) if metadata.is_file() && metadata.len() == content.size => {
                self.mark_used(target);
                Ok(true)
            }
            Some(_) => {
                fs::remove_file_if_there(target)?;
                Ok(false)
            }
        }
    }

    /// Copies a file into the cache, and returns the copy's digest and size.
    fn add_copy(&self, file: &Path, cancel: &CancellationToken) -> fs::Result<Content> {
        let temporary = LeasedFile::create(&self.temporary(), PREFIX, "")?;
        let mut from = Cancellable::new(fs::open(file)?, cancel);
        let mut out = HashingWriter::new(temporary.file(), Hasher::new(&[Algorithm::Sha256]));
        io::copy(&mut from, &mut out).at("copy", file)?;
        let size = out.count();
        let (_, digests) = out.finish();
        let content = Content {
            sha256: digests.sha256().unwrap_or_default().to_owned(),
            size,
        };
        let target = self.content(&content.sha256);
        fs::create_dir_all(fs::parent(&target))?;
        fs::set_mode(temporary.path(), MODE)?;
        temporary.persist(&target)?;
        Ok(content)
    }
}
