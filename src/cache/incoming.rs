//! Files that arrive in a local cache from another cache.

use std::io::Write as _;

use super::entry::{Content, Entry};
use super::local::{LocalCache, MODE, PREFIX};
use crate::fs::{self, Context as _, LeasedFile};
use crate::release::Algorithm;
use crate::release::digest::Hasher;

/// A content that arrives in parts. It gets its name after its last part, if its SHA-256 and size are right.
#[derive(Debug)]
pub(super) struct Incoming {
    cache: LocalCache,
    content: Content,
    temporary: LeasedFile,
    hasher: Hasher,
    size: u64,
}

impl LocalCache {
    /// Whether a content is there with the right size. It is verified when it is used.
    pub(super) fn has_content(&self, content: &Content) -> fs::Result<bool> {
        self.has(content, &self.content(&content.sha256))
    }

    /// A content that is about to arrive.
    pub(super) fn incoming(&self, content: &Content) -> fs::Result<Incoming> {
        Ok(Incoming {
            cache: self.clone(),
            content: content.clone(),
            temporary: LeasedFile::create(&self.temporary(), PREFIX, "")?,
            hasher: Hasher::new(&[Algorithm::Sha256]),
            size: 0,
        })
    }

    /// Adds the entry of a package whose contents have arrived.
    pub(super) fn add_entry(&self, entry: &Entry) -> fs::Result<()> {
        let file = self.entry(&entry.parts.name, &entry.key());
        self.write(&file, entry.encode())
    }
}

impl Incoming {
    /// Writes the next part.
    pub(super) fn write(&mut self, bytes: &[u8]) -> fs::Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        let mut file = self.temporary.file();
        file.write_all(bytes).at("write", self.temporary.path())
    }

    /// Adds the content to the cache; `false` if it has another SHA-256 or size.
    pub(super) fn finish(self) -> fs::Result<bool> {
        let digests = self.hasher.finish();
        if Content::new(&digests, self.size).as_ref() != Some(&self.content) {
            return Ok(false);
        }
        let target = self.cache.content(&self.content.sha256);
        fs::create_dir_all(fs::parent(&target))?;
        if !self.cache.has(&self.content, &target)? {
            fs::set_mode(self.temporary.path(), MODE)?;
            self.temporary.persist(&target)?;
        }
        Ok(true)
    }
}
