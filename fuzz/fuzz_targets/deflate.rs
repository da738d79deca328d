//! Joined deflate streams. Content that is compressed in parts and joined must decompress to the same content. Any bytes, taken as a
//! deflate stream, must not cause a panic; if they are valid, they must decompress to the same content after another stream is
//! appended.
#![no_main]

use std::io::Read;

use bosh_agent::archive::gzip::make_appendable;
use flate2::{Compress, Compression, FlushCompress};
use libdeflater::{CompressionLvl, Compressor};
use libfuzzer_sys::fuzz_target;

/// Levels 0 to 9 are zlib's, the rest are libdeflate's levels 1 to 12.
const LEVELS: usize = 22;

fuzz_target!(|data: &[u8]| {
    check_joined_parts(data);
    check_any_stream(data);
});

/// The first byte chooses the number of parts and their levels, the others are the content.
fn check_joined_parts(data: &[u8]) {
    let Some((choice, content)) = data.split_first() else {
        return;
    };
    let choice = usize::from(*choice);
    let length = content.len() / (1 + choice % 5) + 1;
    let mut joined = Vec::new();
    for (index, part) in content.chunks(length).enumerate() {
        let mut stream = compressed(part, (choice + 7 * index) % LEVELS);
        make_appendable(&mut stream).expect("a compressor wrote the stream");
        joined.extend_from_slice(&stream);
    }
    joined.extend_from_slice(&compressed(b"", choice % LEVELS));
    assert_eq!(decompressed(&joined).expect("a valid stream"), content);
}

fn check_any_stream(data: &[u8]) {
    let content = decompressed(data);
    let mut stream = data.to_vec();
    if make_appendable(&mut stream).is_none() {
        assert!(content.is_none(), "a valid stream was refused");
        return;
    }
    let appended = b"appended";
    stream.extend_from_slice(&compressed(appended, 6));
    let expected = content.map(|content| [&content[..], appended].concat());
    assert_eq!(decompressed(&stream), expected);
}

fn compressed(content: &[u8], level: usize) -> Vec<u8> {
    if let Some(level @ 1..) = level.checked_sub(9) {
        let level = CompressionLvl::new(level as i32).expect("a level from 1 to 12");
        let mut compressor = Compressor::new(level);
        let mut stream = vec![0; compressor.deflate_compress_bound(content.len())];
        let length = compressor
            .deflate_compress(content, &mut stream)
            .expect("enough space");
        stream.truncate(length);
        return stream;
    }
    let mut stream = Vec::with_capacity(2 * content.len() + 1000);
    Compress::new(Compression::new(level as u32), false)
        .compress_vec(content, &mut stream, FlushCompress::Finish)
        .expect("enough space");
    stream
}

fn decompressed(stream: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    flate2::bufread::DeflateDecoder::new(stream)
        .read_to_end(&mut content)
        .ok()?;
    Some(content)
}
