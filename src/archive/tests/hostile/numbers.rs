//! Invalid sizes, lists of pieces and headers.

use super::Case;
use crate::archive::tests::raw::Raw;

/// The position of the size in a header.
const SIZE: std::ops::Range<usize> = 124..136;

pub(super) fn sparse(pieces: &[(u64, u64)], real_size: u64, content: &[u8]) -> Raw {
    Raw::default().entry(b'S', b"sparse", b"", content, |header| {
        let fields = header.as_gnu_mut().unwrap();
        for (field, (offset, length)) in fields.sparse.iter_mut().zip(pieces) {
            field.set_offset(*offset);
            field.set_length(*length);
        }
        fields.set_real_size(real_size);
    })
}

fn pax_sparse(map: &[u8], real_size: &[u8]) -> Raw {
    let mut content = map.to_vec();
    content.resize(512, 0);
    content.extend_from_slice(b"hello");
    Raw::default()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.realsize", real_size),
        ])
        .file("GNUSparseFile.0/sparse", &content)
}

pub(super) fn archives() -> Vec<Case> {
    vec![
        (
            "a negative size",
            Raw::default().entry(b'0', b"f", b"", b"", |header| {
                header.as_mut_bytes()[SIZE].fill(0xff)
            }),
            Some("has no valid size"),
        ),
        (
            "a size that is not a number",
            Raw::default().entry(b'0', b"f", b"", b"", |header| {
                header.as_mut_bytes()[SIZE].fill(b'9')
            }),
            Some("has no valid size"),
        ),
        (
            "a negative size of PAX",
            Raw::default().pax(&[("size", b"-1")]).file("f", b""),
            Some("the size is not a number"),
        ),
        (
            "a size of PAX beyond the end",
            Raw::default()
                .pax(&[("size", b"18446744073709551615")])
                .file("f", b"x"),
            Some("ends early, in the middle of `f`"),
        ),
        (
            "a directory with an endless size",
            Raw::default().entry(b'5', b"d", b"", b"", |header| header.set_size(1 << 60)),
            Some("ends early, in the middle of `d`"),
        ),
        (
            "a sparse piece beyond the size",
            sparse(&[(0, 5)], 4, b"hello"),
            Some("a piece lies beyond the end of the file"),
        ),
        (
            "sparse pieces that overlap",
            sparse(&[(512, 512), (0, 5)], 4096, &[0; 517]),
            Some("its pieces overlap or are not in order"),
        ),
        (
            "a sparse file that lacks content",
            sparse(&[(0, 512), (1024, 512)], 4096, b"hello"),
            Some("its pieces are not as long as its content"),
        ),
        (
            "a sparse piece with the largest offset",
            sparse(&[(u64::MAX >> 1, 5)], 5, b"hello"),
            Some("a piece lies beyond the largest file"),
        ),
        (
            "a sparse file that continues after the end",
            sparse(&[(0, 5)], 5, b"").entry(b'S', b"s", b"", b"", |header| {
                header.as_gnu_mut().unwrap().set_is_extended(true)
            }),
            Some("its pieces are not as long as its content"),
        ),
        (
            "a list of pieces that is not a list",
            pax_sparse(b"x\n", b"5"),
            Some("its list of pieces is malformed"),
        ),
        (
            "a list of pieces without an end",
            pax_sparse(b"9\n0\n5\n", b"5"),
            Some("its list of pieces is malformed"),
        ),
        (
            "a list of too many pieces",
            pax_sparse(b"99999999999\n", b"5"),
            Some("it has too many pieces"),
        ),
        (
            "a listed piece beyond the size",
            pax_sparse(b"1\n0\n5\n", b"4"),
            Some("a piece lies beyond the end of the file"),
        ),
        (
            "a sparse file without a size",
            Raw::default()
                .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")])
                .file("s", &[b"0\n".as_slice(), &[0; 510]].concat()),
            Some("its size is missing"),
        ),
        (
            "a sparse file of an unknown version",
            Raw::default()
                .pax(&[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0")])
                .file("s", b"x"),
            Some("the version of its format is unknown"),
        ),
        (
            "fewer pieces than were announced",
            Raw::default()
                .pax(&[
                    ("GNU.sparse.size", b"9"),
                    ("GNU.sparse.numblocks", b"2"),
                    ("GNU.sparse.offset", b"0"),
                    ("GNU.sparse.numbytes", b"1"),
                ])
                .file("s", b"x"),
            Some("the list of pieces is not complete"),
        ),
        (
            "a malformed extended header",
            Raw::default()
                .entry(b'x', b"x", b"", b"99999 path=a\n", |_| {})
                .file("f", b"x"),
            Some("a record is malformed"),
        ),
        (
            "an extended header without an entry",
            Raw::default().pax(&[("path", b"a")]),
            Some("ends early, in a header"),
        ),
        (
            "an unknown type",
            Raw::default().entry(b'Z', b"z", b"", b"", |_| {}),
            None,
        ),
        (
            "a part of another volume",
            Raw::default().entry(b'M', b"m", b"", b"x", |_| {}),
            Some("unsupported type `M`"),
        ),
        (
            "devices",
            Raw::default().entry(b'3', b"null", b"", b"", |_| {}).entry(
                b'4',
                b"../outside/disk",
                b"",
                b"",
                |_| {},
            ),
            Some("contains `..`"),
        ),
        (
            "a device in the way",
            Raw::default()
                .entry(b'3', b"d", b"", b"", |_| {})
                .file("d/f", b"x"),
            None,
        ),
        (
            "a damaged header",
            Raw::default().file("f", b"x").data(&[b'x'; 512]),
            Some("header at byte 1024 is damaged"),
        ),
        (
            "no archive",
            Raw::default().data(&[b'x'; 2048]),
            Some("not a tar archive"),
        ),
    ]
}
