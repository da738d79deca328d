//! Writes gzip: one member, with the same bytes for the same content, compressed on all idle cores.
//!
//! One member, because Ruby's `Zlib::GzipReader` stops after the first without saying so. The header holds no name and no time;
//! XFL is 0 and the operating system 255 ("unknown"), as Go's `compress/gzip` writes them.
//!
//! Content is cut into blocks of a fixed size, each compressed by itself and then joined, so that the bytes depend on the content
//! and the level alone.

mod blocks;
mod deflate;
mod huffman;
mod joint;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::Receiver;

use crc32fast::Hasher as Crc;

use blocks::Helpers;
use deflate::{Block, Compressor};

pub use joint::make_appendable;

/// RFC 1952, 2.3: magic, deflate, no flags, no time, XFL 0, operating system unknown.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// How much content is compressed at once, in bytes: so much that the cuts cost nothing in size.
const BLOCK: usize = 1 << 20;

/// Compresses what is written to it. [`GzipWriter::finish`] must be called, or the end is missing.
#[derive(Debug)]
pub struct GzipWriter<W: Write> {
    out: W,
    level: u32,
    crc: Crc,
    /// How much content there was so far, in bytes, as far as 32 bits can tell.
    length: u32,
    content: Vec<u8>,
    /// Blocks on their way, in order.
    pending: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    helpers: Helpers,
    /// For blocks that no helper takes.
    own: Option<Compressor>,
}

impl<W: Write> GzipWriter<W> {
    /// gzip's own default.
    pub const DEFAULT_LEVEL: u32 = 6;

    /// Writes the header; `level` is from 0 (stored) to 9 (smallest), about as gzip counts them, and more counts as 9.
    ///
    /// # Errors
    /// As writing to `out`.
    pub fn new(out: W, level: u32) -> io::Result<Self> {
        Self::with_helpers(out, level, Helpers::on_idle_cores())
    }

    /// The same with at most `threads` threads beside the caller's.
    #[cfg(test)]
    pub(super) fn with_threads(out: W, level: u32, threads: usize) -> io::Result<Self> {
        Self::with_helpers(out, level, Helpers::at_most(threads))
    }

    fn with_helpers(mut out: W, level: u32, helpers: Helpers) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        Ok(Self {
            out,
            level: level.min(9),
            crc: Crc::new(),
            length: 0,
            content: Vec::new(),
            pending: VecDeque::new(),
            helpers,
            own: None,
        })
    }

    /// Writes the rest and the trailer, and gives back what was written to.
    ///
    /// # Errors
    /// As writing to what [`GzipWriter::new`] was given.
    pub fn finish(mut self) -> io::Result<W> {
        // Nothing will come that a helper could take meanwhile.
        let last = self.next_block(true);
        while let Some(block) = self.pending.pop_front() {
            self.write(&block)?;
        }
        self.write_own(&last)?;
        self.out.write_all(&self.crc.finalize().to_le_bytes())?;
        self.out.write_all(&self.length.to_le_bytes())?;
        Ok(self.out)
    }

    /// Hands the content that has come to a helper, or compresses it where there is none.
    fn compress(&mut self) -> io::Result<()> {
        let block = self.next_block(false);
        match self.helpers.hand(block, self.level) {
            Ok(compressed) => self.pending.push_back(compressed),
            Err(block) => {
                // What is on its way has to be written before it.
                while let Some(earlier) = self.pending.pop_front() {
                    self.write(&earlier)?;
                }
                self.write_own(&block)?;
            }
        }
        while self.pending.len() > self.helpers.in_flight() {
            if let Some(block) = self.pending.pop_front() {
                self.write(&block)?;
            }
        }
        Ok(())
    }

    fn next_block(&mut self, last: bool) -> Block {
        let content = std::mem::take(&mut self.content);
        self.crc.update(&content);
        self.length = self.length.wrapping_add(content.len() as u32);
        Block { content, last }
    }

    fn write_own(&mut self, block: &Block) -> io::Result<()> {
        let own = self.own.get_or_insert_with(|| Compressor::new(self.level));
        self.out.write_all(own.compress(block)?)
    }

    fn write(&mut self, block: &Receiver<io::Result<Vec<u8>>>) -> io::Result<()> {
        let gone = |_| io::Error::other("a thread that compresses has ended");
        self.out.write_all(&block.recv().map_err(gone)??)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let taken = content.len().min(BLOCK - self.content.len());
        self.content.extend_from_slice(&content[..taken]);
        if self.content.len() == BLOCK {
            self.compress()?;
        }
        Ok(taken)
    }

    /// Does nothing: flushing the compressor would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
