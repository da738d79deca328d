//! Compresses single blocks, each to a part of a stream that ends at a whole byte.
//!
//! The engine is libdeflate: docs/adr/0009-archives-at-the-speed-of-the-disk.md says why. It knows whole streams only, so that all
//! but the last are opened at their end: see [`joint`].

use std::io;

use libdeflater::{CompressionLvl, Compressor as Deflate};

use super::joint;

/// A stored block of deflate has no more bytes: their count has 16 bits.
const STORED: usize = 0xffff;

/// So many samples of so many bytes tell whether a block is worth the effort.
const SAMPLES: usize = 4;
const SAMPLE: usize = 16 * 1024;

/// With at least so many bits of information in each byte, samples are looked at more closely.
const DENSE: f64 = 7.9;

/// libdeflate's quickest level.
const QUICK: i32 = 1;

#[derive(Debug)]
pub(super) struct Block {
    pub content: Vec<u8>,
    /// Whether it is the last one of the stream.
    pub last: bool,
}

/// Deflates blocks one after another.
pub(super) struct Compressor {
    /// `None` where nothing is to be compressed.
    deflate: Option<Deflate>,
    /// Finds out whether a block is worth the effort.
    quick: Option<Deflate>,
    /// The part of the stream that was made last.
    part: Vec<u8>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

/// The level of libdeflate that makes about as much of a file as gzip does with this one.
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
            quick: None,
            part: Vec::new(),
        }
    }

    /// A block's part of the stream.
    pub(super) fn compress(&mut self, block: &Block) -> io::Result<&[u8]> {
        self.part.clear();
        let is_worth_it = self.deflate.is_some() && self.is_compressible(&block.content);
        match &mut self.deflate {
            Some(deflate) if is_worth_it => {
                deflate_to(deflate, &block.content, &mut self.part)?;
                if !block.last {
                    joint::make_appendable(&mut self.part)
                        .ok_or_else(|| io::Error::other("libdeflate made no deflate stream"))?;
                }
            }
            _ => store(block, &mut self.part),
        }
        Ok(&self.part)
    }

    /// Whether compressing makes a block smaller by more than one in a hundred, as far as samples tell. What is compressed
    /// already does not get smaller, and takes longer than anything else.
    fn is_compressible(&mut self, content: &[u8]) -> bool {
        if content.len() < SAMPLES * SAMPLE {
            return true;
        }
        let sample = |number: usize| {
            let start = (content.len() - SAMPLE) / (SAMPLES - 1) * number;
            &content[start..start + SAMPLE]
        };
        let samples = (0..SAMPLES).map(sample).collect::<Vec<_>>().concat();
        if information(&samples) < DENSE {
            return true;
        }
        let quick = self.quick.get_or_insert_with(|| engine(QUICK));
        match deflate_to(quick, &samples, &mut self.part) {
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

/// Makes a whole stream of some content.
fn deflate_to(deflate: &mut Deflate, content: &[u8], stream: &mut Vec<u8>) -> io::Result<()> {
    stream.resize(deflate.deflate_compress_bound(content.len()), 0);
    let length = deflate
        .deflate_compress(content, stream)
        .map_err(io::Error::other)?;
    stream.truncate(length);
    Ok(())
}

/// Takes a block over as it is.
fn store(block: &Block, part: &mut Vec<u8>) {
    let mut pieces = block.content.chunks(STORED).peekable();
    if pieces.peek().is_none() {
        store_piece(&[], block.last, part);
    }
    while let Some(piece) = pieces.next() {
        store_piece(piece, block.last && pieces.peek().is_none(), part);
    }
}

/// RFC 1951, 3.2.4: whether it is the last block, its length, and the length's complement.
fn store_piece(piece: &[u8], is_last: bool, part: &mut Vec<u8>) {
    let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
    part.push(u8::from(is_last));
    part.extend_from_slice(&length.to_le_bytes());
    part.extend_from_slice(&(!length).to_le_bytes());
    part.extend_from_slice(piece);
}

/// How many bits of information a byte has, of all that are there: 8 where each value is as frequent as any other.
fn information(bytes: &[u8]) -> f64 {
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
        };
        Compressor::new(level).compress(&block).unwrap().len()
    }

    #[test]
    fn what_does_not_get_smaller_is_taken_over_as_it_is() {
        let pieces = (1 << 20) / STORED + 1;
        assert_eq!(compressed(noise(1 << 20), 6), (1 << 20) + 5 * pieces);
        // One byte in sixteen is always the same.
        let mut less = noise(1 << 20);
        less.iter_mut().step_by(16).for_each(|byte| *byte = 0);
        assert!(compressed(less, 6) < (1 << 20) - 10_000);
        // Every byte is as frequent as any other, and yet there is a pattern.
        let pattern = (0..1_u32 << 20).map(|at| at.to_le_bytes()[0]).collect();
        assert!(compressed(pattern, 6) < 10_000);
    }

    #[test]
    fn a_higher_level_makes_it_smaller() {
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
