//! The *pieces* of sparse files: the parts between the holes. For a sparse file, an archive contains only the pieces, and a list of their
//! offsets and lengths.
//!
//! There are four formats of the list. The old GNU format has it in headers of type `S`; [`pack()`](crate::archive::pack()) writes this
//! format. The PAX formats 0.0 and 0.1 have it in records, and 1.0 has it before the content. GNU tar's manual describes them in "Storing
//! Sparse Files".

use crate::archive::BLOCK;

/// The maximum number of pieces of a file. It limits the memory for the list, which needs 16 bytes for each piece.
pub(super) const MAX_PIECES: usize = 1 << 20;

/// A piece of a file between holes. The offset in the unpacked file and the length are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Adds a piece, which must not begin before the end of the previous one.
pub(super) fn push(pieces: &mut Vec<Piece>, offset: u64, length: u64) -> Result<(), &'static str> {
    let end = pieces.last().map_or(0, |last| last.offset + last.length);
    if offset < end {
        return Err("its pieces overlap or are not in order");
    }
    // In archives of GNU tar and bsdtar, all pieces except the last have a multiple of 512 bytes. Readers disagree about other pieces: GNU
    // tar expects padding after each piece, libarchive and Python do not.
    let block = BLOCK as u64;
    if length > 0
        && pieces
            .iter()
            .rev()
            .map(|piece| piece.length)
            .find(|length| *length > 0)
            .is_some_and(|length| length % block != 0)
    {
        return Err("a piece that is not the last one ends in the middle of a block");
    }
    if offset
        .checked_add(length)
        .is_none_or(|end| end > i64::MAX as u64)
    {
        return Err("a piece lies beyond the largest file");
    }
    if pieces.len() >= MAX_PIECES {
        return Err("it has too many pieces");
    }
    pieces.push(Piece { offset, length });
    Ok(())
}

/// Checks that the pieces are inside the file and as long as the content in the archive.
pub(super) fn check(pieces: &[Piece], size: u64, stored: u64) -> Result<(), &'static str> {
    if pieces
        .last()
        .is_some_and(|last| last.offset + last.length > size)
    {
        return Err("a piece lies beyond the end of the file");
    }
    // The sum cannot overflow, because the pieces do not overlap and end within the size.
    if pieces.iter().map(|piece| piece.length).sum::<u64>() != stored {
        return Err("its pieces are not as long as its content");
    }
    Ok(())
}

/// Parses a decimal number without a sign.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Parses the list of pieces in the content of a PAX 1.0 sparse file, block by block. The list has one decimal number per line: the number
/// of pieces, then the offset and length of each piece. The last block is padded.
#[derive(Debug, Default)]
pub(super) struct MapParser {
    digits: Vec<u8>,
    count: Option<u64>,
    offset: Option<u64>,
    pieces: Vec<Piece>,
}

impl MapParser {
    /// Parses one block; returns the list if it is complete.
    pub(super) fn parse_block(&mut self, block: &[u8]) -> Result<Option<Vec<Piece>>, &'static str> {
        for byte in block {
            if byte.is_ascii_digit() && self.digits.len() < 20 {
                self.digits.push(*byte);
            } else if *byte == b'\n' {
                let number = decimal(&self.digits).ok_or("its list of pieces is malformed")?;
                self.digits.clear();
                self.add_number(number)?;
                if self.count == Some(self.pieces.len() as u64) {
                    return Ok(Some(std::mem::take(&mut self.pieces)));
                }
            } else {
                return Err("its list of pieces is malformed");
            }
        }
        Ok(None)
    }

    fn add_number(&mut self, number: u64) -> Result<(), &'static str> {
        if self.count.is_none() {
            if number > MAX_PIECES as u64 {
                return Err("it has too many pieces");
            }
            self.count = Some(number);
        } else if let Some(offset) = self.offset.take() {
            push(&mut self.pieces, offset, number)?;
        } else {
            self.offset = Some(number);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(map: &[u8]) -> Result<Option<Vec<Piece>>, &'static str> {
        MapParser::default().parse_block(map)
    }

    #[test]
    fn a_list_of_pieces_is_read_to_its_last_number() {
        let pieces = parse(b"2\n0\n512\n4096\n10\n\0\0\0").unwrap().unwrap();
        assert_eq!(
            pieces,
            [
                Piece {
                    offset: 0,
                    length: 512
                },
                Piece {
                    offset: 4096,
                    length: 10
                }
            ]
        );
        assert_eq!(parse(b"0\n\0\0").unwrap(), Some(vec![]));
        assert_eq!(parse(b"1\n0\n").unwrap(), None);
    }

    #[test]
    fn number_may_be_split_between_two_blocks() {
        let mut parser = MapParser::default();
        assert_eq!(parser.parse_block(b"1\n5").unwrap(), None);
        let pieces = parser.parse_block(b"12\n7\n\0").unwrap();
        assert_eq!(
            pieces,
            Some(vec![Piece {
                offset: 512,
                length: 7
            }])
        );
    }

    #[test]
    fn invalid_list_is_an_error() {
        for map in [
            &b"x\n"[..],
            b"1\n-1\n5\n",
            b"2\n10\n512\n0\n512\n",
            b"2\n0\n512\n511\n1\n",
            b"2\n0\n10\n1024\n1\n",
            b"1\n9223372036854775807\n1\n",
            b"1\n18446744073709551615\n18446744073709551615\n",
            b"99999999\n",
            b"\n",
            b"1\n\0\0",
        ] {
            assert!(parse(map).is_err(), "{}", map.escape_ascii());
        }
    }

    #[test]
    fn pieces_must_match_the_file_and_the_content() {
        let pieces = [Piece {
            offset: 512,
            length: 10,
        }];
        assert!(check(&pieces, 522, 10).is_ok());
        assert!(check(&pieces, 521, 10).is_err());
        assert!(check(&pieces, 522, 11).is_err());
        assert!(check(&[], 1 << 40, 0).is_ok());
    }
}
