//! Remembers the digests of unpacked source archives, so that an unchanged archive does not have to
//! be unpacked and read again.

use serde::{Deserialize, Serialize};

use super::damage::{Damage, DamageKind};
use super::key::FORMAT;
use super::local::{LocalCache, read};
use super::sealed;
use crate::fs;

/// The digest of an unpacked source archive. It is stored as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownSource {
    /// The version of the file's format, [`FORMAT`].
    format: u32,
    /// The version of the method by which `content` is computed.
    #[serde(rename = "form")]
    method: u32,
    /// The SHA-256 of the archive.
    archive: String,
    /// The digest of its content.
    content: String,
}

impl LocalCache {
    /// The digest of the unpacked archive, if an earlier run has computed it by this version of the
    /// method. `archive` is the archive's SHA-256.
    ///
    /// # Errors
    /// If the file is damaged. The caller must set it aside.
    pub fn source(&self, archive: &str, method: u32) -> Result<Option<String>, Damage> {
        let file = self.source_file(archive);
        let text = match read(&file) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(None),
            Err(kind) => return Err(Damage { file, kind }),
        };
        match sealed::open::<KnownSource>(&text) {
            Ok(known) if known.archive != archive => {
                let kind = DamageKind::OtherKey;
                Err(Damage { file, kind })
            }
            Ok(known) if (known.format, known.method) == (FORMAT, method) => {
                self.mark_used(&file);
                Ok(Some(known.content))
            }
            // Another version of the agent has written the file.
            Ok(_) | Err(DamageKind::Foreign(_)) => Ok(None),
            Err(kind) => Err(Damage { file, kind }),
        }
    }

    /// Remembers the digest of an unpacked archive. `archive` is the archive's SHA-256.
    ///
    /// # Errors
    /// The error of the system.
    pub fn remember_source(&self, archive: &str, method: u32, content: &str) -> fs::Result<()> {
        let known = KnownSource {
            format: FORMAT,
            method,
            archive: archive.to_owned(),
            content: content.to_owned(),
        };
        self.write(&self.source_file(archive), sealed::seal(&known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_of_another_version_is_a_miss() {
        let scratch = tempfile::tempdir().unwrap();
        let cache = LocalCache::new(scratch.path());
        cache.prepare().unwrap();
        let archive = "a".repeat(64);
        cache.remember_source(&archive, 1, "content").unwrap();
        assert_eq!(cache.source(&archive, 2).unwrap(), None);
        let known = |format| KnownSource {
            format,
            method: 1,
            archive: archive.clone(),
            content: "content".to_owned(),
        };
        let file = cache.source_file(&archive);
        for text in [
            sealed::seal(&known(FORMAT - 1)),
            sealed::seal(&(&archive, "content")),
        ] {
            cache.write(&file, text).unwrap();
            assert_eq!(cache.source(&archive, 1).unwrap(), None);
        }
        cache.write(&file, sealed::seal(&known(FORMAT))).unwrap();
        assert!(cache.source(&archive, 1).unwrap().is_some());
    }
}
