//! Finds out how an archive is compressed, and decodes it to its very end.
//!
//! The name of a file says nothing: a release's `.tgz` may be a plain tar. What counts is how the data begins.

mod decoder;
mod source;

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
    /// How much of the beginning [`Compression::of`] wants to see, in bytes.
    pub const BEGINNING: usize = BLOCK;

    /// How data that begins so is compressed; `None` when it is neither compressed data of a known kind nor tar.
    #[must_use]
    pub fn of(beginning: &[u8]) -> Option<Self> {
        match beginning {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Self::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // The second is a frame to be skipped (RFC 8878, 3.1.2); pzstd begins with one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            plain if is_tar(plain) => Some(Self::None),
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
    // An archive from before `ustar`, or one without entries.
    beginning
        .get(..BLOCK)
        .and_then(|block| <&[u8; BLOCK]>::try_from(block).ok())
        .is_some_and(|block| read::checksum_matches(block) || block.iter().all(|byte| *byte == 0))
}

/// Why data could not be decoded. A [`Decoder`] gives it as the inner error of an [`std::io::Error`].
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// There is no data.
    #[error("the file is empty")]
    Empty,
    /// The beginning is of no known kind.
    #[error("neither a tar archive nor compressed data of a known kind")]
    Unknown,
    /// The data ends in the middle.
    #[error("{compression} data ends early")]
    EndsEarly {
        /// How it is compressed.
        compression: Compression,
    },
    /// The data was decoded, but its checksum says that it is not what was compressed.
    #[error("{compression} data is damaged: checksum does not match")]
    Checksum {
        /// How it is compressed.
        compression: Compression,
    },
    /// The data cannot be decoded.
    #[error("{compression} data is damaged")]
    Damaged {
        /// How it is compressed.
        compression: Compression,
        /// What the decoder said.
        #[source]
        source: std::io::Error,
    },
    /// The data asks for more memory than a stranger's file gets.
    #[error("{compression} data needs more than {limit} MiB of memory to decode")]
    Memory {
        /// How it is compressed.
        compression: Compression,
        /// What is allowed, in MiB.
        limit: u64,
    },
    /// Something that is not compressed data follows.
    #[error("{compression} data is followed by other bytes")]
    TrailingBytes {
        /// How it is compressed.
        compression: Compression,
    },
    /// Read again after an error.
    #[error("{compression} data was found to be bad before")]
    Failed {
        /// How it is compressed.
        compression: Compression,
    },
}
