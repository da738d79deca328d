//! Writes an archive entry by entry.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::archive::header::{self, EntryHeader};
use crate::archive::sparse::Piece;
use crate::archive::{BLOCK, CHUNK};

/// The record size of GNU tar, in bytes. Archives are padded with zeros to a multiple of it.
const RECORD: u64 = 20 * BLOCK as u64;

/// Why an entry could not be written.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The archive could not be written.
    #[error("failed to write the archive")]
    Output {
        /// The error of the writer.
        #[source]
        source: io::Error,
    },
    /// The content of an entry could not be read.
    #[error("failed to read the content of `{}`", entry.display())]
    Content {
        /// The entry's name.
        entry: PathBuf,
        /// The error of the reader.
        #[source]
        source: io::Error,
    },
    /// The length of an entry's content differs from the length in the header.
    #[error("the content of `{}` does not have the {size} bytes that were announced", entry.display())]
    Size {
        /// The entry's name.
        entry: PathBuf,
        /// The length in the header, in bytes.
        size: u64,
    },
}

/// Writes the entries of an archive in GNU format, in the order of the calls. The output should be buffered.
///
/// [`EntryWriter::finish`] ends the archive with two zero blocks and pads it with zeros to a multiple of 10 KiB, as GNU tar does.
#[derive(Debug)]
pub(crate) struct EntryWriter<W> {
    out: W,
    written: u64,
}

impl<W: Write> EntryWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, written: 0 }
    }

    /// The inner writer. The caller can announce the kind of the following content to it.
    pub(crate) fn output(&mut self) -> &mut W {
        &mut self.out
    }

    /// Writes one entry. The length of `content` must be the size in the header.
    ///
    /// # Errors
    /// If the content is shorter or longer, or cannot be read, or if the archive cannot be written. The archive is then incomplete.
    pub(crate) fn append(
        &mut self,
        entry: &EntryHeader<'_>,
        mut content: impl Read,
    ) -> Result<(), AppendError> {
        let output = |source| AppendError::Output { source };
        let name = || PathBuf::from(OsStr::from_bytes(entry.name));
        self.start(entry, None).map_err(output)?;
        let mut buffer =
            vec![0; CHUNK.min(usize::try_from(entry.size).unwrap_or(CHUNK).max(BLOCK))];
        let mut total: u64 = 0;
        loop {
            let read = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(AppendError::Content {
                        entry: name(),
                        source,
                    });
                }
            };
            total += read as u64;
            if total > entry.size {
                break;
            }
            self.content(&buffer[..read]).map_err(output)?;
        }
        if total != entry.size {
            return Err(AppendError::Size {
                entry: name(),
                size: entry.size,
            });
        }
        self.pad_entry().map_err(output)
    }

    /// Ends the archive. Returns the inner writer.
    ///
    /// # Errors
    /// If writing fails.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.content(&[0; 2 * BLOCK])?;
        self.pad(RECORD)?;
        Ok(self.out)
    }

    /// Writes the header of an entry. [`EntryWriter::content`] and [`EntryWriter::pad_entry`] must follow.
    pub(super) fn start(
        &mut self,
        entry: &EntryHeader<'_>,
        pieces: Option<&[Piece]>,
    ) -> io::Result<()> {
        header::write(&mut self.out, entry, pieces)?;
        self.written += header::length(entry, pieces);
        Ok(())
    }

    pub(super) fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Pads the content of an entry to a whole block.
    pub(super) fn pad_entry(&mut self) -> io::Result<()> {
        self.pad(BLOCK as u64)
    }

    fn pad(&mut self, unit: u64) -> io::Result<()> {
        let missing = self.written.next_multiple_of(unit) - self.written;
        self.content(&[0; RECORD as usize][..missing as usize])
    }
}
