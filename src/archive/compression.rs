//! Detects how an archive is compressed, and decodes it up to the end of the input.
//!
//! The first bytes of the data decide, not the file name: a release's `.tgz` may be a plain tar.

mod decoder;
mod input;

use std::fmt;

use crate::archive::{BLOCK, read};

pub use decoder::Decoder;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Plain tar.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "tar",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        })
    }
}

impl Compression {
    /// How many bytes of the beginning [`Compression::detect`] needs.
    pub(crate) const BEGINNING: usize = BLOCK;

    /// Detects the compression of an archive from its first bytes: `Some(Self::None)` for a plain tar, `None` for an unknown format.
    #[must_use]
    pub fn detect(beginning: &[u8]) -> Option<Self> {
        match beginning {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Self::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // The second pattern is a skippable frame (RFC 8878, 3.1.2): the output of pzstd begins with one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ if is_tar(beginning) => Some(Self::None),
            _ => None,
        }
    }
}

fn is_tar(beginning: &[u8]) -> bool {
    if beginning
        .get(257..)
        .is_some_and(|rest| rest.starts_with(b"ustar"))
    {
        return true;
    }
    // Also accept an archive in the v7 format, which has no `ustar`, and an archive without entries, which contains only zeros.
    beginning
        .get(..BLOCK)
        .and_then(|block| <&[u8; BLOCK]>::try_from(block).ok())
        .is_some_and(|block| read::checksum_matches(block) || block.iter().all(|byte| *byte == 0))
}

/// Why data could not be decoded. A [`Decoder`] returns it as the inner error of an [`std::io::Error`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    /// The input is empty.
    #[error("the file is empty")]
    Empty,
    /// The beginning is neither tar nor a known compression format.
    #[error("neither a tar archive nor compressed data of a known kind")]
    Unknown,
    /// The input ends before the compressed data does.
    #[error("{compression} data ends early")]
    EndsEarly {
        /// The compression of the data.
        compression: Compression,
    },
    /// The checksum does not match the decoded data.
    #[error("{compression} data is damaged: checksum does not match")]
    Checksum {
        /// The compression of the data.
        compression: Compression,
    },
    /// The data cannot be decoded.
    #[error("{compression} data is damaged")]
    Damaged {
        /// The compression of the data.
        compression: Compression,
        /// The error of the decoder.
        #[source]
        source: std::io::Error,
    },
    /// Decoding needs more memory than is allowed, because the input is not trusted.
    #[error("{compression} data needs more than {limit} MiB of memory to decode")]
    Memory {
        /// The compression of the data.
        compression: Compression,
        /// The allowed memory, in MiB.
        limit: u64,
    },
    /// The compressed data is followed by something else.
    #[error("{compression} data is followed by other bytes")]
    TrailingBytes {
        /// The compression of the data.
        compression: Compression,
    },
    /// The decoder was read again after a failure.
    #[error("{compression} data is damaged, as already reported")]
    Failed {
        /// The compression of the data.
        compression: Compression,
    },
}
