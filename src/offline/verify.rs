//! Reads a written release back and compares it with the expected contents. Neither a Director nor the CLI verifies the digests of a
//! compiled release, so a damaged one would be detected only during a deployment.

use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::archive::{Decoder, Entry, Kind, ReadError, Reader};
use crate::fs::{self, Context as _};
use crate::release::Algorithm;
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

/// The size and the digests of a file when it was verified.
#[derive(Debug, Clone)]
pub(super) struct WrittenFile {
    pub size: u64,
    pub digests: BlobDigests,
}

impl WrittenFile {
    /// Reads a whole file.
    pub(super) fn of(file: &Path, cancel: &CancellationToken) -> fs::Result<Self> {
        let measure = Arc::default();
        let file_read = fs::open(file)?;
        let mut measured = Measured {
            inner: Cancellable::new(file_read, cancel),
            measure: Some(Arc::clone(&measure)),
        };
        io::copy(&mut measured, &mut io::sink()).at("read", file)?;
        Ok(finish(&measure))
    }
}

/// The size and the digests of the bytes that were read so far.
struct Measure {
    size: u64,
    hasher: BlobHasher,
}

impl Default for Measure {
    fn default() -> Self {
        Self {
            size: 0,
            hasher: BlobHasher::new(&[Algorithm::Sha1]),
        }
    }
}

/// Measures what is read through it, if that is wanted. Another thread may read.
struct Measured<R> {
    inner: R,
    measure: Option<Arc<Mutex<Measure>>>,
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(measure) = &self.measure {
            let mut measure = measure.lock().unwrap_or_else(PoisonError::into_inner);
            measure.size += count as u64;
            measure.hasher.update(&buffer[..count]);
        }
        Ok(count)
    }
}

fn finish(measure: &Mutex<Measure>) -> WrittenFile {
    let mut measure = measure.lock().unwrap_or_else(PoisonError::into_inner);
    let Measure { size, hasher } = std::mem::take(&mut *measure);
    WrittenFile {
        size,
        digests: hasher.finish(),
    }
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
    /// A file does not have the digest of what was written or copied.
    #[error(
        "its SHA-256 is wrong: probably, another program changed this file or the file from which it was copied"
    )]
    Copy,
}

/// Compares the entries of a tarball with the expected ones. With `wants_digests`, returns the digests of the bytes that were read.
pub(super) fn verify(
    tarball: &Path,
    expected: &[Expected],
    wants_digests: bool,
    cancel: &CancellationToken,
) -> Result<Option<WrittenFile>, VerifyError> {
    let measure = wants_digests.then(Arc::<Mutex<Measure>>::default);
    let file = Measured {
        inner: Cancellable::new(fs::open(tarball)?, cancel),
        measure: measure.clone(),
    };
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
    // Reads to the end of the file.
    reader.into_inner().finish()?;
    Ok(measure.as_deref().map(finish))
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
