//! Compressed content, read by other programs.

use std::io::Write;

use super::support::{noise, python, sh, temporary};
use crate::archive::{Compress, GzipWriter};
use crate::fs;

fn compressed(content: &[u8], level: u32, cut: usize) -> Vec<u8> {
    let mut writer = GzipWriter::new(Vec::new(), level).unwrap();
    for part in content.chunks(cut) {
        writer.write_all(part).unwrap();
        writer.flush().unwrap();
    }
    writer.finish().unwrap()
}

fn content() -> Vec<u8> {
    let text: Vec<u8> = (0..40_000)
        .flat_map(|n: u32| n.to_string().into_bytes())
        .collect();
    [noise(200_000), text].concat()
}

#[test]
fn gzip_and_python_read_one_member() {
    let temp = temporary();
    let file = temp.path().join("content.gz");
    for content in [content(), Vec::new(), noise(128 * 1024)] {
        for level in [0, 1, 6, 9, 100] {
            fs::write(&file, &compressed(&content, level, 1 << 20)).unwrap();
            assert!(sh("gzip -dc \"$1\"", &[&file]) == content);
            // There is one member: no data is left after it.
            let rest = python(
                "import sys, zlib\n\
                 decoder = zlib.decompressobj(31)\n\
                 decoder.decompress(open(sys.argv[1], 'rb').read())\n\
                 print(decoder.eof, len(decoder.unused_data))",
                &[&file],
            );
            assert_eq!(String::from_utf8(rest).unwrap().trim(), "True 0");
        }
    }
}

#[test]
fn output_does_not_depend_on_the_number_of_threads() {
    let content: Vec<u8> = content().into_iter().cycle().take(5_300_000).collect();
    for content in [&content[..], &content[..2 << 20], &content[..(2 << 20) + 1]] {
        let outputs: Vec<Vec<u8>> = [0, 1, 2, 4, 8]
            .map(|threads| {
                let mut writer = GzipWriter::with_threads(Vec::new(), 6, threads).unwrap();
                writer.write_all(content).unwrap();
                writer.finish().unwrap()
            })
            .into();
        assert!(outputs.iter().all(|output| *output == outputs[0]));
        let temp = temporary();
        let file = temp.path().join("content.gz");
        fs::write(&file, &outputs[0]).unwrap();
        assert!(sh("gzip -dc \"$1\"", &[&file]) == content);
    }
}

#[test]
fn dense_content_is_stored_between_compressed_content() {
    let text: Vec<u8> = b"text ".repeat(700_000);
    // Without the mark, this content would be compressed.
    let dense: Vec<u8> = b"data ".repeat(700_000);
    let outputs: Vec<Vec<u8>> = [0, 1, 2, 4]
        .map(|threads| {
            let mut writer = GzipWriter::with_threads(Vec::new(), 6, threads).unwrap();
            for (content, is_dense) in [(&text, false), (&dense, true), (&text, false)] {
                writer.expect_dense(is_dense);
                writer.write_all(content).unwrap();
            }
            writer.finish().unwrap()
        })
        .into();
    assert!(outputs.iter().all(|output| *output == outputs[0]));
    // Two blocks of 1 MiB contain only dense content, and are stored.
    let stored = outputs[0].len();
    assert!((2 << 20..(2 << 20) + 100_000).contains(&stored), "{stored}");
    let temp = temporary();
    let file = temp.path().join("content.gz");
    fs::write(&file, &outputs[0]).unwrap();
    assert!(sh("gzip -dc \"$1\"", &[&file]) == [&text[..], &dense, &text].concat());
}

#[test]
fn failing_writer_ends_the_threads() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            // There is space for the header.
            if bytes.len() == 10 {
                Ok(10)
            } else {
                Err(std::io::ErrorKind::StorageFull.into())
            }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut writer = GzipWriter::with_threads(Full, 6, 2).unwrap();
    let error = writer.write_all(&noise(20 << 20)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn header_has_no_time_and_no_name() {
    for level in [1, 6, 9] {
        let compressed = compressed(b"x", level, 1);
        assert_eq!(compressed[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    }
}

#[test]
fn output_does_not_depend_on_the_size_of_writes() {
    let content = content();
    for level in [0, 1, 6] {
        let whole = compressed(&content, level, content.len());
        for cut in [999, 131_072, 131_073] {
            assert!(compressed(&content, level, cut) == whole, "{level} {cut}");
        }
    }
}
