//! Reads sparse files: the list of a file's pieces (the parts between the holes), and the full content with zeros for the holes.

use std::io::{self, Read};

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::{Entry, ReadError, Reader};
use crate::archive::pax::{PieceList, SparseRecords};
use crate::archive::sparse::{self, MapParser, Piece};
use crate::archive::{BLOCK, number};

impl<R: Read> Reader<R> {
    /// Sets the pieces and the size of the entry if it is a sparse file. They are in the header, the records or the content.
    pub(super) fn set_pieces(
        &mut self,
        header: &Header,
        records: SparseRecords,
        entry: &mut Entry,
    ) -> Result<(), ReadError> {
        let entry_path = entry.display_name();
        let problem = |problem| ReadError::Sparse {
            entry: entry_path.clone(),
            problem,
        };
        let (pieces, size) = if header.as_old().linkflag[0] == b'S' {
            let gnu = header
                .as_gnu()
                .ok_or(problem("its header is not in GNU format"))?;
            let size =
                number::parse_unsigned(&gnu.realsize).ok_or(problem("its size is not a number"))?;
            let mut pieces = Vec::new();
            push_all(&mut pieces, &gnu.sparse).map_err(problem)?;
            let mut more = gnu.is_extended();
            while more {
                let start = self.offset;
                let mut extension = GnuExtSparseHeader::new();
                if !self.read_block(extension.as_mut_bytes(), start)? {
                    return Err(ReadError::TruncatedHeader { offset: start });
                }
                push_all(&mut pieces, extension.sparse()).map_err(problem)?;
                more = extension.is_extended();
            }
            (pieces, size)
        } else {
            let size = records.size;
            let pieces = match records.piece_list().map_err(problem)? {
                PieceList::None => return Ok(()),
                PieceList::Records => records.pieces,
                PieceList::Content => self.pieces_in_content().map_err(|error| match error {
                    MapError::Problem(text) => problem(text),
                    MapError::Read(error) => error,
                })?,
            };
            (pieces, size.ok_or(problem("its size is missing"))?)
        };
        if size > i64::MAX as u64 {
            return Err(problem("it is larger than the largest file"));
        }
        sparse::check(&pieces, size, self.left).map_err(problem)?;
        entry.size = size;
        entry.pieces = Some(pieces);
        Ok(())
    }

    /// Reads the list of pieces at the beginning of the content (PAX 1.0).
    fn pieces_in_content(&mut self) -> Result<Vec<Piece>, MapError> {
        let mut parser = MapParser::default();
        loop {
            if self.left < BLOCK as u64 {
                return Err(MapError::Problem("its list of pieces is not complete"));
            }
            let mut block = [0; BLOCK];
            let mut filled = 0;
            while filled < BLOCK {
                filled += self
                    .read_content(&mut block[filled..])
                    .map_err(MapError::Read)?;
            }
            if let Some(pieces) = parser.parse_block(&block).map_err(MapError::Problem)? {
                return Ok(pieces);
            }
        }
    }
}

/// Reads the full content of an entry, with zeros for the holes of a sparse file.
#[derive(Debug)]
pub struct Whole<'a, R> {
    reader: &'a mut Reader<R>,
    /// The pieces that were not read completely.
    pieces: &'a [Piece],
    /// The position in the full content of a sparse file.
    position: u64,
    /// The size of a sparse file; 0 for other files.
    size: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the full content of `entry`, which must be the current entry. Its content must not have been read before.
    pub(crate) fn whole<'a>(&'a mut self, entry: &'a Entry) -> Whole<'a, R> {
        Whole {
            reader: self,
            pieces: entry.pieces.as_deref().unwrap_or_default(),
            position: 0,
            size: if entry.is_sparse() { entry.size } else { 0 },
        }
    }
}

impl<R: Read> Read for Whole<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.size == 0 {
            return self.reader.read(buffer);
        }
        while let [done, rest @ ..] = self.pieces
            && self.position >= done.offset + done.length
        {
            self.pieces = rest;
        }
        let (end, is_hole) = match self.pieces.first() {
            Some(piece) if self.position >= piece.offset => (piece.offset + piece.length, false),
            Some(piece) => (piece.offset, true),
            None => (self.size, true),
        };
        let left = usize::try_from(end - self.position).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let buffer = &mut buffer[..wanted];
        let count = if is_hole {
            buffer.fill(0);
            wanted
        } else {
            self.reader.read(buffer)?
        };
        self.position += count as u64;
        Ok(count)
    }
}

enum MapError {
    Problem(&'static str),
    Read(ReadError),
}

fn push_all(pieces: &mut Vec<Piece>, listed: &[GnuSparseHeader]) -> Result<(), &'static str> {
    for piece in listed {
        // Skip an unused field of the header.
        if piece.offset[0] == 0 || piece.numbytes[0] == 0 {
            continue;
        }
        match (
            number::parse_unsigned(&piece.offset),
            number::parse_unsigned(&piece.numbytes),
        ) {
            (Some(offset), Some(length)) => sparse::push(pieces, offset, length)?,
            _ => return Err("its list of pieces is malformed"),
        }
    }
    Ok(())
}
