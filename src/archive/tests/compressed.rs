//! Compressed archives, complete and damaged.

use std::io::Read;
use std::path::Path;

use super::raw::Raw;
use super::support::{chain, directory, noise, python, sh, temporary};
use crate::archive::{Compression, Decoder, unpack_file};
use crate::fs;

const KINDS: [Compression; 4] = [
    Compression::Gzip,
    Compression::Bzip2,
    Compression::Xz,
    Compression::Zstd,
];

fn archive() -> Vec<u8> {
    Raw::default()
        .file("noise", &noise(300_000))
        .file("zeros", &vec![0; 500_000])
        .finish()
}

/// Compresses with another program, or with a module of Python.
fn compress(kind: Compression, content: &[u8]) -> Vec<u8> {
    let temp = temporary();
    let file = temp.path().join("content");
    fs::write(&file, content).unwrap();
    let with_module = |module: &str| {
        let script = format!(
            "import sys, {module}; sys.stdout.buffer.write({module}.compress(open(sys.argv[1], 'rb').read()))"
        );
        python(&script, &[&file])
    };
    match kind {
        Compression::None => content.to_vec(),
        Compression::Gzip => with_module("gzip"),
        Compression::Bzip2 => with_module("bz2"),
        Compression::Xz => with_module("lzma"),
        Compression::Zstd => sh("zstd -q -c --check \"$1\"", &[&file]),
    }
}

fn decode(compressed: &[u8]) -> Result<Vec<u8>, String> {
    let run = || -> std::io::Result<Vec<u8>> {
        let mut decoder = Decoder::new(compressed)?;
        let mut content = Vec::new();
        decoder.read_to_end(&mut content)?;
        decoder.finish()?;
        Ok(content)
    };
    run().map_err(|error| chain(&error))
}

/// Unpacks data from a file whose name does not show its format. Returns the error.
fn unpack_error(compressed: &[u8]) -> Option<String> {
    let temp = temporary();
    let file = temp.path().join("archive.tgz");
    fs::write(&file, compressed).unwrap();
    let destination = directory(temp.path(), "destination");
    unpack_file(&file, &destination)
        .err()
        .map(|error| chain(&error))
}

#[test]
fn all_formats_are_detected_and_decoded() {
    let archive = archive();
    for kind in KINDS {
        let compressed = compress(kind, &archive);
        let decoder = Decoder::new(&compressed[..]).unwrap();
        assert_eq!(decoder.compression(), kind);
        assert!(decode(&compressed).unwrap() == archive, "{kind}");
        assert_eq!(unpack_error(&compressed), None, "{kind}");
    }
    assert_eq!(unpack_error(&archive), None);
}

#[test]
fn several_members_are_decoded_as_one() {
    let archive = archive();
    let (first, second) = archive.split_at(123_456);
    for kind in KINDS {
        let compressed = [
            compress(kind, first),
            compress(kind, b""),
            compress(kind, second),
        ]
        .concat();
        assert!(decode(&compressed).unwrap() == archive, "{kind}");
        assert_eq!(unpack_error(&compressed), None, "{kind}");
    }
}

#[test]
fn only_zeros_may_follow() {
    let archive = archive();
    for kind in KINDS {
        let compressed = compress(kind, &archive);
        let with = |rest: &[u8]| [&compressed[..], rest].concat();
        assert!(decode(&with(&[0; 100_000])).unwrap() == archive, "{kind}");
        for garbage in [&b"garbage"[..], b"\0\0\0garbage", b"x", b"B", &[0x1f]] {
            let expected = format!("{kind} data is followed by other bytes");
            let damaged = with(garbage);
            assert_eq!(decode(&damaged).unwrap_err(), expected);
            let error = unpack_error(&damaged).unwrap();
            assert_eq!(error, format!("failed to read the archive: {expected}"));
        }
    }
}

#[test]
fn truncated_stream_is_reported() {
    let archive = archive();
    for kind in KINDS {
        let compressed = compress(kind, &archive);
        let tenths = (1..10).map(|tenth| compressed.len() * tenth / 10);
        // The tar archive ends before the compression's trailer. Only reading to the end of the file shows that the trailer is missing.
        let ends = (1..=12).map(|missing| compressed.len() - missing);
        for length in tenths.chain(ends) {
            let expected = format!("{kind} data ends early");
            let cut = &compressed[..length];
            assert_eq!(decode(cut).unwrap_err(), expected, "{length}");
            let error = unpack_error(cut).unwrap();
            assert!(error.ends_with(&expected), "{length}: {error}");
        }
    }
}

#[test]
fn wrong_checksum_after_the_archives_end_is_reported() {
    let archive = archive();
    for (kind, from_end, expected) in [
        (
            Compression::Gzip,
            8,
            "gzip data is damaged: checksum does not match",
        ),
        (
            Compression::Gzip,
            1,
            "gzip data is damaged: checksum does not match",
        ),
        (Compression::Bzip2, 3, "bzip2 data is damaged"),
        (Compression::Xz, 10, "xz data is damaged"),
        (
            Compression::Zstd,
            1,
            "zstd data is damaged: checksum does not match",
        ),
    ] {
        let mut compressed = compress(kind, &archive);
        let position = compressed.len() - from_end;
        compressed[position] ^= 0x10;
        let error = unpack_error(&compressed).unwrap();
        assert!(error.contains(expected), "{error}");
        assert!(decode(&compressed).unwrap_err().contains(expected));
    }
}

#[test]
fn damaged_data_is_reported() {
    let archive = archive();
    for kind in KINDS {
        let compressed = compress(kind, &archive);
        for part in 1..8 {
            let mut damaged = compressed.clone();
            let position = damaged.len() * part / 8;
            for byte in &mut damaged[position..position + 4] {
                *byte = !*byte;
            }
            let error = decode(&damaged).unwrap_err();
            let known = error.starts_with(&format!("{kind} data is damaged"))
                || error == format!("{kind} data ends early");
            assert!(known, "{error}");
        }
    }
}

#[test]
fn empty_and_unknown_files_are_distinguished() {
    let unknown = "neither a tar archive nor compressed data of a known kind";
    assert_eq!(decode(b"").unwrap_err(), "the file is empty");
    assert_eq!(decode(b"x").unwrap_err(), unknown);
    assert_eq!(decode(&noise(5000)).unwrap_err(), unknown);
    assert_eq!(decode(b"PK\x03\x04").unwrap_err(), unknown);
    let error = unpack_error(b"").unwrap();
    assert_eq!(error, "failed to read the archive: the file is empty");
}

#[test]
fn compressed_data_without_an_archive_is_an_error() {
    for kind in KINDS {
        let error = unpack_error(&compress(kind, b"hello")).unwrap();
        assert_eq!(error, "the data is not a tar archive", "{kind}");
    }
}

#[test]
fn v7_archive_is_detected_by_its_checksum() {
    let temp = temporary();
    let source = directory(temp.path(), "source");
    fs::write(&source.join("f"), b"x").unwrap();
    let archive = sh("tar --format=v7 -cf - -C \"$1\" .", &[&source]);
    assert_ne!(&archive[257..262], b"ustar");
    assert_eq!(Compression::detect(&archive), Some(Compression::None));
}

#[test]
fn data_that_needs_too_much_memory_is_refused() {
    let temp = temporary();
    let file = temp.path().join("content");
    fs::write(&file, &archive()).unwrap();
    // Without the size of the content, zstd writes the requested window size.
    let zstd = sh("cat \"$1\" | zstd -q -c --long=30", &[&file]);
    assert_eq!(
        decode(&zstd).unwrap_err(),
        "zstd data needs more than 256 MiB of memory to decode"
    );
    // The header of this xz file is changed so that it requests a dictionary of 2 GiB.
    let xz = python(
        "import sys, lzma, zlib, struct\n\
         data = bytearray(lzma.compress(open(sys.argv[1], 'rb').read()))\n\
         length = (data[12] + 1) * 4\n\
         data[16] = 38\n\
         data[12 + length - 4:12 + length] = struct.pack('<I', zlib.crc32(data[12:12 + length - 4]))\n\
         sys.stdout.buffer.write(data)",
        &[&file],
    );
    assert_eq!(
        decode(&xz).unwrap_err(),
        "xz data needs more than 256 MiB of memory to decode"
    );
    // The highest usual levels need less than the limit.
    for script in ["xz -9 -T1 -c \"$1\"", "cat \"$1\" | zstd -q -c --ultra -22"] {
        assert!(
            decode(&sh(script, &[&file])).unwrap() == archive(),
            "{script}"
        );
    }
}

#[test]
fn error_of_the_input_is_returned_unchanged() {
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::Error::other("connection reset"));
            }
            let compressed = gzip_of_noise();
            let start = compressed.len() - self.0;
            let length = buffer.len().min(self.0).min(1000);
            buffer[..length].copy_from_slice(&compressed[start..start + length]);
            self.0 -= length;
            Ok(length)
        }
    }
    let length = gzip_of_noise().len();
    let error = Decoder::new(Broken(length)).unwrap().finish().unwrap_err();
    assert_eq!(chain(&error), "connection reset");
}

fn gzip_of_noise() -> Vec<u8> {
    use std::io::Write;
    let mut writer = crate::archive::GzipWriter::new(Vec::new(), 1).unwrap();
    writer.write_all(&archive()[..20_000]).unwrap();
    let mut compressed = writer.finish().unwrap();
    compressed.truncate(15_000);
    compressed
}

#[test]
fn missing_archive_is_reported() {
    let error = unpack_file(Path::new("/nowhere/a.tgz"), Path::new("/nowhere")).unwrap_err();
    assert!(chain(&error).starts_with("failed to open `/nowhere/a.tgz`"));
}
