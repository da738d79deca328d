//! Archives written entry by entry.

use super::support::{chain, python, run, temporary};
use crate::archive::{AppendError, EntryHeader, EntryWriter, Kind};
use crate::fs;

#[test]
fn entries_are_written_with_their_headers() {
    let mut archive = EntryWriter::new(Vec::new());
    let long = format!("./{}", "n".repeat(180));
    let entries = [
        EntryHeader::new(Kind::Directory, b"./", 0o755),
        EntryHeader {
            size: 5,
            uid: 1000,
            gid: 1000,
            user: "vcap",
            group: "vcap",
            mtime: 1_600_000_000,
            ..EntryHeader::new(Kind::File, b"./release.MF", 0o644)
        },
        EntryHeader {
            link: long.as_bytes(),
            ..EntryHeader::new(Kind::Symlink, long.as_bytes(), 0o777)
        },
        EntryHeader {
            link: b"./release.MF",
            ..EntryHeader::new(Kind::HardLink, b"same", 0o644)
        },
    ];
    for entry in &entries {
        let content: &[u8] = if entry.size > 0 { b"hello" } else { b"" };
        archive.append(entry, content).unwrap();
    }
    let archive = archive.finish().unwrap();
    assert_eq!(archive.len(), 10_240);

    let temp = temporary();
    let file = temp.path().join("archive.tar");
    fs::write(&file, &archive).unwrap();
    let listing = run(
        "tar",
        &["--utc".as_ref(), "-tvf".as_ref(), file.as_os_str()],
    );
    let expected = format!(
        "drwxr-xr-x root/root         0 1970-01-01 00:00 ./\n\
         -rw-r--r-- vcap/vcap         5 2020-09-13 12:26 ./release.MF\n\
         lrwxrwxrwx root/root         0 1970-01-01 00:00 {long} -> {long}\n\
         hrw-r--r-- root/root         0 1970-01-01 00:00 same link to ./release.MF\n"
    );
    assert_eq!(String::from_utf8(listing).unwrap(), expected);
    let content = python(
        "import sys, tarfile; print(tarfile.open(sys.argv[1]).extractfile('same').read())",
        &[&file],
    );
    assert_eq!(content, b"b'hello'\n");
}

#[test]
fn content_of_wrong_size_is_an_error() {
    for content in [&b"four"[..], b"sixsix"] {
        let mut archive = EntryWriter::new(Vec::new());
        let entry = EntryHeader {
            size: 5,
            ..EntryHeader::new(Kind::File, b"./blob.tgz", 0o644)
        };
        let error = archive.append(&entry, content).unwrap_err();
        assert!(matches!(error, AppendError::Size { .. }));
        assert_eq!(
            chain(&error),
            "the content of `./blob.tgz` does not have the 5 bytes that were announced"
        );
    }
}
