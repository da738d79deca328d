//! Compresses single blocks of a gzip file. Each block becomes one part of the deflate stream, and each part ends at a byte boundary.
//!
//! The compression library is libdeflate: docs/adr/0009-archives-at-the-speed-of-the-disk.md explains why. libdeflate writes only
//! complete streams, so [`joint`] changes the end of each stream except the last: another stream can then follow.

use std::io::{self, Write};

use libdeflater::{CompressionLvl, Compressor as Deflate};

use super::joint;

/// The maximum length of one of deflate's stored blocks, in bytes (RFC 1951, 3.2.4).
const MAX_STORED: usize = 0xffff;

/// The number of samples that decide whether a block is compressed.
const SAMPLES: usize = 4;

/// The length of a sample, in bytes.
const SAMPLE_LENGTH: usize = 16 * 1024;

/// The entropy of incompressible data, in bits per byte. A block whose samples reach it may still be compressible: then a trial
/// compression of the samples decides.
const HIGH_ENTROPY: f64 = 7.9;

/// The level of the trial compression: libdeflate's fastest.
const TRIAL_LEVEL: i32 = 1;

/// A part of the content that is compressed by itself.
#[derive(Debug)]
pub(super) struct Block {
    pub content: Vec<u8>,
    /// Whether the block is the last one of the stream.
    pub last: bool,
    /// Whether the block is known to be compressed already.
    pub is_dense: bool,
}

/// Compresses blocks, one after another.
pub(super) struct Compressor {
    /// `None` at level 0.
    deflate: Option<Deflate>,
    /// Compresses samples.
    trial: Option<Deflate>,
    /// The compressed block. The allocation is reused.
    part: Vec<u8>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

/// The level of libdeflate whose output is about as large as the output of the `gzip` program at the level `gzip`.
fn level(gzip: u32) -> i32 {
    match gzip {
        1..=3 => gzip as i32,
        4..=5 => 4,
        6 => 5,
        7 => 6,
        8 => 7,
        _ => 9,
    }
}

impl Compressor {
    pub(super) fn new(gzip_level: u32) -> Self {
        Self {
            deflate: (gzip_level > 0).then(|| engine(level(gzip_level))),
            trial: None,
            part: Vec::new(),
        }
    }

    /// Compresses or stores a block. Returns its part of the stream.
    pub(super) fn compress(&mut self, block: &Block) -> io::Result<&[u8]> {
        self.part.clear();
        let is_worth_it =
            self.deflate.is_some() && !block.is_dense && self.is_compressible(&block.content);
        match &mut self.deflate {
            Some(deflate) if is_worth_it => {
                deflate_to(deflate, &block.content, &mut self.part)?;
                if !block.last {
                    joint::make_appendable(&mut self.part).ok_or_else(|| {
                        io::Error::other("libdeflate wrote an invalid deflate stream")
                    })?;
                }
            }
            _ => store(block, &mut self.part)?,
        }
        Ok(&self.part)
    }

    /// Estimates from samples whether compression makes a block smaller by more than 1 %. Content that is already compressed does not
    /// get smaller, and is the slowest to compress.
    fn is_compressible(&mut self, content: &[u8]) -> bool {
        if content.len() < SAMPLES * SAMPLE_LENGTH {
            return true;
        }
        let sample = |number: usize| {
            let start = (content.len() - SAMPLE_LENGTH) / (SAMPLES - 1) * number;
            &content[start..start + SAMPLE_LENGTH]
        };
        let samples = (0..SAMPLES).map(sample).collect::<Vec<_>>().concat();
        if entropy(&samples) < HIGH_ENTROPY {
            return true;
        }
        let trial = self.trial.get_or_insert_with(|| engine(TRIAL_LEVEL));
        match deflate_to(trial, &samples, &mut self.part) {
            Ok(()) => {
                let is_smaller = self.part.len() < samples.len() - samples.len() / 100;
                self.part.clear();
                is_smaller
            }
            Err(_) => true,
        }
    }
}

fn engine(level: i32) -> Deflate {
    Deflate::new(CompressionLvl::new(level).unwrap_or_default())
}

/// Compresses content to a complete deflate stream.
fn deflate_to(deflate: &mut Deflate, content: &[u8], stream: &mut Vec<u8>) -> io::Result<()> {
    stream.resize(deflate.deflate_compress_bound(content.len()), 0);
    let length = deflate
        .deflate_compress(content, stream)
        .map_err(io::Error::other)?;
    stream.truncate(length);
    Ok(())
}

/// Writes a block without compression, as one or several of deflate's stored blocks.
pub(super) fn store(block: &Block, out: &mut impl Write) -> io::Result<()> {
    let mut pieces = block.content.chunks(MAX_STORED).peekable();
    if pieces.peek().is_none() {
        store_piece(&[], block.last, out)?;
    }
    while let Some(piece) = pieces.next() {
        store_piece(piece, block.last && pieces.peek().is_none(), out)?;
    }
    Ok(())
}

/// Writes one stored block. Its header has a bit that marks the last block, the length, and the complement of the length (RFC 1951,
/// 3.2.4).
fn store_piece(piece: &[u8], is_last: bool, out: &mut impl Write) -> io::Result<()> {
    let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
    let [low, high] = length.to_le_bytes();
    out.write_all(&[u8::from(is_last), low, high, !low, !high])?;
    out.write_all(piece)
}

/// The entropy of bytes, in bits per byte: 8 if all values are equally frequent.
fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    let total = bytes.len() as f64;
    counts
        .into_iter()
        .filter(|count| *count > 0)
        .map(|count| {
            let share = f64::from(count) / total;
            -share * share.log2()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tests::support::noise;

    fn compressed(content: Vec<u8>, level: u32) -> usize {
        let block = Block {
            content,
            last: false,
            is_dense: false,
        };
        Compressor::new(level).compress(&block).unwrap().len()
    }

    #[test]
    fn incompressible_content_is_stored() {
        let pieces = (1 << 20) / MAX_STORED + 1;
        assert_eq!(compressed(noise(1 << 20), 6), (1 << 20) + 5 * pieces);
        // Every sixteenth byte is 0.
        let mut less = noise(1 << 20);
        less.iter_mut().step_by(16).for_each(|byte| *byte = 0);
        assert!(compressed(less, 6) < (1 << 20) - 10_000);
        // All bytes are equally frequent, but in a pattern.
        let pattern = (0..1_u32 << 20).map(|at| at.to_le_bytes()[0]).collect();
        assert!(compressed(pattern, 6) < 10_000);
    }

    #[test]
    fn higher_level_compresses_better() {
        let text: Vec<u8> = (0..150_000_u32)
            .flat_map(|n| {
                (n.wrapping_mul(2_654_435_761) >> 12)
                    .to_string()
                    .into_bytes()
            })
            .take(1 << 20)
            .collect();
        let sizes = [0, 1, 3, 9].map(|level| compressed(text.clone(), level));
        assert!(sizes.is_sorted_by(|more, less| more > less), "{sizes:?}");
    }
}
