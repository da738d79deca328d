//! Parses, writes and verifies the digest strings of manifests and of the Director's messages, which contain one or several digests.

use std::fmt;

use super::{Algorithm, Digests};
use crate::release::name::excerpt;

/// Why a text is not a usable digest string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// The text contains no digest.
    #[error("contains no digest")]
    Empty,
    /// A part is neither `HEX` nor `ALGORITHM:HEX`.
    #[error("contains `{part}`; expected HEX or ALGORITHM:HEX")]
    Malformed {
        /// An excerpt of the part.
        part: String,
    },
    /// Two digests have the same algorithm.
    #[error("has more than one {algorithm} digest")]
    Twice {
        /// The algorithm.
        algorithm: String,
    },
    /// No digest has a supported algorithm.
    #[error("uses only unsupported algorithms ({algorithms}); use sha1, sha256 or sha512")]
    Unsupported {
        /// The algorithms, joined by commas.
        algorithms: String,
    },
}

/// Data does not match an expected digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected the {algorithm} digest {expected} but {}",
    actual.as_ref().map_or_else(|| "it was not computed".to_owned(), |actual| format!("got {actual}"))
)]
pub struct DigestMismatch {
    /// The algorithm of both digests.
    pub algorithm: Algorithm,
    /// The expected digest in hex, as it was written.
    pub expected: String,
    /// The computed digest in lower-case hex; `None` if it was not computed.
    pub actual: Option<String>,
}

/// One digest of a digest string.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Part {
    /// The name of the algorithm, by default `sha1`.
    name: String,
    /// The digits, as they were written.
    hex: String,
}

impl Part {
    /// The algorithm, if it is supported.
    fn algorithm(&self) -> Option<Algorithm> {
        Algorithm::from_name(&self.name)
    }

    fn parse(text: &str) -> Result<Self, InvalidDigest> {
        let (name, hex) = text.split_once(':').unwrap_or(("sha1", text));
        // Accept letters that are not hex digits, as all programs that read manifests do. A digest with such letters never matches.
        let well_formed =
            |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric());
        if !well_formed(name) || !well_formed(hex) {
            return Err(InvalidDigest::Malformed {
                part: excerpt(text),
            });
        }
        Ok(Self {
            name: name.to_owned(),
            hex: hex.to_owned(),
        })
    }
}

/// A digest string: `digest (";" digest)*`, where a digest is `HEX` (a SHA-1) or `ALGORITHM:HEX`.
///
/// The text is kept as it was written, because other programs compare it as text. At least one part has a supported algorithm.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MultiDigest {
    text: String,
    parts: Vec<Part>,
}

impl MultiDigest {
    /// Parses a digest string. Empty parts are skipped, as in bosh-utils.
    ///
    /// # Errors
    /// The text is not a digest string, repeats an algorithm, or has no supported algorithm.
    pub fn parse(text: &str) -> Result<Self, InvalidDigest> {
        let mut parts: Vec<Part> = Vec::new();
        for piece in text.split(';').filter(|piece| !piece.is_empty()) {
            let part = Part::parse(piece)?;
            if parts.iter().any(|other| other.name == part.name) {
                return Err(InvalidDigest::Twice {
                    algorithm: excerpt(&part.name),
                });
            }
            parts.push(part);
        }
        if parts.is_empty() {
            return Err(InvalidDigest::Empty);
        }
        if parts.iter().all(|part| part.algorithm().is_none()) {
            let names: Vec<_> = parts.iter().map(|part| part.name.as_str()).collect();
            return Err(InvalidDigest::Unsupported {
                algorithms: excerpt(&names.join(", ")),
            });
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }

    /// Joins computed digests in the order of `algorithms`. The SHA-1 has no prefix; other digests have the name of
    /// their algorithm. `None` if `algorithms` is empty, has duplicates, or has an algorithm that was not computed.
    #[must_use]
    pub fn of(digests: &Digests, algorithms: &[Algorithm]) -> Option<Self> {
        let parts = algorithms
            .iter()
            .map(|&algorithm| {
                let hex = digests.get(algorithm)?;
                Some(match algorithm {
                    // Directors before 2016 do not support a prefix.
                    Algorithm::Sha1 => hex.to_owned(),
                    Algorithm::Sha256 | Algorithm::Sha512 => format!("{algorithm}:{hex}"),
                })
            })
            .collect::<Option<Vec<_>>>()?;
        Self::parse(&parts.join(";")).ok()
    }

    /// The text as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The supported algorithms in the order of the text; never empty.
    #[must_use]
    pub fn algorithms(&self) -> Vec<Algorithm> {
        self.parts.iter().filter_map(Part::algorithm).collect()
    }

    /// Compares all digests of supported algorithms. Upper-case digits never match, as in other programs that read manifests.
    ///
    /// # Errors
    /// The first digest that differs or is missing in `digests`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHA1_ABC: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";

    fn abc() -> Digests {
        Digests::of(b"abc", &Algorithm::ALL)
    }

    #[test]
    fn all_common_forms_are_parsed_and_kept() {
        for (text, algorithms) in [
            (SHA1_ABC, &[Algorithm::Sha1][..]),
            ("sha1:00ff", &[Algorithm::Sha1]),
            ("sha256:00ff", &[Algorithm::Sha256]),
            ("sha512:00ff", &[Algorithm::Sha512]),
            ("00ff;sha512:00ff", &[Algorithm::Sha1, Algorithm::Sha512]),
            (";sha256:1;;sha1:2;", &[Algorithm::Sha256, Algorithm::Sha1]),
            ("md5:1;sha256:2", &[Algorithm::Sha256]),
            // A JSON null in the Director's messages. It never matches.
            ("null", &[Algorithm::Sha1]),
        ] {
            let digest = MultiDigest::parse(text).unwrap();
            assert_eq!(digest.as_str(), text);
            assert_eq!(digest.algorithms(), algorithms, "{text}");
        }
    }

    #[test]
    fn digest_string_that_cannot_be_verified_is_rejected() {
        for (text, message) in [
            ("", "contains no digest"),
            (";;", "contains no digest"),
            ("sha1:", "contains `sha1:`; expected HEX or ALGORITHM:HEX"),
            ("a b", "contains `a b`; expected HEX or ALGORITHM:HEX"),
            ("1;a:b:c", "contains `a:b:c`; expected HEX or ALGORITHM:HEX"),
            ("12;sha1:12", "has more than one sha1 digest"),
            (
                "md5:1;crc:2",
                "uses only unsupported algorithms (md5, crc); use sha1, sha256 or sha512",
            ),
            (
                "SHA1:1",
                "uses only unsupported algorithms (SHA1); use sha1, sha256 or sha512",
            ),
        ] {
            assert_eq!(MultiDigest::parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn wrong_sha1_with_correct_sha256_is_a_mismatch() {
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
    fn digest_that_was_not_computed_is_a_mismatch() {
        let digest = MultiDigest::parse(SHA1_ABC).unwrap();
        let mismatch = digest.verify(&Digests::default()).unwrap_err();
        assert_eq!(mismatch.actual, None);
        assert!(mismatch.to_string().ends_with("but it was not computed"));
    }

    #[test]
    fn upper_case_digest_is_a_mismatch() {
        let digest = MultiDigest::parse(&SHA1_ABC.to_uppercase()).unwrap();
        digest.verify(&abc()).unwrap_err();
    }

    #[test]
    fn computed_digests_are_joined_for_consumers() {
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
        fn digests_match_only_their_own_data(data: Vec<u8>, other: Vec<u8>) {
            let digests = Digests::of(&data, &Algorithm::ALL);
            for algorithm in Algorithm::ALL {
                let digest = MultiDigest::of(&digests, &[algorithm]).unwrap();
                prop_assert!(digest.verify(&digests).is_ok());
                let others = Digests::of(&other, &Algorithm::ALL);
                prop_assert_eq!(digest.verify(&others).is_ok(), data == other);
            }
        }

        #[test]
        fn any_text_is_rejected_or_kept(text in r"[a-f0-9:;sh ]{0,20}|\PC*") {
            if let Ok(digest) = MultiDigest::parse(&text) {
                prop_assert_eq!(digest.as_str(), &text);
                prop_assert!(!digest.algorithms().is_empty());
            }
        }
    }
}
