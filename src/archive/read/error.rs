//! The errors of reading an archive.

use std::io;
use std::path::PathBuf;

/// Why an archive could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The data does not begin with a tar header.
    #[error("the data is not a tar archive")]
    NotTar,
    /// The data ends inside the content of an entry.
    #[error("the archive ends early, in the middle of `{}`", entry.display())]
    Truncated {
        /// The name of the entry in the archive.
        entry: PathBuf,
    },
    /// The data ends inside a header, or between a header and the entry that it precedes.
    #[error("the archive ends early, in a header at byte {offset}")]
    TruncatedHeader {
        /// The offset of the header in the decoded archive, in bytes.
        offset: u64,
    },
    /// The checksum of a header does not match.
    #[error("the header at byte {offset} is damaged: its checksum does not match")]
    Checksum {
        /// The offset of the header in the decoded archive, in bytes.
        offset: u64,
    },
    /// A field of a header is not a number, negative, or too large.
    #[error("the header at byte {offset} has no valid {field}")]
    Number {
        /// The offset of the header in the decoded archive, in bytes.
        offset: u64,
        /// The name of the field.
        field: &'static str,
    },
    /// A name or an extended header is longer than the limit.
    #[error(
        "the header at byte {offset} announces {size} bytes of names, more than the limit of {limit}"
    )]
    TooLong {
        /// The offset of the header in the decoded archive, in bytes.
        offset: u64,
        /// The length of the name or extended header, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A PAX extended header is malformed.
    #[error("the extended header at byte {offset} is malformed: {problem}")]
    Pax {
        /// The offset of the header in the decoded archive, in bytes.
        offset: u64,
        /// The problem.
        problem: &'static str,
    },
    /// The description of a sparse file is invalid.
    #[error("the sparse file `{}` is malformed: {problem}", entry.display())]
    Sparse {
        /// The name of the entry in the archive.
        entry: PathBuf,
        /// The problem.
        problem: &'static str,
    },
    /// The data could not be read or decoded.
    #[error("failed to read the archive")]
    Input {
        /// The error of the reader. The error of a [`Decoder`](crate::archive::Decoder) describes the problem of the data.
        #[source]
        source: io::Error,
    },
}
