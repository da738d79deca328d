//! The digest strings of manifests and of the Director's messages.

use std::fmt;
use std::str::FromStr;

use super::{Algorithm, Digests};
use crate::release::name::shown;

/// A text that is not a digest string, or one that nothing can be checked against.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// There is no digest in it.
    #[error("has no digest")]
    Empty,
    /// A part that is neither hex digits nor an algorithm, `:` and hex digits.
    #[error("has the part `{part}`, which is not of the form HEX or ALGORITHM:HEX")]
    Malformed {
        /// The part, escaped and shortened.
        part: String,
    },
    /// Two digests by one algorithm: one of them must be wrong.
    #[error("has more than one {algorithm} digest")]
    Twice {
        /// The algorithm.
        algorithm: String,
    },
    /// Digests only by algorithms that cannot be computed.
    #[error("can only be checked with {algorithms}, known are sha1, sha256 and sha512")]
    Unknown {
        /// The algorithms, joined by commas.
        algorithms: String,
    },
}

/// The bytes are not those that the digest was made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected the {algorithm} digest {expected} but {}",
    actual.as_ref().map_or_else(|| "it was not computed".to_owned(), |actual| format!("got {actual}"))
)]
pub struct DigestMismatch {
    /// By which algorithm.
    pub algorithm: Algorithm,
    /// The digest that was asked for, in hex as it was given.
    pub expected: String,
    /// The digest that was computed, in lower-case hex; `None` when the caller did not compute this one, which is
    /// never taken for agreement.
    pub actual: Option<String>,
}

/// One digest of a digest string.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part {
    /// The algorithm's name; `sha1` where none was written.
    pub name: String,
    /// The digits, as they were given.
    pub hex: String,
}

impl Part {
    /// The algorithm, if it is one that can be computed.
    #[must_use]
    pub fn algorithm(&self) -> Option<Algorithm> {
        Algorithm::named(&self.name)
    }

    fn parse(text: &str) -> Result<Self, InvalidDigest> {
        let (name, hex) = text.split_once(':').unwrap_or(("sha1", text));
        // Letters and digits, not hex digits: such a digest is well-formed for every consumer, it only never matches.
        let well_formed =
            |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric());
        if !well_formed(name) || !well_formed(hex) {
            return Err(InvalidDigest::Malformed { part: shown(text) });
        }
        Ok(Self {
            name: name.to_owned(),
            hex: hex.to_owned(),
        })
    }
}

/// A digest string: `digest (";" digest)*`, where a digest is `HEX` (then it is a SHA-1) or `ALGORITHM:HEX`.
///
/// The text is kept as it was given, since consumers compare it as text. At least one part can be computed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MultiDigest {
    text: String,
    parts: Vec<Part>,
}

impl MultiDigest {
    /// Reads a digest string. Empty pieces between `;` are skipped, as bosh-utils does.
    ///
    /// # Errors
    /// Text that is not a digest string, that has one algorithm twice, or of which nothing can be computed.
    pub fn parse(text: &str) -> Result<Self, InvalidDigest> {
        let mut parts: Vec<Part> = Vec::new();
        for piece in text.split(';').filter(|piece| !piece.is_empty()) {
            let part = Part::parse(piece)?;
            if parts.iter().any(|other| other.name == part.name) {
                return Err(InvalidDigest::Twice {
                    algorithm: shown(&part.name),
                });
            }
            parts.push(part);
        }
        if parts.is_empty() {
            return Err(InvalidDigest::Empty);
        }
        if parts.iter().all(|part| part.algorithm().is_none()) {
            let names: Vec<_> = parts.iter().map(|part| part.name.as_str()).collect();
            return Err(InvalidDigest::Unknown {
                algorithms: shown(&names.join(", ")),
            });
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }

    /// Writes computed digests as one string, in the order of `algorithms`: SHA-1 bare, the others with their name.
    /// `None` when `algorithms` is empty, names one twice, or one of them was not computed.
    #[must_use]
    pub fn of(digests: &Digests, algorithms: &[Algorithm]) -> Option<Self> {
        let parts = algorithms
            .iter()
            .map(|&algorithm| {
                let hex = digests.get(algorithm)?;
                Some(match algorithm {
                    // Bare, because Directors before 2016 know no prefix.
                    Algorithm::Sha1 => hex.to_owned(),
                    Algorithm::Sha256 | Algorithm::Sha512 => format!("{algorithm}:{hex}"),
                })
            })
            .collect::<Option<Vec<_>>>()?;
        Self::parse(&parts.join(";")).ok()
    }

    /// The text as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its digests, in order, also those that cannot be computed.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The algorithms that a check needs, in the order of the text; never empty.
    #[must_use]
    pub fn algorithms(&self) -> Vec<Algorithm> {
        self.parts.iter().filter_map(Part::algorithm).collect()
    }

    /// Compares every digest that can be computed, exactly and in lower case as the consumers do.
    ///
    /// # Errors
    /// The first digest that differs, or that is not among `digests`.
    pub fn verify(&self, digests: &Digests) -> Result<(), DigestMismatch> {
        for part in &self.parts {
            let Some(algorithm) = part.algorithm() else {
                continue;
            };
            let actual = digests.get(algorithm);
            if actual != Some(part.hex.as_str()) {
                return Err(DigestMismatch {
                    algorithm,
                    expected: part.hex.clone(),
                    actual: actual.map(str::to_owned),
                });
            }
        }
        Ok(())
    }
}

impl fmt::Display for MultiDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for MultiDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHA1_ABC: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";

    fn abc() -> Digests {
        Digests::of(b"abc", &Algorithm::ALL)
    }

    #[test]
    fn every_form_that_producers_write_is_read_and_kept() {
        for (text, algorithms) in [
            (SHA1_ABC, &[Algorithm::Sha1][..]),
            ("sha1:00ff", &[Algorithm::Sha1]),
            ("sha256:00ff", &[Algorithm::Sha256]),
            ("sha512:00ff", &[Algorithm::Sha512]),
            ("00ff;sha512:00ff", &[Algorithm::Sha1, Algorithm::Sha512]),
            (";sha256:1;;sha1:2;", &[Algorithm::Sha256, Algorithm::Sha1]),
            ("md5:1;sha256:2", &[Algorithm::Sha256]),
            // JSON's null, as the Director's messages may hold it: it parses, and never matches.
            ("null", &[Algorithm::Sha1]),
        ] {
            let digest = MultiDigest::parse(text).unwrap();
            assert_eq!(digest.as_str(), text);
            assert_eq!(digest.algorithms(), algorithms, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        for (text, message) in [
            ("", "has no digest"),
            (";;", "has no digest"),
            (
                "sha1:",
                "has the part `sha1:`, which is not of the form HEX or ALGORITHM:HEX",
            ),
            (
                "a b",
                "has the part `a b`, which is not of the form HEX or ALGORITHM:HEX",
            ),
            (
                "1;a:b:c",
                "has the part `a:b:c`, which is not of the form HEX or ALGORITHM:HEX",
            ),
            ("12;sha1:12", "has more than one sha1 digest"),
            (
                "md5:1;crc:2",
                "can only be checked with md5, crc, known are sha1, sha256 and sha512",
            ),
            (
                "SHA1:1",
                "can only be checked with SHA1, known are sha1, sha256 and sha512",
            ),
        ] {
            assert_eq!(MultiDigest::parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_wrong_sha1_beside_a_right_sha256_is_a_mismatch() {
        let sha256 = abc().sha256().unwrap().to_owned();
        let digest = MultiDigest::parse(&format!("12;sha256:{sha256}")).unwrap();
        let mismatch = digest.verify(&abc()).unwrap_err();
        assert_eq!(mismatch.algorithm, Algorithm::Sha1);
        assert_eq!(
            mismatch.to_string(),
            format!("expected the sha1 digest 12 but got {SHA1_ABC}")
        );
    }

    #[test]
    fn a_digest_that_was_not_computed_does_not_agree() {
        let digest = MultiDigest::parse(SHA1_ABC).unwrap();
        let mismatch = digest.verify(&Digests::default()).unwrap_err();
        assert_eq!(mismatch.actual, None);
        assert!(mismatch.to_string().ends_with("but it was not computed"));
    }

    #[test]
    fn upper_case_is_not_the_same_digest() {
        let digest = MultiDigest::parse(&SHA1_ABC.to_uppercase()).unwrap();
        digest.verify(&abc()).unwrap_err();
    }

    #[test]
    fn computed_digests_are_written_as_the_consumers_expect() {
        let sha512 = abc().sha512().unwrap().to_owned();
        let both = MultiDigest::of(&abc(), &[Algorithm::Sha1, Algorithm::Sha512]).unwrap();
        assert_eq!(both.as_str(), format!("{SHA1_ABC};sha512:{sha512}"));
        both.verify(&abc()).unwrap();
        assert_eq!(MultiDigest::of(&abc(), &[]), None);
        assert_eq!(
            MultiDigest::of(&Digests::default(), &[Algorithm::Sha1]),
            None
        );
    }

    proptest! {
        #[test]
        fn digests_of_the_bytes_agree_and_of_others_do_not(data: Vec<u8>, other: Vec<u8>) {
            let digests = Digests::of(&data, &Algorithm::ALL);
            for algorithm in Algorithm::ALL {
                let digest = MultiDigest::of(&digests, &[algorithm]).unwrap();
                prop_assert!(digest.verify(&digests).is_ok());
                let others = Digests::of(&other, &Algorithm::ALL);
                prop_assert_eq!(digest.verify(&others).is_ok(), data == other);
            }
        }

        #[test]
        fn any_text_is_refused_or_kept(text in r"[a-f0-9:;sh ]{0,20}|\PC*") {
            if let Ok(digest) = MultiDigest::parse(&text) {
                prop_assert_eq!(digest.as_str(), &text);
                prop_assert!(!digest.algorithms().is_empty());
            }
        }
    }
}
