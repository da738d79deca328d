//! Reads a written release back and compares it with the expected contents. Neither a Director nor the CLI verifies the digests of a
//! compiled release, so a damaged one would be detected only during a deployment.

use std::io::{self, Read};
use std::path::Path;

use tokio_util::sync::CancellationToken;

use crate::archive::{Decoder, Entry, Kind, ReadError, Reader};
use crate::fs;
use crate::release::digest::{BlobDigests, BlobHasher};
use crate::runtime::{Cancellable, ReadAhead};

const BUFFER: usize = 128 * 1024;

/// An entry that a tarball should have.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub name: Vec<u8>,
    pub kind: Kind,
    /// Size and digests of a file's contents.
    pub content: Option<(u64, BlobDigests)>,
}

/// Why a written file is not as expected.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The file cannot be opened.
    #[error(transparent)]
    Files(#[from] fs::Error),
    /// The file cannot be decompressed to the end.
    #[error("failed to read the written file back")]
    Decode(#[from] io::Error),
    /// The file is not a valid tar archive.
    #[error("failed to read the written file back")]
    Read(#[from] ReadError),
    /// An entry is missing or different.
    #[error("entry {number} is `{found}` instead of `{expected}`")]
    Entry {
        /// The number of the entry, from 1.
        number: usize,
        /// The expected entry.
        expected: String,
        /// The actual entry.
        found: String,
    },
    /// The contents of an entry are not what was written.
    #[error("the contents of `{0}` have changed")]
    Content(String),
    /// The copy of a file does not have the file's digest.
    #[error(
        "it does not have the expected SHA-256, because another program changed this file or the one that was copied"
    )]
    Copy,
}

/// Compares the entries of a tarball with the expected ones.
pub(super) fn verify(
    tarball: &Path,
    expected: &[Expected],
    cancel: &CancellationToken,
) -> Result<(), VerifyError> {
    let file = Cancellable::new(fs::open(tarball)?, cancel);
    let mut reader = Reader::new(ReadAhead::new(Decoder::new(file)?));
    let mut number = 0;
    while let Some(entry) = reader.next_entry()? {
        let wanted = expected.get(number);
        number += 1;
        match wanted {
            Some(wanted) if wanted.name == entry.name && wanted.kind == entry.kind => {
                verify_content(&mut reader, &entry, wanted)?;
            }
            wanted => return Err(mismatch(number, wanted, Some(&entry))),
        }
    }
    if let Some(missing) = expected.get(number) {
        return Err(mismatch(number + 1, Some(missing), None));
    }
    Ok(reader.into_inner().finish()?)
}

fn mismatch(number: usize, expected: Option<&Expected>, found: Option<&Entry>) -> VerifyError {
    let shown = |name: Option<&Vec<u8>>| match name {
        Some(name) => String::from_utf8_lossy(name).into_owned(),
        None => "nothing".to_owned(),
    };
    VerifyError::Entry {
        number,
        expected: shown(expected.map(|expected| &expected.name)),
        found: shown(found.map(|found| &found.name)),
    }
}

fn verify_content<R: Read>(
    reader: &mut Reader<R>,
    entry: &Entry,
    wanted: &Expected,
) -> Result<(), VerifyError> {
    let Some((size, digests)) = &wanted.content else {
        return Ok(());
    };
    let mut hasher = BlobHasher::new(&[]);
    let mut buffer = vec![0; BUFFER];
    while let count @ 1.. = reader.read_content(&mut buffer)? {
        hasher.update(&buffer[..count]);
    }
    let found = hasher.finish();
    if entry.size == *size && found.sha256() == digests.sha256() {
        return Ok(());
    }
    Err(VerifyError::Content(
        String::from_utf8_lossy(&entry.name).into_owned(),
    ))
}

/// Compares the SHA-256 of a file with that in `digests`.
pub(super) fn same_bytes(
    copy: &Path,
    digests: &BlobDigests,
    cancel: &CancellationToken,
) -> Result<(), VerifyError> {
    let reader = Cancellable::new(fs::open(copy)?, cancel);
    match BlobDigests::of_reader(reader, &[])?.sha256() == digests.sha256() {
        true => Ok(()),
        false => Err(VerifyError::Copy),
    }
}
