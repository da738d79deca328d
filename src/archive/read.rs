//! Reads the entries of a tar stream: GNU, PAX, ustar and v7.
//!
//! Supports GNU long names and links, PAX `path`, `linkpath`, `size`, `mtime` and owners, sizes above 8 GiB, and all four formats of
//! sparse files. Global PAX headers and volume labels are skipped. PAX names take precedence over GNU names, as in GNU tar. An archive
//! may end without its two zero blocks, as in GNU tar, but not inside an entry.
//!
//! Memory is limited: a name may have 1 MiB, an extended header 32 MiB.

mod error;
mod pieces;

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use tar::Header;

use crate::archive::entry::Kind;
use crate::archive::pax::{OwnerRecords, Pax};
use crate::archive::sparse::Piece;
use crate::archive::{BLOCK, CHUNK, number};

pub use error::ReadError;
pub use pieces::Whole;

/// The largest length of a GNU long name, in bytes: many times the largest length of a path.
const MAX_NAME: u64 = 1 << 20;

/// The largest length of a PAX extended header, in bytes: enough for a sparse file with several hundred thousand pieces.
const MAX_PAX: u64 = 32 << 20;

/// An entry: its header and the records that precede it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name in the archive, which can be any bytes. `archive::entry::normalize` converts it to a path.
    pub name: Vec<u8>,
    /// The target of a symbolic or hard link, as the archive has it; empty for other kinds.
    pub link: Vec<u8>,
    /// The kind.
    pub kind: Kind,
    /// The permission bits, including setuid, setgid and sticky.
    pub mode: u32,
    /// The owner.
    pub owner: Owner,
    /// The modification time, in seconds since 1970, rounded down.
    pub mtime: i64,
    /// The length of the unpacked file, in bytes; 0 for other kinds.
    pub size: u64,
    /// The pieces of a sparse file; `None` for other entries.
    pub(super) pieces: Option<Vec<Piece>>,
}

impl Entry {
    /// The name for messages.
    #[must_use]
    pub(crate) fn display_name(&self) -> PathBuf {
        path(&self.name)
    }

    /// Whether the archive contains only pieces of the file. [`Reader::read_content`] then returns these pieces, not the file.
    #[must_use]
    pub(crate) fn is_sparse(&self) -> bool {
        self.pieces.is_some()
    }

    /// The total size of the holes of a sparse file, in bytes; 0 for other entries.
    #[must_use]
    pub(crate) fn holes(&self) -> u64 {
        let pieces = self.pieces.as_ref();
        let stored = pieces.map(|it| it.iter().map(|piece| piece.length).sum());
        self.size - stored.unwrap_or(self.size)
    }
}

/// The owner of an entry, from its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The number of the user. Numbers that are too large for a system are replaced by the largest valid one.
    pub uid: u32,
    /// The number of the group, with the same rule as for `uid`.
    pub gid: u32,
    /// The name of the user, which may be empty.
    pub user: String,
    /// The name of the group, which may be empty.
    pub group: String,
}

impl Default for Owner {
    /// The user and the group root.
    fn default() -> Self {
        Self {
            uid: 0,
            gid: 0,
            user: "root".to_owned(),
            group: "root".to_owned(),
        }
    }
}

/// Reads a tar stream, entry by entry. The current entry is the one that `next_entry` returned last. The [`Read`] implementation returns
/// its content.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// The number of bytes read so far.
    offset: u64,
    /// The length of the current entry's unread content, in bytes.
    left: u64,
    /// The length of the padding after the content, in bytes.
    padding: u64,
    /// The name of the current entry.
    current: PathBuf,
    /// Whether the end of the archive was read.
    ended: bool,
}

/// The contents of headers that precede the header of an entry.
#[derive(Default)]
struct Announced {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

impl Announced {
    fn any(&self) -> bool {
        self.name.is_some() || self.link.is_some() || self.pax.is_some()
    }
}

impl<R: Read> Reader<R> {
    /// Reads an archive from `input`, which returns decoded data.
    pub fn new(input: R) -> Self {
        Self {
            input,
            offset: 0,
            left: 0,
            padding: 0,
            current: PathBuf::new(),
            ended: false,
        }
    }

    /// Returns the input.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// Returns the next entry; `None` at the end of the archive. The unread content of the previous entry is skipped. Nothing is read
    /// after the end of the archive.
    ///
    /// # Errors
    /// If the input is not an archive, ends early, or cannot be read.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, ReadError> {
        let mut announced = Announced::default();
        while !self.ended {
            self.skip_content()?;
            let start = self.offset;
            let Some(header) = self.read_header()? else {
                self.ended = true;
                if announced.any() {
                    return Err(ReadError::TruncatedHeader { offset: start });
                }
                break;
            };
            self.left = field(&header.as_old().size, "size", start)?;
            self.padding = padding(self.left);
            match header.as_old().linkflag[0] {
                b'L' => announced.name = Some(self.read_long_name(MAX_NAME, start)?),
                b'K' => announced.link = Some(self.read_long_name(MAX_NAME, start)?),
                b'x' | b'X' => {
                    let records = self.read_bytes(MAX_PAX, start)?;
                    announced.pax =
                        Some(Pax::parse(&records).map_err(|problem| ReadError::Pax {
                            offset: start,
                            problem,
                        })?);
                }
                // Global records of PAX and the label of a GNU volume do not describe an entry.
                b'g' | b'V' => {}
                _ => return self.entry(&header, announced, start).map(Some),
            }
        }
        Ok(None)
    }

    /// Creates an entry from its header and the records that precede the header.
    fn entry(
        &mut self,
        header: &Header,
        announced: Announced,
        start: u64,
    ) -> Result<Entry, ReadError> {
        let pax = announced.pax.unwrap_or_default();
        let old = header.as_old();
        let name = pax
            .sparse
            .name
            .clone()
            .or(pax.path)
            .or(announced.name)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = Kind::from_type(old.linkflag[0], &name);
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => number::parse(&old.mtime).ok_or(ReadError::Number {
                offset: start,
                field: "modification time",
            })?,
        };
        let mode = field(&old.mode, "mode", start)?;
        self.start_content(kind, pax.size);
        self.current = path(&name);
        let mut entry = Entry {
            name,
            link: link_target(header, kind, pax.link_path.or(announced.link)),
            kind,
            mode: (mode & 0o7777) as u32,
            owner: owner(header, pax.owner),
            mtime,
            size: if kind == Kind::File { self.left } else { 0 },
            pieces: None,
        };
        if kind == Kind::File {
            self.set_pieces(header, pax.sparse, &mut entry)?;
        }
        Ok(entry)
    }

    /// Sets how much content follows the current header. A size in a PAX record takes precedence over the size in the header.
    fn start_content(&mut self, kind: Kind, pax_size: Option<u64>) {
        if let Some(size) = pax_size {
            self.left = size;
        }
        if kind == Kind::HardLink {
            // Some writers set the size of the linked file, but no content follows. GNU tar ignores this size, too.
            self.left = 0;
        }
        self.padding = padding(self.left);
    }

    /// Reads content of the current entry; returns 0 at its end.
    ///
    /// # Errors
    /// If the archive ends inside the entry, or cannot be read.
    pub(crate) fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let wanted = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.read_input(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(ReadError::Truncated {
                entry: self.current.clone(),
            });
        }
        self.left -= read as u64;
        Ok(read)
    }

    fn skip_content(&mut self) -> Result<(), ReadError> {
        let mut rest = self.left.saturating_add(self.padding);
        self.left = 0;
        self.padding = 0;
        let mut buffer = vec![0; CHUNK.min(usize::try_from(rest).unwrap_or(CHUNK))];
        while rest > 0 {
            let wanted = buffer
                .len()
                .min(usize::try_from(rest).unwrap_or(usize::MAX));
            let read = self.read_input(&mut buffer[..wanted])?;
            if read == 0 {
                return Err(ReadError::Truncated {
                    entry: self.current.clone(),
                });
            }
            rest -= read as u64;
        }
        Ok(())
    }

    /// Reads the long name that follows a header, without the NULs at its end.
    fn read_long_name(&mut self, limit: u64, start: u64) -> Result<Vec<u8>, ReadError> {
        let mut name = self.read_bytes(limit, start)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    /// Reads the content of a header that describes the next entry.
    fn read_bytes(&mut self, limit: u64, start: u64) -> Result<Vec<u8>, ReadError> {
        if self.left > limit {
            return Err(ReadError::TooLong {
                offset: start,
                size: self.left,
                limit,
            });
        }
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        while self.left > 0 {
            let wanted = chunk
                .len()
                .min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let read = self.read_input(&mut chunk[..wanted])?;
            if read == 0 {
                return Err(ReadError::TruncatedHeader { offset: start });
            }
            bytes.extend_from_slice(&chunk[..read]);
            self.left -= read as u64;
        }
        Ok(bytes)
    }

    /// Reads the next header; returns `None` at the end of the archive.
    fn read_header(&mut self) -> Result<Option<Header>, ReadError> {
        let start = self.offset;
        let mut header = Header::new_old();
        let complete = match self.read_block(header.as_mut_bytes(), start) {
            Err(ReadError::TruncatedHeader { .. }) if start == 0 => return Err(ReadError::NotTar),
            other => other?,
        };
        if !complete && start == 0 {
            return Err(ReadError::NotTar);
        }
        // The first zero block ends the archive, as in GNU tar.
        if !complete || header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !checksum_matches(header.as_bytes()) {
            return Err(if start == 0 {
                ReadError::NotTar
            } else {
                ReadError::Checksum { offset: start }
            });
        }
        Ok(Some(header))
    }

    /// Fills a block. Returns `false` if the input has ended before it. `start` is the offset for errors.
    fn read_block(&mut self, block: &mut [u8], start: u64) -> Result<bool, ReadError> {
        let mut filled = 0;
        while filled < block.len() {
            match self.read_input(&mut block[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(ReadError::TruncatedHeader { offset: start }),
                read => filled += read,
            }
        }
        Ok(true)
    }

    fn read_input(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        loop {
            match self.input.read(buffer) {
                Ok(read) => {
                    self.offset += read as u64;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ReadError::Input { source }),
            }
        }
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_content(buffer).map_err(|error| {
            if let ReadError::Input { source } = error {
                return source;
            }
            let early = matches!(error, ReadError::Truncated { .. });
            let kind = if early {
                io::ErrorKind::UnexpectedEof
            } else {
                io::ErrorKind::InvalidData
            };
            io::Error::new(kind, error)
        })
    }
}

/// Whether the checksum of a header matches. It is the sum of all bytes, with spaces in place of the checksum itself. Some
/// old writers add the bytes as signed numbers, other writers as unsigned numbers.
pub(super) fn checksum_matches(block: &[u8; BLOCK]) -> bool {
    const FIELD: std::ops::Range<usize> = 148..156;
    let mut unsigned: i64 = 0;
    let mut signed: i64 = 0;
    for (index, byte) in block.iter().enumerate() {
        let byte = if FIELD.contains(&index) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    number::parse(&block[FIELD]).is_some_and(|sum| sum == unsigned || sum == signed)
}

fn field(bytes: &[u8], field: &'static str, offset: u64) -> Result<u64, ReadError> {
    number::parse_unsigned(bytes).ok_or(ReadError::Number { offset, field })
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The target of a link: the announced one, or the one in the header.
fn link_target(header: &Header, kind: Kind, announced: Option<Vec<u8>>) -> Vec<u8> {
    match kind {
        Kind::HardLink | Kind::Symlink => {
            announced.unwrap_or_else(|| until_nul(&header.as_old().linkname).to_vec())
        }
        Kind::File
        | Kind::Directory
        | Kind::Fifo
        | Kind::CharacterDevice
        | Kind::BlockDevice
        | Kind::Other(_) => Vec::new(),
    }
}

/// The owner of an entry: from PAX records, or from the header. An invalid number means root, as in GNU tar.
fn owner(header: &Header, pax: OwnerRecords) -> Owner {
    let old = header.as_old();
    let id = |record: Option<u64>, field: &[u8]| {
        let id = record
            .or_else(|| number::parse_unsigned(field))
            .unwrap_or(0);
        u32::try_from(id).unwrap_or(u32::MAX - 1)
    };
    let name = |record: Option<Vec<u8>>, field: Option<&[u8]>| {
        let bytes = record.unwrap_or_else(|| until_nul(field.unwrap_or_default()).to_vec());
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Owner {
        uid: id(pax.uid, &old.uid),
        gid: id(pax.gid, &old.gid),
        user: name(pax.user, header.username_bytes()),
        group: name(pax.group, header.groupname_bytes()),
    }
}

fn path(name: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(name))
}
