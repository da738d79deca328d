//! Digests: which are known, how they are written, computed and compared.
//!
//! A manifest writes them as `sha1` under that one key whatever they are: `<40 hex>`, `sha256:<64 hex>`, or several
//! joined by `;`. What the Go agent accepts is accepted here, with one difference: it compares only the strongest
//! digest, here every digest that can be computed must be right.

mod compute;
mod multi;

pub use compute::{BlobDigests, BlobHasher, Digests, Hasher, HashingReader, HashingWriter};
pub use multi::{DigestMismatch, InvalidDigest, MultiDigest, Part};

use std::fmt;

/// A digest algorithm that BOSH knows (`crypto` of bosh-utils has these three and no other).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-1: 40 hex digits; what a digest without a prefix is.
    Sha1,
    /// SHA-256: 64 hex digits.
    Sha256,
    /// SHA-512: 128 hex digits.
    Sha512,
}

impl Algorithm {
    /// All of them, the weakest first.
    pub const ALL: [Self; 3] = [Self::Sha1, Self::Sha256, Self::Sha512];

    /// Its name as digests are prefixed with it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The algorithm of that name, if it is known. Names are compared exactly, as the consumers do.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
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
