//! Writes gzip: one member, with the same bytes for the same content.
//!
//! One member, because Ruby's `Zlib::GzipReader` stops after the first without saying so. The header holds no name and no time;
//! XFL is 0 and the operating system 255 ("unknown"), as Go's `compress/gzip` writes them.

use std::io::{self, Write};

use flate2::Crc;
use flate2::write::DeflateEncoder;

/// RFC 1952, 2.3: magic, deflate, no flags, no time, XFL 0, operating system unknown.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Content is handed to the compressor in pieces of this many bytes, so that the result does not depend on how the
/// caller's writes were cut.
const PIECE: usize = 128 * 1024;

/// Compresses what is written to it. [`GzipWriter::finish`] must be called, or the end is missing.
#[derive(Debug)]
pub struct GzipWriter<W: Write> {
    deflate: DeflateEncoder<W>,
    crc: Crc,
    piece: Vec<u8>,
}

impl<W: Write> GzipWriter<W> {
    /// gzip's own default.
    pub const DEFAULT_LEVEL: u32 = 6;

    /// Writes the header; `level` is from 0 (stored) to 9 (smallest), and more counts as 9.
    ///
    /// # Errors
    /// As writing to `out`.
    pub fn new(mut out: W, level: u32) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        Ok(Self {
            deflate: DeflateEncoder::new(out, flate2::Compression::new(level.min(9))),
            crc: Crc::new(),
            piece: Vec::with_capacity(PIECE),
        })
    }

    /// Writes the rest and the trailer, and gives back what was written to.
    ///
    /// # Errors
    /// As writing to what [`GzipWriter::new`] was given.
    pub fn finish(mut self) -> io::Result<W> {
        self.compress()?;
        let mut out = self.deflate.finish()?;
        out.write_all(&self.crc.sum().to_le_bytes())?;
        out.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(out)
    }

    fn compress(&mut self) -> io::Result<()> {
        self.crc.update(&self.piece);
        self.deflate.write_all(&self.piece)?;
        self.piece.clear();
        Ok(())
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let taken = content.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&content[..taken]);
        if self.piece.len() == PIECE {
            self.compress()?;
        }
        Ok(taken)
    }

    /// Does nothing: flushing the compressor would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
