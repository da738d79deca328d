//! The description of a cached package (entry) and of its files (contents).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::damage::DamageKind;
use super::key::{Key, KeyParts, is_sha256};
use super::sealed;
use crate::release::Digests;
use crate::release::digest::Algorithm;

/// The largest size of a cached file, in bytes. An entry that names a larger file is not valid.
const LARGEST: u64 = 64 << 30;

/// A cached package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The inputs of the compilation, from which the key is computed.
    pub parts: KeyParts,
    /// The version of the agent that compiled the package.
    pub agent: String,
    /// When the package was stored, in seconds since 1970.
    pub stored: u64,
    /// How long the compilation took, in milliseconds.
    pub milliseconds: u64,
    /// How the script was isolated (the isolation tier).
    pub isolation: String,
    /// Whether the package or one of its dependencies was compiled in an unrestricted second run of
    /// the script.
    pub unrestricted: bool,
    /// How the compiled blob is compressed.
    pub form: Form,
    /// The compiled blob.
    pub blob: Content,
    /// The log of the script; `None` if the package has no script.
    pub log: Option<Content>,
    /// The last lines of the log.
    pub last_lines: Vec<String>,
    /// The warnings that the compilation caused.
    pub warnings: Vec<String>,
}

/// A file of a cached package, stored under its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// The SHA-256 of the file.
    pub sha256: String,
    /// The size in bytes.
    pub size: u64,
}

/// How a compiled blob is compressed. This is not part of the key, because it does not affect the
/// files in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A tar archive.
    Plain,
    /// A tar archive, compressed by gzip with this level.
    Gzip(u32),
}

impl Entry {
    /// The key of the package.
    #[must_use]
    pub fn key(&self) -> Key {
        self.parts.key()
    }

    /// How long the compilation took.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_millis(self.milliseconds)
    }

    /// The files that the entry names.
    pub fn contents(&self) -> impl Iterator<Item = &Content> {
        std::iter::once(&self.blob).chain(&self.log)
    }

    /// The sum of the sizes of the package's files, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.contents()
            .fold(0, |sum, content| sum.saturating_add(content.size))
    }

    /// Whether this entry can replace `other`, that is, each run that may use `other` may also use
    /// this entry. This is false if only this package was compiled without restrictions.
    pub(super) fn can_replace(&self, other: &Self) -> bool {
        other.unrestricted || !self.unrestricted
    }

    /// The approximate amount of memory that the entry takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        // The overhead of a string or of a node of a map, in bytes.
        const EACH: usize = 64;
        let lines = self.last_lines.iter().chain(&self.warnings);
        let own = [&self.agent, &self.isolation].into_iter().chain(lines);
        let texts = own.chain(self.parts.texts());
        texts.fold(EACH, |sum, text| sum.saturating_add(text.len() + EACH))
    }

    /// Encodes the entry as the text of its file.
    pub(super) fn encode(&self) -> serde_json::Result<Vec<u8>> {
        sealed::seal(self)
    }

    /// Decodes the text of the file for the package `name` with `key`.
    pub(super) fn decode(text: &[u8], name: &str, key: &Key) -> Result<Self, DamageKind> {
        let entry: Self = sealed::open(text)?;
        let is_named = entry.parts.name == name && entry.key() == *key;
        // Check the digests, because they become parts of paths.
        let mut contents = entry.contents();
        if !is_named || !contents.all(|content| is_sha256(&content.sha256)) {
            return Err(DamageKind::OtherKey);
        }
        drop(contents);
        if entry.contents().any(|content| content.size > LARGEST) {
            return Err(DamageKind::TooLarge);
        }
        Ok(entry)
    }
}

impl Content {
    /// A file with these digests; `None` if there is no SHA-256 among them.
    #[must_use]
    pub fn new(digests: &Digests, size: u64) -> Option<Self> {
        Some(Self {
            sha256: digests.get(Algorithm::Sha256)?.to_owned(),
            size,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::key::tests::parts;
    use super::*;

    pub(in crate::cache) fn entry(blob: &Digests, size: u64) -> Entry {
        Entry {
            parts: parts(),
            agent: "0".to_owned(),
            stored: 1,
            milliseconds: 2,
            isolation: "namespace".to_owned(),
            unrestricted: false,
            form: Form::Gzip(6),
            blob: Content::new(blob, size).unwrap(),
            log: None,
            last_lines: vec!["a line".to_owned()],
            warnings: Vec::new(),
        }
    }

    #[test]
    fn entry_is_read_only_under_its_own_name() {
        let digests = Digests::of(b"blob", &[Algorithm::Sha1, Algorithm::Sha256]);
        let entry = entry(&digests, 4);
        let (text, key) = (entry.encode().unwrap(), entry.key());
        assert_eq!(Entry::decode(&text, "app", &key).unwrap(), entry);
        assert!(Entry::decode(&text, "other", &key).is_err());
        let mut other = entry.clone();
        other.parts.source.push('x');
        assert!(Entry::decode(&text, "app", &other.key()).is_err());

        let mut large = entry.clone();
        large.blob.size = LARGEST + 1;
        let text = large.encode().unwrap();
        assert!(matches!(
            Entry::decode(&text, "app", &key),
            Err(DamageKind::TooLarge)
        ));
        large.log = Some(Content {
            size: u64::MAX,
            ..large.blob.clone()
        });
        assert_eq!(large.size(), u64::MAX);

        let mut escaping = entry;
        escaping.blob.sha256 = "../../etc/passwd".to_owned();
        let text = escaping.encode().unwrap();
        assert!(Entry::decode(&text, "app", &key).is_err());
    }
}
