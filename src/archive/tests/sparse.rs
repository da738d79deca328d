//! Files with holes, written and read by various programs.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::raw::Raw;
use super::support::{
    available, describe, describe_below, directory, noise, packed, python, sh, temporary,
};
use crate::archive::{Reader, unpack};
use crate::fs;

/// Creates a file of `length` bytes with data at the offsets.
fn holes(path: &Path, length: u64, data: &[(u64, usize)]) {
    let mut file: File = fs::create(path).unwrap();
    for (offset, bytes) in data {
        file.seek(SeekFrom::Start(*offset)).unwrap();
        file.write_all(&noise(*bytes)).unwrap();
    }
    file.set_len(length).unwrap();
}

/// Files with holes in all positions, and one with more pieces than a header and one extension can hold.
fn make(tree: &Path) {
    const MIB: u64 = 1 << 20;
    holes(&tree.join("all"), 3 * MIB, &[]);
    holes(&tree.join("begin"), 3 * MIB + 5, &[(3 * MIB - 8192, 8197)]);
    holes(&tree.join("end"), 3 * MIB, &[(0, 5000)]);
    holes(&tree.join("middle"), 3 * MIB + 1, &[(0, 1), (3 * MIB, 1)]);
    let many: Vec<_> = (0..60).map(|index| (index * MIB / 4, 4096)).collect();
    holes(&tree.join("many"), 16 * MIB + 77, &many);
    holes(&tree.join("dense"), 5000, &[(0, 5000)]);
    holes(&tree.join("n".repeat(150)), 2 * MIB, &[(MIB, 100)]);
}

fn blocks(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks()
}

#[test]
fn all_formats_of_gnu_tar_are_unpacked_with_holes() {
    let temp = temporary();
    let source = directory(temp.path(), "source");
    make(&source);
    for (index, options) in [
        "--format=gnu",
        "--format=oldgnu",
        "--format=pax --sparse-version=0.0",
        "--format=pax --sparse-version=0.1",
        "--format=pax --sparse-version=1.0",
    ]
    .iter()
    .enumerate()
    {
        let archive = sh(
            &format!("tar --sparse {options} -cf - -C \"$1\" ."),
            &[&source],
        );
        assert!(archive.len() < 2 << 20, "{options}: not sparse");
        let ours = directory(temp.path(), &format!("ours-{index}"));
        unpack(&archive[..], &ours).unwrap_or_else(|error| panic!("{options}: {error}"));
        assert_eq!(describe(&ours), describe(&source), "{options}");
        assert!(
            blocks(&ours.join("many")) < 4096,
            "{options}: holes were filled"
        );
    }
}

#[test]
fn bsdtar_archive_is_unpacked_with_holes() {
    if !available("bsdtar") {
        return;
    }
    let temp = temporary();
    let source = directory(temp.path(), "source");
    make(&source);
    let archive = sh("bsdtar -cf - -C \"$1\" .", &[&source]);
    assert!(archive.len() < 2 << 20, "not sparse");
    let ours = directory(temp.path(), "ours");
    unpack(&archive[..], &ours).unwrap();
    assert_eq!(describe(&ours), describe(&source));
    assert!(blocks(&ours.join("many")) < 4096);
}

#[test]
fn packed_holes_are_read_by_other_programs() {
    let temp = temporary();
    let source = directory(temp.path(), "source");
    make(&source);
    let archive = packed(&source);
    assert!(archive.len() < 2 << 20, "not sparse");
    let file = temp.path().join("archive.tar");
    fs::write(&file, &archive).unwrap();
    let expected = describe(&source);

    let ours = directory(temp.path(), "ours");
    unpack(&archive[..], &ours).unwrap();
    assert_eq!(describe(&ours), expected);

    let gnu = directory(temp.path(), "gnu");
    sh("tar --no-same-owner -xpf \"$1\" -C \"$2\"", &[&file, &gnu]);
    assert_eq!(describe(&gnu), expected);

    let python_made = directory(temp.path(), "python");
    python(
        "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])",
        &[&file, &python_made],
    );
    assert_eq!(describe(&python_made), expected);

    if available("bsdtar") {
        let bsd = directory(temp.path(), "bsd");
        sh(
            "bsdtar --no-same-owner -xpf \"$1\" -C \"$2\"",
            &[&file, &bsd],
        );
        assert_eq!(describe_below(&bsd), describe_below(&source));
    }
}

#[test]
fn hole_of_ten_gibibytes_is_not_written() {
    let temp = temporary();
    let source = directory(temp.path(), "source");
    let size = 10 << 30;
    holes(
        &source.join("huge"),
        size,
        &[(0, 4096), (size - 4096, 4096)],
    );
    let archive = packed(&source);
    assert!(archive.len() < 64 << 10);
    let ours = directory(temp.path(), "ours");
    unpack(&archive[..], &ours).unwrap();
    let unpacked = fs::metadata(&ours.join("huge")).unwrap();
    assert_eq!(unpacked.len(), size);
    assert!(unpacked.blocks() < 100);

    let gnu = directory(temp.path(), "gnu");
    let file = temp.path().join("archive.tar");
    fs::write(&file, &archive).unwrap();
    sh("tar -xf \"$1\" -C \"$2\"", &[&file, &gnu]);
    assert_eq!(fs::metadata(&gnu.join("huge")).unwrap().len(), size);
    let listed = python(
        "import sys, tarfile; print([e.size for e in tarfile.open(sys.argv[1]) if e.isfile()][0])",
        &[&file],
    );
    assert_eq!(String::from_utf8(listed).unwrap().trim(), size.to_string());
    if available("bsdtar") {
        let listed = sh("bsdtar -tvf \"$1\"", &[&file]);
        assert!(
            String::from_utf8(listed)
                .unwrap()
                .contains(&size.to_string())
        );
    }
}

#[test]
fn large_size_is_read_in_all_formats() {
    let size: u64 = 9 << 30;
    let base_256 = Raw::default().entry(b'0', b"huge", b"", b"", |header| header.set_size(size));
    let pax = Raw::default()
        .pax(&[("size", size.to_string().as_bytes())])
        .file("huge", b"");
    for archive in [base_256, pax] {
        let archive = archive.unfinished();
        let mut reader = Reader::new(&archive[..]);
        assert_eq!(reader.next_entry().unwrap().unwrap().size, size);
    }
}

#[test]
fn full_content_has_zeros_for_holes() {
    let scratch = temporary();
    let tree = directory(scratch.path(), "tree");
    make(&tree);
    for format in ["gnu", "pax"] {
        let archive = sh(
            &format!("tar --sparse --format={format} -cf - -C \"$1\" ."),
            &[&tree],
        );
        let mut reader = Reader::new(archive.as_slice());
        let mut files = 0;
        while let Some(entry) = reader.next_entry().unwrap() {
            let path = tree.join(crate::archive::entry::normalize(&entry.name).unwrap());
            let mut whole = Vec::new();
            std::io::Read::read_to_end(&mut reader.whole(&entry), &mut whole).unwrap();
            if path.is_file() {
                assert!(whole == fs::read(&path).unwrap(), "{}", path.display());
                files += 1;
            }
        }
        assert_eq!(files, 7);
    }
}
