//! Finds the holes of a file, copies its content, and detects changes meanwhile.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::PackError;
use crate::archive::BLOCK;
use crate::archive::sparse::{self, MAX_PIECES, Piece};
use crate::archive::tarball::EntryWriter;
use crate::fs::{self, Context};

/// The minimum total size of holes for a sparse entry, in bytes. Smaller holes are written as zeros, because zeros compress well, and
/// because more programs read ordinary entries than sparse entries.
const LEAST_HOLES: u64 = 1 << 20;

/// The pieces of a file between its holes. `None` if the file is written as an ordinary entry.
///
/// File systems report holes differently, so the pieces of a file depend on its file system.
pub(super) fn pieces(
    file: &mut File,
    metadata: &Metadata,
    path: &Path,
) -> Result<Option<Vec<Piece>>, PackError> {
    let size = metadata.len();
    // A file that occupies its full length on the disk has no holes.
    if size < LEAST_HOLES || metadata.blocks().saturating_mul(512) >= size {
        return Ok(None);
    }
    let pieces = match seek_pieces(file, size) {
        Ok(pieces) => pieces,
        // The file system does not support holes.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => None,
        Err(error) => return Err(failed("look for holes in", path, error.into())),
    };
    file.seek(SeekFrom::Start(0)).at("read", path)?;
    let has_large_holes = |pieces: &Vec<Piece>| {
        let data: u64 = pieces.iter().map(|piece| piece.length).sum();
        size - data >= LEAST_HOLES
    };
    Ok(pieces.filter(has_large_holes))
}

fn seek_pieces(file: &File, size: u64) -> nix::Result<Option<Vec<Piece>>> {
    let block = BLOCK as u64;
    let seek = |offset: u64, whence| -> nix::Result<u64> {
        let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        lseek(file, offset, whence).map(|found| u64::try_from(found).unwrap_or(size))
    };
    let mut pieces: Vec<Piece> = Vec::new();
    let mut offset = 0;
    while offset < size {
        let start = match seek(offset, Whence::SeekData) {
            Ok(start) => start,
            // The rest of the file is a hole.
            Err(Errno::ENXIO) => break,
            Err(error) => return Err(error),
        };
        let end = seek(start, Whence::SeekHole)?;
        // Pieces must be whole blocks, see `sparse::push`. File systems usually report whole pages.
        let start = (start - start % block).max(offset);
        let end = end.next_multiple_of(block).min(size);
        if end <= start {
            break;
        }
        if pieces.len() + 1 >= MAX_PIECES || sparse::push(&mut pieces, start, end - start).is_err()
        {
            return Ok(None);
        }
        offset = end;
    }
    // As in GNU tar, the list ends at the end of the file, for readers that compute the length from the list.
    if pieces
        .last()
        .is_none_or(|last| last.offset + last.length < size)
        && sparse::push(&mut pieces, size, 0).is_err()
    {
        return Ok(None);
    }
    Ok(Some(pieces))
}

/// Copies the pieces of a file, or the whole file if `pieces` is `None`. Returns the number of bytes.
pub(super) fn copy<W: Write>(
    file: &mut File,
    before: &Metadata,
    pieces: Option<&[Piece]>,
    path: &Path,
    archive: &mut EntryWriter<W>,
    buffer: &mut [u8],
) -> Result<u64, PackError> {
    let whole = [Piece {
        offset: 0,
        length: before.len(),
    }];
    let mut copied = 0;
    for piece in pieces.unwrap_or(&whole) {
        if pieces.is_some() {
            file.seek(SeekFrom::Start(piece.offset)).at("read", path)?;
        }
        let mut left = piece.length;
        while left > 0 {
            let wanted = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = match file.read(&mut buffer[..wanted]) {
                Ok(0) => return Err(changed(path)),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed("read", path, error)),
            };
            archive
                .content(&buffer[..read])
                .map_err(|source| PackError::Output { source })?;
            left -= read as u64;
        }
        copied += piece.length;
    }
    archive
        .pad_entry()
        .map_err(|source| PackError::Output { source })?;
    let after = file.metadata().at("examine", path)?;
    if stamp(&after) != stamp(before) {
        return Err(changed(path));
    }
    Ok(copied)
}

/// The metadata by which a change of a file is detected.
fn stamp(metadata: &Metadata) -> (u64, i64, i64) {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> PackError {
    PackError::File(fs::Error {
        action,
        path: path.to_owned(),
        source,
    })
}

pub(super) fn changed(path: &Path) -> PackError {
    PackError::Changed {
        path: path.to_owned(),
    }
}
