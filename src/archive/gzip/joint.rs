//! Joins deflate streams: changes the end of a stream so that another stream can follow.
//!
//! A stream is a sequence of blocks. The first bit of each block says whether it is the last one (RFC 1951). To find where the last block
//! begins and ends, all blocks must be decoded.

use super::huffman::{Code, Symbol, Table};

/// The maximum number of literal and length codes.
const LITERAL_CODES: usize = 288;

/// The maximum number of distance codes.
const DISTANCE_CODES: usize = 32;

/// The order of the lengths of code length codes (RFC 1951, 3.2.7).
const LENGTHS_ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// The length fields of an empty stored block. Before them come the three bits of the block's header and padding to a whole byte. zlib's
/// `Z_SYNC_FLUSH` adds the same block.
const EMPTY_STORED: [u8; 4] = [0, 0, 0xff, 0xff];

/// Changes a complete deflate stream so that another stream can be appended. Clears the bit that marks the last block, removes everything
/// after this block, and adds an empty stored block, which ends at a byte boundary.
///
/// Returns `None` if `stream` is not a deflate stream. Some invalid codes and distances are not detected here, but by the reader of the
/// joined stream.
pub fn make_appendable(stream: &mut Vec<u8>) -> Option<()> {
    let (last, end) = last_block(stream)?;
    stream[last / 8] &= !(1 << (last % 8));
    // RFC 1951 does not define the unused bits of the last byte. They become the header of the stored block, which is three zeros, and the
    // padding after it. If fewer than three bits are unused, the header needs another byte.
    let used = end % 8;
    stream.truncate(end.div_ceil(8));
    if used > 0 {
        stream[end / 8] &= (1 << used) - 1;
    }
    if !(1..=5).contains(&used) {
        stream.push(0);
    }
    stream.extend_from_slice(&EMPTY_STORED);
    Some(())
}

/// The position of the first bit of the last block, and of the first bit after the block. `None` if `stream` is not a deflate stream.
fn last_block(stream: &[u8]) -> Option<(usize, usize)> {
    let mut bits = Bits {
        stream,
        position: 0,
    };
    let mut tables = Tables::new();
    loop {
        let start = bits.position;
        let is_last = bits.read(1)? == 1;
        match bits.read(2)? {
            0 => bits.skip_stored()?,
            1 => {
                tables.set_fixed();
                bits.skip_symbols(&tables)?;
            }
            2 => {
                tables.read_dynamic(&mut bits)?;
                bits.skip_symbols(&tables)?;
            }
            _ => return None,
        }
        if is_last {
            return (bits.position <= stream.len() * 8).then_some((start, bits.position));
        }
    }
}

/// The lookup tables for the codes of a block.
struct Tables {
    /// The code for the lengths of dynamic codes (RFC 1951, 3.2.7).
    lengths: Code,
    literals: Table,
    distances: Table,
}

impl Tables {
    fn new() -> Self {
        Self {
            lengths: Code::default(),
            literals: Table::new(Symbol::of_literal),
            distances: Table::new(Symbol::of_distance),
        }
    }

    /// Sets the fixed codes (RFC 1951, 3.2.6).
    fn set_fixed(&mut self) {
        let mut lengths = [8; LITERAL_CODES];
        lengths[144..256].fill(9);
        lengths[256..280].fill(7);
        self.literals.fill(&lengths);
        self.distances.fill(&[5; DISTANCE_CODES]);
    }

    /// Reads the codes at the beginning of a block with dynamic codes (RFC 1951, 3.2.7).
    fn read_dynamic(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        let literals = bits.read(5)? + 257;
        let distances = bits.read(5)? + 1;
        let count = bits.read(4)? + 4;
        let mut lengths = [0; LENGTHS_ORDER.len()];
        for symbol in &LENGTHS_ORDER[..count] {
            lengths[*symbol] = u8::try_from(bits.read(3)?).ok()?;
        }
        self.lengths.fill(&lengths);
        let mut lengths = [0; LITERAL_CODES + DISTANCE_CODES];
        let mut at = 0;
        while at < literals + distances {
            let (symbol, length) = self.lengths.next(bits.peek())?;
            bits.position += length;
            let (value, times) = match symbol {
                16 => (*lengths.get(at.checked_sub(1)?)?, 3 + bits.read(2)?),
                17 => (0, 3 + bits.read(3)?),
                18 => (0, 11 + bits.read(7)?),
                length => (u8::try_from(length).ok()?, 1),
            };
            lengths.get_mut(at..at + times)?.fill(value);
            at += times;
        }
        self.literals.fill(&lengths[..literals]);
        self.distances
            .fill(&lengths[literals..literals + distances]);
        Some(())
    }
}

/// Reads a deflate stream bit by bit.
struct Bits<'a> {
    stream: &'a [u8],
    /// The position of the next bit.
    position: usize,
}

impl Bits<'_> {
    fn peek(&self) -> u64 {
        peek(self.stream, self.position)
    }

    fn read(&mut self, count: usize) -> Option<usize> {
        let value = self.peek() & ((1 << count) - 1);
        self.position += count;
        if self.position > self.stream.len() * 8 {
            return None;
        }
        usize::try_from(value).ok()
    }

    fn skip_stored(&mut self) -> Option<()> {
        let at = self.position.div_ceil(8);
        let &[low, high, not_low, not_high] = self.stream.get(at..at + 4)? else {
            return None;
        };
        if (low, high) != (!not_low, !not_high) {
            return None;
        }
        self.position = (at + 4 + usize::from(u16::from_le_bytes([low, high]))) * 8;
        Some(())
    }

    fn skip_symbols(&mut self, tables: &Tables) -> Option<()> {
        loop {
            self.skip_short_codes(tables);
            let next = self.peek();
            let symbol = tables.literals.decode(next);
            self.position += symbol.length();
            match symbol.kind() {
                Symbol::Literal => {}
                Symbol::Length => {
                    let distance = tables.distances.decode(next >> symbol.length());
                    if !distance.is_distance() {
                        return None;
                    }
                    self.position += distance.length();
                }
                Symbol::End => return Some(()),
                Symbol::Distance | Symbol::Unknown => return None,
            }
            if self.position >= self.stream.len() * 8 {
                return None;
            }
        }
    }

    /// Skips literals and repetitions whose codes the tables contain. Stops before any other symbol and shortly before the end of the
    /// stream.
    ///
    /// This function needs a considerable part of the compression time. CPUs cannot predict the symbols of a stream, so the loop has no
    /// branches on the kind of a symbol, and looks up the next symbol before it loads more bits.
    fn skip_short_codes(&mut self, tables: &Tables) {
        let used = self.position % 8;
        let (mut bits, mut count) = (self.peek(), 56 - used);
        let mut at = self.position / 8 + 7;
        if at > self.stream.len() {
            return;
        }
        while let Some(next) = self.stream.get(at..at + 8) {
            let symbol = tables.literals.lookup(bits);
            bits |= next.try_into().map_or(0, u64::from_le_bytes) << count;
            at += (63 - count) >> 3;
            count |= 56;
            let after_symbol = bits >> symbol.length();
            let distance = tables.distances.lookup(after_symbol);
            let is_length = symbol.is_length();
            // Use `&` and `|`, because `&&` and `||` would be branches.
            if !(symbol.is_literal_or_length() & (distance.is_distance() | !is_length)) {
                break;
            }
            let distance = distance.length() * usize::from(is_length);
            // With extra bits, the two symbols have at most 11 + 5 and 11 + 13 bits, so enough of the 56 bits are left for the next lookup.
            bits = after_symbol >> distance;
            count -= symbol.length() + distance;
            self.position = at * 8 - count;
        }
    }
}

/// Returns at least the next 57 bits. Bits after the end are zeros.
#[inline]
fn peek(stream: &[u8], position: usize) -> u64 {
    let at = position / 8;
    let word = match stream.get(at..at + 8) {
        Some(bytes) => bytes.try_into().map_or(0, u64::from_le_bytes),
        None => {
            let mut bytes = [0; 8];
            let rest = stream.get(at..).unwrap_or_default();
            bytes[..rest.len()].copy_from_slice(rest);
            u64::from_le_bytes(bytes)
        }
    };
    word >> (position % 8)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    use super::*;
    use crate::archive::tests::support::noise;

    fn by_libdeflate(content: &[u8], level: i32) -> Vec<u8> {
        let level = libdeflater::CompressionLvl::new(level).unwrap();
        let mut engine = libdeflater::Compressor::new(level);
        let mut stream = vec![0; engine.deflate_compress_bound(content.len())];
        let length = engine.deflate_compress(content, &mut stream).unwrap();
        stream.truncate(length);
        stream
    }

    fn by_zlib(content: &[u8], level: u32) -> Vec<u8> {
        let mut stream = Vec::with_capacity(2 * content.len() + 1000);
        Compress::new(Compression::new(level), false)
            .compress_vec(content, &mut stream, FlushCompress::Finish)
            .unwrap();
        stream
    }

    fn inflated(stream: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        flate2::bufread::DeflateDecoder::new(stream)
            .read_to_end(&mut content)
            .unwrap();
        content
    }

    /// Joins streams and decompresses the result.
    fn joined(mut streams: Vec<Vec<u8>>) -> Vec<u8> {
        let last = streams.pop().unwrap();
        for stream in &mut streams {
            make_appendable(stream).unwrap();
        }
        inflated(&[streams.concat(), last].concat())
    }

    fn contents() -> Vec<Vec<u8>> {
        let text: Vec<u8> = (0..60_000)
            .flat_map(|n: u32| n.to_string().into_bytes())
            .collect();
        vec![
            Vec::new(),
            b"x".to_vec(),
            b"Small enough for the fixed code.".to_vec(),
            vec![0; 300_000],
            noise(200_000),
            [text.clone(), noise(100_000), text].concat(),
        ]
    }

    #[test]
    fn streams_of_all_kinds_are_joined() {
        for first in contents() {
            for second in contents() {
                let content = [&first[..], &second, &first].concat();
                for level in [1, 5, 12] {
                    let streams = [&first, &second, &first].map(|it| by_libdeflate(it, level));
                    assert!(joined(streams.to_vec()) == content);
                }
                for level in [0, 1, 9] {
                    let streams = [&first, &second, &first].map(|it| by_zlib(it, level));
                    assert!(joined(streams.to_vec()) == content);
                }
            }
        }
    }

    #[test]
    fn padding_and_bytes_after_the_end_do_not_matter() {
        let mut seen = [false; 8];
        for content in (0..60).map(noise).chain(contents()) {
            for mut stream in [by_libdeflate(&content, 6), by_zlib(&content, 9)] {
                let (_, end) = last_block(&stream).unwrap();
                seen[end % 8] = true;
                if end % 8 > 0 {
                    *stream.last_mut().unwrap() |= 0xff << (end % 8);
                }
                let streams = vec![stream.clone(), stream.clone()];
                assert!(joined(streams) == content.repeat(2), "{end}");
                stream.extend_from_slice(&[0xff; 9]);
                let streams = vec![stream.clone(), stream];
                assert!(joined(streams) == content.repeat(2), "{end}");
            }
        }
        assert_eq!(seen, [true; 8]);
    }

    #[test]
    fn stored_block_with_a_wrong_complement_is_refused() {
        let mut stream = vec![1, 1, 0, 0xfe, 0xff, b'x'];
        assert!(last_block(&stream).is_some());
        stream[4] = 0xfe;
        assert!(make_appendable(&mut stream).is_none());
    }

    #[test]
    fn truncated_stream_is_refused() {
        let stream = by_libdeflate(&contents()[5], 6);
        for length in (0..stream.len()).step_by(997).chain([stream.len() - 2]) {
            assert!(make_appendable(&mut stream[..length].to_vec()).is_none());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn any_content_is_joined(
            first in prop::collection::vec(prop_oneof![Just(b'a'), any::<u8>()], 0..5000),
            second in prop::collection::vec(0..4_u8, 0..5000),
            level in 1..=12,
        ) {
            let streams = vec![by_libdeflate(&first, level), by_libdeflate(&second, level)];
            prop_assert_eq!(joined(streams), [first, second].concat());
        }

        #[test]
        fn any_bytes_cause_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = make_appendable(&mut bytes.clone());
        }
    }
}
