//! Digests: supported algorithms, notation, computation and comparison.
//!
//! A manifest has all digests under the key `sha1`: `<40 hex>`, `sha256:<64 hex>`, or several joined by `;`. This module accepts the same
//! texts as the Go agent. The Go agent compares only the strongest digest; here, all digests of supported algorithms must match.

mod compute;
mod multi;

pub use compute::{BlobDigests, BlobHasher, Digests, Hasher, HashingWriter};
pub use multi::{DigestMismatch, InvalidDigest, MultiDigest};

use std::fmt;

/// A digest algorithm of BOSH (`crypto` of bosh-utils has these three).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-1: 40 hex digits. A digest without a prefix is a SHA-1.
    Sha1,
    /// SHA-256: 64 hex digits.
    Sha256,
    /// SHA-512: 128 hex digits.
    Sha512,
}

impl Algorithm {
    /// All algorithms, from the weakest to the strongest.
    pub const ALL: [Self; 3] = [Self::Sha1, Self::Sha256, Self::Sha512];

    /// The name, which is the prefix of digests.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The algorithm with this name, if it is supported. Case matters, as for the Director and the other programs that read manifests.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.as_str() == name)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
