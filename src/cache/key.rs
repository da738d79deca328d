//! The parts of a cache key ([`KeyParts`]: everything that affects a compiled package), and the key
//! ([`Key`]: a digest of the parts, by which the cache finds the package). No I/O.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::release::Algorithm;
use crate::release::digest::Hasher;

/// The version of the format of keys and entries. Entries with another version are never used.
/// Increase it if a changed agent may compile another package from equal parts, or hashes equal parts
/// to another key.
pub const FORMAT: u32 = 2;

/// The name in [`KeyParts::options`] under which the user that runs scripts is stored.
pub const SCRIPT_USER: &str = "user";

/// The first bytes that are hashed for each key.
const MAGIC: &[u8] = b"bosh-agent cache key\0";

/// The length of a key in hex digits.
const LENGTH: usize = 64;

/// The key of a compiled package: a SHA-256 in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    /// Parses a key; `None` if the text is not a key.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        is_sha256(text).then(|| Self(text.to_owned()))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text is a SHA-256 in lower-case hex. Only such a text may become part of a path.
pub(super) fn is_sha256(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == LENGTH && text.bytes().all(is_digit)
}

/// Everything that affects a compiled package. Entries contain these parts, so that a later run can
/// report why it did not find a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyParts {
    /// The version of the format, [`FORMAT`].
    pub format: u32,
    /// The package's name.
    pub name: String,
    /// The package's version, which the script sees.
    pub version: String,
    /// The digest of the files in the source archive. In two cases, the digest of the archive
    /// instead: if the extracted files depend on the order of its entries, for example because two
    /// entries have the same name, or if packages have source dates (`--reproducible`,
    /// `SOURCE_DATE_EPOCH`), so that the times in the archive affect the package.
    pub source: String,
    /// For each direct dependency, by name: its key or, if the run got it in compiled form, the
    /// digest of its blob.
    pub dependencies: BTreeMap<String, String>,
    /// The stemcell for which the package is compiled.
    pub stemcell: String,
    /// The architecture of the machine.
    pub architecture: String,
    /// The identity of the root file system: the digests of the files that describe it and of the
    /// compilers.
    pub root: BTreeMap<String, String>,
    /// The base directory, whose paths scripts see.
    pub base: String,
    /// The value of each flag that affects what scripts can do or see, by the name of the flag; and
    /// the user that runs scripts, by [`SCRIPT_USER`].
    pub options: BTreeMap<String, String>,
    /// The digests of the values of the inherited variables that are part of the key (see
    /// `cache::variables`).
    pub variables: BTreeMap<String, String>,
}

impl KeyParts {
    /// All strings in the parts.
    pub(super) fn texts(&self) -> impl Iterator<Item = &String> {
        let texts = [
            &self.name,
            &self.version,
            &self.source,
            &self.stemcell,
            &self.architecture,
            &self.base,
        ];
        let maps = [
            &self.dependencies,
            &self.root,
            &self.options,
            &self.variables,
        ];
        let pairs = maps.into_iter().flatten();
        texts
            .into_iter()
            .chain(pairs.flat_map(|(name, value)| [name, value]))
    }

    /// The key: the SHA-256 of an unambiguous encoding of all parts.
    #[must_use]
    pub fn key(&self) -> Key {
        // The pattern has no `..`, so that adding a part without hashing it does not compile.
        let Self {
            format,
            name,
            version,
            source,
            dependencies,
            stemcell,
            architecture,
            root,
            base,
            options,
            variables,
        } = self;
        let mut encoder = Encoder(Hasher::new(&[Algorithm::Sha256]));
        encoder.0.update(MAGIC);
        encoder.text(&format.to_string());
        for text in [name, version, source, stemcell, architecture, base] {
            encoder.text(text);
        }
        for map in [dependencies, root, options, variables] {
            encoder.map(map);
        }
        // The hasher was created for SHA-256, so the digest exists.
        Key(encoder.0.finish().sha256().unwrap_or_default().to_owned())
    }
}

/// Hashes strings, each after its length, and maps, each after its number of entries. So different
/// values never have the same encoding.
struct Encoder(Hasher);

impl Encoder {
    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.0.update(text.as_bytes());
    }

    fn map(&mut self, map: &BTreeMap<String, String>) {
        self.number(map.len());
        for (name, value) in map {
            self.text(name);
            self.text(value);
        }
    }

    fn number(&mut self, number: usize) {
        self.0.update(&(number as u64).to_be_bytes());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = pairs.iter().map(|(name, value)| (*name, *value));
        owned
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    pub(in crate::cache) fn parts() -> KeyParts {
        KeyParts {
            format: FORMAT,
            name: "app".to_owned(),
            version: "1".to_owned(),
            source: "content s".to_owned(),
            dependencies: map(&[("lib", "k1"), ("zlib", "k2")]),
            stemcell: "ubuntu-noble/1.1".to_owned(),
            architecture: "x86_64".to_owned(),
            root: map(&[("/etc/os-release", "o"), ("gcc", "g")]),
            base: "/var/vcap".to_owned(),
            options: map(&[("--network", "host"), (SCRIPT_USER, "root")]),
            variables: map(&[("PATH", "p")]),
        }
    }

    fn small_text() -> impl Strategy<Value = String> {
        "[ab]{0,2}"
    }

    fn small_map() -> impl Strategy<Value = BTreeMap<String, String>> {
        proptest::collection::btree_map(small_text(), small_text(), 0..3)
    }

    fn any_parts() -> impl Strategy<Value = KeyParts> {
        let texts = proptest::collection::vec(small_text(), 6);
        let maps = (small_map(), small_map(), small_map(), small_map());
        (texts, maps, 0..2_u32).prop_map(|(texts, maps, format)| {
            let mut texts = texts.into_iter();
            let mut next = || texts.next().unwrap_or_default();
            KeyParts {
                format,
                name: next(),
                version: next(),
                source: next(),
                stemcell: next(),
                architecture: next(),
                base: next(),
                dependencies: maps.0,
                root: maps.1,
                options: maps.2,
                variables: maps.3,
            }
        })
    }

    proptest! {
        #[test]
        fn keys_are_equal_only_for_equal_parts(all in proptest::collection::vec(any_parts(), 2..40)) {
            let mut known: HashMap<Key, KeyParts> = HashMap::new();
            for parts in all {
                let other = known.entry(parts.key()).or_insert_with(|| parts.clone());
                prop_assert_eq!(&*other, &parts);
            }
        }

        #[test]
        fn parts_survive_storage(parts in any_parts()) {
            let stored = serde_json::to_string(&parts).unwrap();
            let read: KeyParts = serde_json::from_str(&stored).unwrap();
            prop_assert_eq!(read.key(), parts.key());
        }
    }

    #[test]
    fn key_of_known_parts_changes_only_with_the_format() {
        // If this key has changed, although FORMAT has not, increase FORMAT and then change the key here.
        assert_eq!(FORMAT, 2);
        assert_eq!(
            parts().key().as_str(),
            "ff24284858bdb885a216e5cbde18fe7d15dfbfeee272b642d9a63b574ff5216c"
        );
    }

    #[test]
    fn only_lower_case_digests_are_keys() {
        let key = parts().key();
        assert_eq!(Key::parse(key.as_str()), Some(key.clone()));
        for wrong in [
            "",
            "../../x",
            &key.as_str()[1..],
            &key.as_str().to_uppercase(),
        ] {
            assert_eq!(Key::parse(wrong), None, "{wrong}");
        }
    }
}
