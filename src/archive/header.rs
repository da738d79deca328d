//! Writes the headers of tar entries in GNU format, with the same bytes as GNU tar.

use std::io::{self, Write};

use tar::{GnuExtSparseHeader, GnuHeader, GnuSparseHeader, Header};

use crate::archive::BLOCK;
use crate::archive::entry::Kind;
use crate::archive::number;
use crate::archive::sparse::Piece;

/// The contents of an entry's header. Names are written as they are, including a leading `./`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryHeader<'a> {
    /// The name, which ends in `/` for a directory.
    pub name: &'a [u8],
    /// The target of a symbolic or hard link; empty for other kinds.
    pub link: &'a [u8],
    /// The kind.
    pub kind: Kind,
    /// The permission bits, including setuid, setgid and sticky.
    pub mode: u32,
    /// The number of the user.
    pub uid: u32,
    /// The number of the group.
    pub gid: u32,
    /// The name of the user; empty if it has none. It is truncated to 32 bytes, as in GNU tar.
    pub user: &'a str,
    /// The name of the group, with the same rules as for `user`.
    pub group: &'a str,
    /// The modification time, in seconds since 1970.
    pub mtime: i64,
    /// The length of the unpacked file, in bytes; 0 for other kinds.
    pub size: u64,
    /// The major and minor number of a device.
    pub device: Option<(u32, u32)>,
}

impl<'a> EntryHeader<'a> {
    /// A header with defaults: owned by root, modified in 1970, without content.
    #[must_use]
    pub(crate) fn new(kind: Kind, name: &'a [u8], mode: u32) -> Self {
        Self {
            name,
            link: b"",
            kind,
            mode,
            uid: 0,
            gid: 0,
            user: "root",
            group: "root",
            mtime: 0,
            size: 0,
            device: None,
        }
    }
}

/// Writes the header of an entry, after the entries for long names, and before the extension headers for more pieces of a sparse file.
pub(super) fn write(
    out: &mut impl Write,
    entry: &EntryHeader<'_>,
    pieces: Option<&[Piece]>,
) -> io::Result<()> {
    // GNU tar writes the link target before the name.
    write_long(out, b'K', entry.link)?;
    write_long(out, b'L', entry.name)?;

    let mut header = Header::new_gnu();
    let fields = gnu(&mut header)?;
    fill(&mut fields.name, entry.name);
    fill(&mut fields.linkname, entry.link);
    fill(&mut fields.uname, entry.user.as_bytes());
    fill(&mut fields.gname, entry.group.as_bytes());
    number::write(&mut fields.mode, u64::from(entry.mode & 0o7777));
    number::write(&mut fields.uid, u64::from(entry.uid));
    number::write(&mut fields.gid, u64::from(entry.gid));
    number::write_signed(&mut fields.mtime, entry.mtime);
    number::write(&mut fields.size, entry.size);
    fields.typeflag = [entry.kind.to_type()];
    if let Some((major, minor)) = entry.device {
        number::write(&mut fields.dev_major, u64::from(major));
        number::write(&mut fields.dev_minor, u64::from(minor));
    }
    let rest = match pieces {
        None => &[],
        Some(pieces) => {
            let (in_header, rest) = pieces.split_at(pieces.len().min(fields.sparse.len()));
            fields.typeflag = *b"S";
            number::write(
                &mut fields.size,
                pieces.iter().map(|piece| piece.length).sum(),
            );
            number::write(&mut fields.realsize, entry.size);
            fill_pieces(&mut fields.sparse, in_header);
            fields.isextended = [u8::from(!rest.is_empty())];
            rest
        }
    };
    write_block(out, &mut header)?;

    let mut extensions = rest
        .chunks(GnuExtSparseHeader::new().sparse().len())
        .peekable();
    while let Some(pieces) = extensions.next() {
        let mut extension = GnuExtSparseHeader::new();
        fill_pieces(extension.sparse_mut(), pieces);
        extension.set_is_extended(extensions.peek().is_some());
        out.write_all(extension.as_bytes())?;
    }
    Ok(())
}

/// The number of bytes that [`write()`] writes.
pub(super) fn length(entry: &EntryHeader<'_>, pieces: Option<&[Piece]>) -> u64 {
    let long = |name: &[u8]| match name.len() {
        0..=NAME => 0,
        length => 1 + (length + 1).div_ceil(BLOCK),
    };
    // A header has 4 pieces, an extension header 21.
    let extensions = pieces.map_or(0, |pieces| pieces.len().saturating_sub(4).div_ceil(21));
    ((1 + long(entry.name) + long(entry.link) + extensions) * BLOCK) as u64
}

/// The largest length of a name in a header, in bytes. A name of this length has no NUL at its end.
const NAME: usize = 100;

/// If a name is too long for the header, writes it as an entry of its own, which precedes the header.
fn write_long(out: &mut impl Write, kind: u8, name: &[u8]) -> io::Result<()> {
    if name.len() <= NAME {
        return Ok(());
    }
    let mut header = Header::new_gnu();
    let fields = gnu(&mut header)?;
    fill(&mut fields.name, b"././@LongLink");
    fill(&mut fields.uname, b"root");
    fill(&mut fields.gname, b"root");
    number::write(&mut fields.mode, 0o644);
    number::write(&mut fields.uid, 0);
    number::write(&mut fields.gid, 0);
    number::write(&mut fields.mtime, 0);
    number::write(&mut fields.size, name.len() as u64 + 1);
    fields.typeflag = [kind];
    write_block(out, &mut header)?;
    out.write_all(name)?;
    let padded = (name.len() + 1).next_multiple_of(BLOCK);
    out.write_all(&vec![0; padded - name.len()])
}

fn write_block(out: &mut impl Write, header: &mut Header) -> io::Result<()> {
    let checksum = &mut header.as_old_mut().cksum;
    checksum.fill(b' ');
    let sum: u64 = header.as_bytes().iter().map(|byte| u64::from(*byte)).sum();
    // The checksum is the only field with a different format: six digits, a NUL and a space.
    number::write(&mut header.as_old_mut().cksum[..7], sum);
    out.write_all(header.as_bytes())
}

fn gnu(header: &mut Header) -> io::Result<&mut GnuHeader> {
    header
        .as_gnu_mut()
        .ok_or_else(|| io::Error::other("a new header is not in GNU format"))
}

fn fill(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

fn fill_pieces(fields: &mut [GnuSparseHeader], pieces: &[Piece]) {
    for (field, piece) in fields.iter_mut().zip(pieces) {
        number::write(&mut field.offset, piece.offset);
        number::write(&mut field.numbytes, piece.length);
    }
}
