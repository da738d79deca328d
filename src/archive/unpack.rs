//! Unpacks an archive as root's `tar --no-same-owner -xf` does, and touches nothing outside the destination.
//!
//! - Files belong to who unpacks. Modes are restored exactly, whatever the umask and whoever unpacks; times in whole
//!   seconds. Those of directories come last, the deepest first, so that a read-only directory can be filled.
//! - A later entry replaces an earlier one of the same name, or what was there before; directories are merged, and only
//!   empty ones are replaced. Directories that the archive does not list are made with mode 0755.
//! - An entry below a symbolic link goes where the link leads, as with GNU tar, if that is a directory inside the
//!   destination; otherwise it is an error. Links themselves may point anywhere. Names with `..` and absolute names are
//!   errors (see [`entry`](crate::archive::entry)).
//! - Hard links point into the destination, and to what came before.
//! - FIFOs are made; device nodes are skipped and counted; what is of an unknown type is a file. Owners and extended attributes are ignored.
//! - Holes of sparse files stay holes.
//!
//! Unpacking expects that nobody else changes the destination at the same time; where someone does, it still does not
//! follow links. After an error the destination is left as it is, half filled.

mod error;
mod resolution;
mod tree;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::archive::CHUNK;
use crate::archive::compression::{Compression, Decoder};
use crate::archive::entry::{Kind, normalise};
use crate::archive::read::{Entry, Reader};
use crate::archive::sparse::Piece;
use crate::fs::{self, Context};
use crate::runtime::ReadAhead;
use tree::Tree;

pub use error::{LinkProblem, UnpackError};

/// How many names of skipped entries are kept.
const SKIPPED_NAMES: usize = 20;

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// How many entries the archive had, without those that were skipped.
    pub entries: u64,
    /// How much content was written, in bytes; without holes.
    pub bytes: u64,
    /// What was left out.
    pub skipped: Skipped,
}

/// The device nodes of an archive, which are not made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many there were.
    pub count: u64,
    /// The paths of the first twenty, below the destination.
    pub first: Vec<PathBuf>,
}

/// Unpacks a tar stream, already decoded, into a directory that exists.
///
/// What lies behind the archive's end is not read: whoever decodes must still read to the end ([`Decoder::finish`]).
///
/// # Errors
/// When the archive is none, ends early or is damaged, when an entry must not be unpacked, or when the system refuses.
pub fn unpack(reader: impl Read, destination: &Path) -> Result<Unpacked, UnpackError> {
    let mut archive = Reader::new(reader);
    let mut unpacker = Unpacker {
        tree: Tree::open(destination)?,
        directories: BTreeMap::new(),
        buffer: vec![0; CHUNK],
        unpacked: Unpacked::default(),
    };
    while let Some(entry) = archive.next_entry()? {
        unpacker.add(&entry, &mut archive)?;
    }
    unpacker.finish()
}

/// Unpacks an archive file, however it is compressed, into a directory that exists, and checks it to its last byte.
///
/// # Errors
/// As [`unpack`]; and when the compressed data is of no known kind, damaged, or followed by something else.
pub fn unpack_file(
    archive: &Path,
    destination: &Path,
) -> Result<(Unpacked, Compression), UnpackError> {
    unpack_whole(fs::open(archive)?, destination)
}

/// [`unpack_file`] for what is read from anywhere. It is decoded while files are written.
///
/// # Errors
/// As [`unpack_file`].
pub fn unpack_whole(
    archive: impl Read + Send + 'static,
    destination: &Path,
) -> Result<(Unpacked, Compression), UnpackError> {
    let decode = |source| UnpackError::Decode { source };
    let decoder = Decoder::new(archive).map_err(decode)?;
    let compression = decoder.compression();
    let mut decoded = ReadAhead::new(decoder);
    let unpacked = unpack(&mut decoded, destination)?;
    decoded.finish().map_err(decode)?;
    Ok((unpacked, compression))
}

struct Unpacker {
    tree: Tree,
    /// Mode and time of each directory, set at the end. In the order of the bytes of their paths.
    directories: BTreeMap<OsString, (u32, i64)>,
    buffer: Vec<u8>,
    unpacked: Unpacked,
}

impl Unpacker {
    fn add<R: Read>(&mut self, entry: &Entry, archive: &mut Reader<R>) -> Result<(), UnpackError> {
        let path = normalise(&entry.name).map_err(|source| UnpackError::Outside { source })?;
        if path.as_os_str().is_empty() && entry.kind != Kind::Directory {
            return Err(UnpackError::RootNotDirectory);
        }
        let path = self.tree.settled(&path)?;
        match entry.kind {
            Kind::Directory => {
                if !path.as_os_str().is_empty() {
                    self.tree.directory(&path)?;
                }
                self.directories
                    .insert(path.into_os_string(), (entry.mode, entry.mtime));
                self.unpacked.entries += 1;
                return Ok(());
            }
            Kind::File => self.file(&path, entry, archive)?,
            Kind::Symlink => {
                let target = Path::new(OsStr::from_bytes(&entry.link));
                if !tree::is_target(target) {
                    return Err(UnpackError::NoTarget { entry: path });
                }
                self.tree.symlink(&path, target, entry.mtime)?;
            }
            Kind::HardLink => {
                let target =
                    normalise(&entry.link).map_err(|source| UnpackError::HardLinkOutside {
                        entry: path.clone(),
                        source,
                    })?;
                let target = self.tree.settled(&target).map_err(|error| match error {
                    UnpackError::ThroughSymlink { link, problem, .. } => {
                        let entry = path.clone();
                        UnpackError::ThroughSymlink {
                            entry,
                            link,
                            problem,
                        }
                    }
                    other => other,
                })?;
                self.tree.hard_link(&path, &target)?;
            }
            Kind::Fifo => self.tree.fifo(&path, entry.mode, entry.mtime)?,
            Kind::CharacterDevice | Kind::BlockDevice => {
                self.unpacked.skipped.count += 1;
                if self.unpacked.skipped.first.len() < SKIPPED_NAMES {
                    self.unpacked.skipped.first.push(path);
                }
                return Ok(());
            }
            Kind::Other(kind) => return Err(UnpackError::Unsupported { entry: path, kind }),
        }
        // What was a directory there is none any more.
        self.directories.remove(path.as_os_str());
        self.unpacked.entries += 1;
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        path: &Path,
        entry: &Entry,
        archive: &mut Reader<R>,
    ) -> Result<(), UnpackError> {
        let mut file = self.tree.create(path)?;
        if let Some(pieces) = &entry.pieces {
            let full = self.tree.full(path);
            file.set_len(entry.size).at("set the length of", &full)?;
            for Piece { offset, length } in pieces {
                file.seek(SeekFrom::Start(*offset)).at("write to", &full)?;
                self.copy(*length, &mut file, path, archive)?;
            }
        } else {
            self.copy(entry.size, &mut file, path, archive)?;
        }
        self.tree.finish_file(path, &file, entry.mode, entry.mtime)
    }

    fn copy<R: Read>(
        &mut self,
        mut left: u64,
        file: &mut File,
        path: &Path,
        archive: &mut Reader<R>,
    ) -> Result<(), UnpackError> {
        while left > 0 {
            let wanted = self
                .buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = archive.read_content(&mut self.buffer[..wanted])?;
            if read == 0 {
                // The pieces were checked against the content, so this cannot be; better than to go round for ever.
                break;
            }
            file.write_all(&self.buffer[..read])
                .at("write to", &self.tree.full(path))?;
            left -= read as u64;
            self.unpacked.bytes += read as u64;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Unpacked, UnpackError> {
        // In this order a directory comes before what is in it, so backwards it comes after.
        for (path, (mode, mtime)) in self.directories.iter().rev() {
            self.tree.finish_directory(path.as_ref(), *mode, *mtime)?;
        }
        Ok(self.unpacked)
    }
}
