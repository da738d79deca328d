//! Unpacks an archive as root's `tar --no-same-owner -xf` does, and changes nothing outside the destination.
//!
//! - The current user owns the files. Modes are restored exactly, independent of the umask and the user; times are restored in whole
//!   seconds. The modes and times of directories are set last, the deepest first, so that files can be created in a read-only directory.
//! - An entry replaces an existing file at its path, even if the file is not from the archive. A directory is merged with an existing
//!   directory. Another kind of entry replaces a directory only if the directory is empty.
//! - Parent directories that the archive does not list are created with mode 0755.
//! - An entry below a symbolic link is created in the target of the link, as in GNU tar, if the target is a directory inside the
//!   destination; otherwise it is an error. Links themselves may have any target. Names with `..` and absolute names are errors (see
//!   [`entry`](crate::archive::entry)).
//! - The target of a hard link must be an earlier file inside the destination.
//! - FIFOs are created. Device nodes are skipped and counted. Entries of an unknown type are unpacked as files, except the type `M`, the
//!   rest of a file that begins on another volume: it is an error. Owners and extended attributes are ignored.
//! - Holes of sparse files stay holes.
//!
//! No other process should change the destination at the same time. If a process creates a link there, the link is not followed. After an
//! error, the destination is incomplete.

mod error;
mod files;
mod resolution;
mod tree;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::archive::compression::{Compression, Decoder};
use crate::archive::entry::{Kind, normalize};
use crate::archive::read::{Entry, Reader};
use crate::runtime::ReadAhead;
pub(crate) use files::Files;

pub use error::{LinkProblem, UnpackError};

/// How many paths of skipped entries are recorded.
const SKIPPED_NAMES: usize = 20;

/// The result of unpacking.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// The number of unpacked entries.
    pub entries: u64,
    /// The size of their content, in bytes, without holes.
    pub bytes: u64,
    /// The skipped entries.
    pub skipped: Skipped,
}

/// The device nodes of an archive, which are not created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    /// The number of device nodes.
    pub count: u64,
    /// The paths of the first twenty device nodes, relative to the destination.
    pub first: Vec<PathBuf>,
}

/// Unpacks a decoded tar stream into an existing directory.
///
/// Nothing is read after the end of the archive: the caller must read the rest to verify the compressed data ([`Decoder::finish`]).
///
/// # Errors
/// If the input is not an archive, ends early or is damaged, if an entry must not be unpacked, or if a file operation fails.
pub fn unpack(reader: impl Read, destination: &Path) -> Result<Unpacked, UnpackError> {
    let mut archive = Reader::new(reader);
    let mut unpacker = Unpacker {
        files: Files::new(destination)?,
        directories: BTreeMap::new(),
        unpacked: Unpacked::default(),
    };
    while let Some(entry) = archive.next_entry()? {
        unpacker.add(&entry, &mut archive)?;
    }
    unpacker.finish()
}

/// Unpacks an archive file with [`unpack_whole`].
#[cfg(test)]
pub(crate) fn unpack_file(
    archive: &Path,
    destination: &Path,
) -> Result<(Unpacked, Compression), UnpackError> {
    unpack_whole(crate::fs::open(archive)?, destination)
}

/// Unpacks an archive of any known compression into an existing directory, and verifies the whole archive. Another thread decodes the
/// archive while this thread writes files.
///
/// # Errors
/// Those of [`unpack`]; also if the compressed data has an unknown format, is damaged, or is followed by something else.
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
    files: Files,
    /// The mode and time of each directory, in the byte order of the paths. They are set at the end.
    directories: BTreeMap<OsString, (u32, i64)>,
    unpacked: Unpacked,
}

impl Unpacker {
    fn add<R: Read>(&mut self, entry: &Entry, archive: &mut Reader<R>) -> Result<(), UnpackError> {
        let path = normalize(&entry.name).map_err(|source| UnpackError::Outside { source })?;
        if path.as_os_str().is_empty() && entry.kind != Kind::Directory {
            return Err(UnpackError::RootNotDirectory);
        }
        let path = self.files.tree.resolved(&path)?;
        match entry.kind {
            Kind::Directory => {
                if !path.as_os_str().is_empty() {
                    self.files.tree.directory(&path)?;
                }
                self.directories
                    .insert(path.into_os_string(), (entry.mode, entry.mtime));
                self.unpacked.entries += 1;
                return Ok(());
            }
            Kind::File => self.unpacked.bytes += self.files.file(&path, entry, archive)?,
            Kind::Symlink => {
                let target = Path::new(OsStr::from_bytes(&entry.link));
                if !tree::is_valid_target(target) {
                    return Err(UnpackError::NoTarget { entry: path });
                }
                self.files.tree.symlink(&path, target, entry.mtime)?;
            }
            Kind::HardLink => self.hard_link(&path, entry)?,
            Kind::Fifo => self.files.tree.fifo(&path, entry.mode, entry.mtime)?,
            Kind::CharacterDevice | Kind::BlockDevice => {
                self.unpacked.skipped.count += 1;
                if self.unpacked.skipped.first.len() < SKIPPED_NAMES {
                    self.unpacked.skipped.first.push(path);
                }
                return Ok(());
            }
            Kind::Other(kind) => return Err(UnpackError::Unsupported { entry: path, kind }),
        }
        // An earlier directory at the path was replaced.
        self.directories.remove(path.as_os_str());
        self.unpacked.entries += 1;
        Ok(())
    }

    fn hard_link(&mut self, path: &Path, entry: &Entry) -> Result<(), UnpackError> {
        let target = normalize(&entry.link).map_err(|source| UnpackError::HardLinkOutside {
            entry: path.to_owned(),
            source,
        })?;
        let target = self.files.tree.resolved(&target);
        // The error is about the hard link, not about its target.
        let target = target.map_err(|error| match error {
            UnpackError::ThroughSymlink { link, problem, .. } => UnpackError::ThroughSymlink {
                entry: path.to_owned(),
                link,
                problem,
            },
            other => other,
        })?;
        self.files.tree.hard_link(path, &target)
    }

    fn finish(mut self) -> Result<Unpacked, UnpackError> {
        // In reverse byte order, directories come before the directory that contains them.
        for (path, (mode, mtime)) in self.directories.iter().rev() {
            self.files
                .tree
                .finish_directory(path.as_ref(), *mode, *mtime)?;
        }
        Ok(self.unpacked)
    }
}
