//! Receives the contents of packages from another cache into a local cache.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::PathBuf;

use super::entry::{Content, Entry};
use super::local::{LocalCache, MODE, PREFIX};
use crate::fs::{self, Context as _, LeasedFile};
use crate::release::digest::Hasher;
use crate::release::{Algorithm, Digests};

/// A content (compiled blob or log) that arrives in parts. It is stored under its SHA-256 after the
/// last part, if SHA-256 and size are right.
#[derive(Debug)]
pub(super) struct Incoming {
    cache: LocalCache,
    content: Content,
    temporary: LeasedFile,
    hasher: Hasher,
    size: u64,
}

impl LocalCache {
    /// The path of a content in the cache.
    #[must_use]
    pub fn content_file(&self, content: &Content) -> PathBuf {
        self.content(&content.sha256)
    }

    /// Whether the cache has a content with the right SHA-256. A damaged content is removed, so that
    /// it will be fetched again.
    pub(super) fn has_content(&self, content: &Content) -> fs::Result<bool> {
        let file = self.content(&content.sha256);
        if !self.has_right_size(content, &file)? {
            return Ok(false);
        }
        let Ok(opened) = fs::open(&file) else {
            return Ok(false);
        };
        let Ok((digests, size)) = Digests::of_reader(opened, &[Algorithm::Sha256]) else {
            return Ok(false);
        };
        if Content::new(&digests, size).as_ref() == Some(content) {
            return Ok(true);
        }
        fs::remove_file_if_there(&file)?;
        Ok(false)
    }

    /// How many bytes of these packages are missing in this cache, and how many bytes are free on
    /// its file system.
    pub(super) fn missing_and_free(&self, entries: &[Entry]) -> fs::Result<(u64, u64)> {
        let contents: HashSet<&Content> = entries.iter().flat_map(Entry::contents).collect();
        let mut missing: u64 = 0;
        for content in contents {
            if !self.has_right_size(content, &self.content(&content.sha256))? {
                missing = missing.saturating_add(content.size);
            }
        }
        Ok((missing, fs::space(self.root())?.free))
    }

    /// Starts to receive a content.
    pub(super) fn incoming(&self, content: &Content) -> fs::Result<Incoming> {
        Ok(Incoming {
            cache: self.clone(),
            content: content.clone(),
            temporary: LeasedFile::create(&self.temporary(), PREFIX, "")?,
            hasher: Hasher::new(&[Algorithm::Sha256]),
            size: 0,
        })
    }

    /// Adds the entry of a package. All contents of the package must have arrived.
    pub(super) fn add_entry(&self, entry: &Entry) -> fs::Result<()> {
        let file = self.entry(&entry.parts.name, &entry.key());
        self.write(&file, entry.encode())
    }
}

impl Incoming {
    /// Writes the next part. If the content would become longer than announced, writes nothing and
    /// returns `false`.
    pub(super) fn write(&mut self, bytes: &[u8]) -> fs::Result<bool> {
        let size = self.size.saturating_add(bytes.len() as u64);
        if size > self.content.size {
            return Ok(false);
        }
        self.size = size;
        self.hasher.update(bytes);
        let mut file = self.temporary.file();
        file.write_all(bytes).at("write", self.temporary.path())?;
        Ok(true)
    }

    /// Adds the content to the cache. Returns `false` if its SHA-256 or size is wrong.
    pub(super) fn finish(self) -> fs::Result<bool> {
        let digests = self.hasher.finish();
        if Content::new(&digests, self.size).as_ref() != Some(&self.content) {
            return Ok(false);
        }
        let target = self.cache.content(&self.content.sha256);
        fs::create_dir_all(fs::parent(&target))?;
        fs::set_mode(self.temporary.path(), MODE)?;
        self.temporary.persist(&target)?;
        Ok(true)
    }
}
