//! Writes gzip files with one member. A writer divides its content into blocks of a fixed size, lets threads on idle cores compress the
//! blocks, and joins the results. The output does not depend on the number of threads.
//!
//! There is only one member because Ruby's `Zlib::GzipReader` silently stops after the first one. The header has no name and no time; XFL
//! is 0 and the operating system is 255 ("unknown"), as in the output of Go's `compress/gzip` at its default level.

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

/// The size of a block, in bytes. With blocks of this size, the division makes the output only slightly larger.
const BLOCK: usize = 1 << 20;

/// Compresses the content that is written to it. Without a call of [`GzipWriter::finish`] the output is incomplete.
#[derive(Debug)]
pub struct GzipWriter<W: Write> {
    out: W,
    level: u32,
    crc: Crc,
    /// The length of all earlier blocks, in bytes, modulo 2^32.
    length: u32,
    /// The content of the current block so far.
    content: Vec<u8>,
    /// Whether the caller has marked the following content as *dense*: already compressed, so that compression would not make it smaller.
    is_dense: bool,
    /// Whether all content of the current block is dense.
    is_block_dense: bool,
    /// The results of the blocks that helper threads compress, in order.
    pending: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    helpers: Helpers,
    /// Compresses blocks in the caller's thread.
    compressor: Option<Compressor>,
}

impl<W: Write> GzipWriter<W> {
    /// The default level of the `gzip` program.
    pub(crate) const DEFAULT_LEVEL: u32 = 6;

    /// Writes the header. `level` is from 0 (stored) to 9 (smallest), roughly equivalent to the levels of the `gzip` program; larger
    /// levels are treated as 9.
    ///
    /// # Errors
    /// If writing to `out` fails.
    pub fn new(out: W, level: u32) -> io::Result<Self> {
        Self::with_helpers(out, level, Helpers::on_idle_cores())
    }

    /// As [`new`](Self::new), with at most `threads` threads in addition to the caller's.
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
            is_dense: false,
            is_block_dense: true,
            pending: VecDeque::new(),
            helpers,
            compressor: None,
        })
    }

    /// Writes the last block and the trailer. Returns the inner writer.
    ///
    /// # Errors
    /// If writing fails.
    pub fn finish(mut self) -> io::Result<W> {
        let last = self.next_block(true);
        // Compress the last block in this thread, while the helpers compress the blocks before it.
        let compressor = self.compressor.take();
        let mut compressor = compressor.unwrap_or_else(|| Compressor::new(self.level));
        let last = compressor.compress(&last)?;
        while let Some(block) = self.pending.pop_front() {
            self.write(&block)?;
        }
        self.out.write_all(last)?;
        self.out.write_all(&self.crc.finalize().to_le_bytes())?;
        self.out.write_all(&self.length.to_le_bytes())?;
        Ok(self.out)
    }

    /// Stores a full block if it is dense. Otherwise, gives it to a helper thread, or compresses it in this thread if there is none.
    fn add_block(&mut self) -> io::Result<()> {
        let block = self.next_block(false);
        if block.is_dense {
            return self.store(block);
        }
        match self.helpers.compress(block, self.level) {
            Ok(compressed) => self.pending.push_back(compressed),
            Err(block) => {
                // Earlier blocks have to be written first.
                while let Some(earlier) = self.pending.pop_front() {
                    self.write(&earlier)?;
                }
                self.compress_and_write(&block)?;
            }
        }
        while self.pending.len() > self.helpers.max_in_flight() {
            if let Some(block) = self.pending.pop_front() {
                self.write(&block)?;
            }
        }
        Ok(())
    }

    /// Writes a block without compression, after all earlier blocks.
    fn store(&mut self, block: Block) -> io::Result<()> {
        while let Some(earlier) = self.pending.pop_front() {
            self.write(&earlier)?;
        }
        deflate::store(&block, &mut self.out)?;
        self.content = block.content;
        self.content.clear();
        Ok(())
    }

    fn next_block(&mut self, last: bool) -> Block {
        let content = std::mem::take(&mut self.content);
        self.crc.update(&content);
        self.length = self.length.wrapping_add(content.len() as u32);
        let is_dense = std::mem::replace(&mut self.is_block_dense, true) && !content.is_empty();
        Block {
            content,
            last,
            is_dense,
        }
    }

    fn compress_and_write(&mut self, block: &Block) -> io::Result<()> {
        let compressor = self
            .compressor
            .get_or_insert_with(|| Compressor::new(self.level));
        self.out.write_all(compressor.compress(block)?)
    }

    /// Waits until a helper has compressed a block, and writes the result.
    fn write(&mut self, block: &Receiver<io::Result<Vec<u8>>>) -> io::Result<()> {
        let ended = |_| io::Error::other("a compressing thread has ended");
        self.out.write_all(&block.recv().map_err(ended)??)
    }
}

/// A writer that may compress its content.
pub(crate) trait Compress: Write {
    /// Says whether the following content is already compressed (dense). A block with only dense content is stored without compression.
    fn expect_dense(&mut self, is_dense: bool);
}

impl<W: Write> Compress for GzipWriter<W> {
    fn expect_dense(&mut self, is_dense: bool) {
        self.is_dense = is_dense;
    }
}

impl<W: Write> Compress for io::BufWriter<W> {
    /// Does nothing, because this writer never compresses.
    fn expect_dense(&mut self, _: bool) {}
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let count = content.len().min(BLOCK - self.content.len());
        self.is_block_dense &= self.is_dense;
        self.content.extend_from_slice(&content[..count]);
        if self.content.len() == BLOCK {
            self.add_block()?;
        }
        Ok(count)
    }

    /// Does nothing: flushing the compressor would change the output.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
