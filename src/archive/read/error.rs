//! Why an archive could not be read.

use std::io;
use std::path::PathBuf;

/// Why an archive could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The data does not begin as a tar archive does.
    #[error("the data is not a tar archive")]
    NotTar,
    /// The data ends in the content of an entry.
    #[error("the archive ends early, in the middle of `{}`", entry.display())]
    Truncated {
        /// The entry's name as the archive has it.
        entry: PathBuf,
    },
    /// The data ends in a header or between a header and what it announces.
    #[error("the archive ends early, in a header at byte {offset}")]
    TruncatedHeader {
        /// Where the header begins in the decoded archive, in bytes.
        offset: u64,
    },
    /// A header's checksum is wrong.
    #[error("the header at byte {offset} is damaged: its checksum does not match")]
    Checksum {
        /// Where the header begins in the decoded archive, in bytes.
        offset: u64,
    },
    /// A header's field holds no number, a negative one, or one that is too large.
    #[error("the header at byte {offset} has no valid {field}")]
    Number {
        /// Where the header begins in the decoded archive, in bytes.
        offset: u64,
        /// What the number is.
        field: &'static str,
    },
    /// A name or an extended header is longer than anyone would write.
    #[error("the header at byte {offset} announces {size} bytes of names, more than {limit}")]
    TooLong {
        /// Where the header begins in the decoded archive, in bytes.
        offset: u64,
        /// How long it says it is, in bytes.
        size: u64,
        /// What is accepted, in bytes.
        limit: u64,
    },
    /// A PAX extended header is malformed.
    #[error("the extended header at byte {offset} is malformed: {problem}")]
    Pax {
        /// Where the header begins in the decoded archive, in bytes.
        offset: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// What is said of a sparse file cannot be.
    #[error("the sparse file `{}` is malformed: {problem}", entry.display())]
    Sparse {
        /// The entry's name as the archive has it.
        entry: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// The data could not be read or decoded.
    #[error("failed to read the archive")]
    Input {
        /// What the reader answered; of a [`Decoder`](crate::archive::Decoder) it says what is wrong with the data.
        #[source]
        source: io::Error,
    },
}
