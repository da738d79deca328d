//! Packs a tree as GNU `tar -cf - -C TREE .` does, but in a fixed order.
//!
//! The order: `./` first, then each directory before what is in it, and the names in a directory in the order of their
//! bytes (GNU tar's `--sort=name`). For a tree without sparse files the archive is byte for byte GNU tar's.
//!
//! Hard links are kept, FIFOs and devices are entries, sockets are left out, and so are extended attributes. Times are
//! whole seconds, and those before 1970 are 1970 (a negative time is not read everywhere). A file with at least a
//! mebibyte of holes is written as an old GNU sparse entry, which GNU tar, bsdtar and Python read.

mod content;
mod error;
mod owners;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{Metadata, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use crate::archive::CHUNK;
use crate::archive::entry::Kind;
use crate::archive::header::EntryHeader;
use crate::archive::tarball::EntryWriter;
use crate::fs::{self, Context};

pub use error::PackError;
pub use owners::{Owners, SystemOwners};

/// What was packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packed {
    /// How many entries the archive has.
    pub entries: u64,
    /// How much content they have, in bytes; without holes and headers.
    pub bytes: u64,
}

/// Packs the directory `tree` into `out`, which should be buffered and is not flushed.
///
/// # Errors
/// When a file cannot be read or changes in the meantime, or when `out` cannot be written. What was written is then of
/// no use.
pub fn pack<W: Write>(
    tree: &Path,
    out: W,
    owners: &mut (impl Owners + ?Sized),
) -> Result<Packed, PackError> {
    let mut packer = Packer {
        archive: EntryWriter::new(out),
        owners,
        linked: HashMap::new(),
        buffer: vec![0; CHUNK],
        packed: Packed::default(),
    };
    let metadata = fs::metadata(tree)?;
    if !metadata.is_dir() {
        return Err(PackError::NotADirectory {
            path: tree.to_owned(),
        });
    }
    packer.add(tree, b".", &metadata)?;

    // Of each directory on the way down, the names that are still to come, last first.
    let mut levels = vec![names(tree)?];
    let mut directory = tree.to_owned();
    let mut name = b".".to_vec();
    while let Some(level) = levels.last_mut() {
        let Some(next) = level.pop() else {
            levels.pop();
            directory.pop();
            name.truncate(name.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
            continue;
        };
        directory.push(&next);
        name.push(b'/');
        name.extend_from_slice(next.as_bytes());
        let metadata = fs::lookup(&directory)?.ok_or_else(|| content::changed(&directory))?;
        packer.add(&directory, &name, &metadata)?;
        if metadata.is_dir() {
            levels.push(names(&directory)?);
        } else {
            directory.pop();
            name.truncate(name.len() - next.len() - 1);
        }
    }
    let Packer {
        archive, packed, ..
    } = packer;
    archive
        .finish()
        .map_err(|source| PackError::Output { source })?;
    Ok(packed)
}

/// The names in a directory, last first.
fn names(directory: &Path) -> Result<Vec<OsString>, PackError> {
    // Names only: an entry of `list` keeps its directory open, and there may be more levels than open files.
    let mut names: Vec<OsString> = fs::list(directory)?
        .iter()
        .map(|entry| entry.file_name())
        .collect();
    names.reverse();
    Ok(names)
}

struct Packer<'a, W, O: ?Sized> {
    archive: EntryWriter<W>,
    owners: &'a mut O,
    /// Of each file with several names, by device and inode: the name it was packed under, and how many are to come.
    linked: HashMap<(u64, u64), (Vec<u8>, u64)>,
    buffer: Vec<u8>,
    packed: Packed,
}

impl<W: Write, O: Owners + ?Sized> Packer<'_, W, O> {
    /// Adds one entry; what is in a directory is not its business.
    fn add(&mut self, path: &Path, name: &[u8], metadata: &Metadata) -> Result<(), PackError> {
        let Some(kind) = kind(metadata) else {
            return Ok(());
        };
        let (uid, gid) = self.owners.numbers(name, metadata);
        let user = self.owners.user(uid);
        let group = self.owners.group(gid);
        let mut header = EntryHeader {
            uid,
            gid,
            user: &user,
            group: &group,
            mtime: u64::try_from(metadata.mtime()).unwrap_or(0),
            ..EntryHeader::new(kind, name, metadata.mode())
        };
        self.packed.entries += 1;
        if kind == Kind::Directory {
            let name = [name, b"/"].concat();
            header.name = &name;
            return self.plain(&header);
        }
        if metadata.nlink() > 1
            && let Some(first) = self.first_name(name, metadata)
        {
            header.kind = Kind::HardLink;
            header.link = &first;
            return self.plain(&header);
        }
        match kind {
            Kind::File => self.file(path, header, metadata),
            Kind::Symlink => {
                let target = fs::read_link(path)?.into_os_string().into_vec();
                header.link = &target;
                self.plain(&header)
            }
            Kind::CharacterDevice | Kind::BlockDevice => {
                header.device = Some(device(metadata.rdev()));
                self.plain(&header)
            }
            Kind::Directory | Kind::HardLink | Kind::Fifo | Kind::Other(_) => self.plain(&header),
        }
    }

    /// Adds an entry without content.
    fn plain(&mut self, header: &EntryHeader<'_>) -> Result<(), PackError> {
        self.archive
            .start(header, None)
            .map_err(|source| PackError::Output { source })
    }

    fn file(
        &mut self,
        path: &Path,
        mut header: EntryHeader<'_>,
        listed: &Metadata,
    ) -> Result<(), PackError> {
        // If something else took the file's place it is neither followed nor waited for.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags);
        let mut file = fs::open_with(&options, path)?;
        let metadata = file.metadata().at("examine", path)?;
        if inode(&metadata) != inode(listed) || !metadata.is_file() {
            return Err(content::changed(path));
        }
        header.size = metadata.len();
        let pieces = content::pieces(&mut file, &metadata, path)?;
        self.archive
            .start(&header, pieces.as_deref())
            .map_err(|source| PackError::Output { source })?;
        self.packed.bytes += content::copy(
            &mut file,
            &metadata,
            pieces.as_deref(),
            path,
            &mut self.archive,
            &mut self.buffer,
        )?;
        Ok(())
    }

    /// The name under which a file with several names is in the archive already.
    fn first_name(&mut self, name: &[u8], metadata: &Metadata) -> Option<Vec<u8>> {
        let Some((first, left)) = self.linked.get_mut(&inode(metadata)) else {
            let others = metadata.nlink() - 1;
            self.linked.insert(inode(metadata), (name.to_vec(), others));
            return None;
        };
        *left -= 1;
        if *left > 0 {
            return Some(first.clone());
        }
        self.linked.remove(&inode(metadata)).map(|(first, _)| first)
    }
}

/// What a file is in an archive; `None` for a socket, which means nothing without its process.
fn kind(metadata: &Metadata) -> Option<Kind> {
    let kind = metadata.file_type();
    if kind.is_socket() {
        return None;
    }
    Some(if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        Kind::Symlink
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_char_device() {
        Kind::CharacterDevice
    } else if kind.is_block_device() {
        Kind::BlockDevice
    } else {
        Kind::File
    })
}

fn inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Major and minor number: no system has more than 32 bits of each.
fn device(number: u64) -> (u32, u32) {
    let half = |number| u32::try_from(number).unwrap_or(u32::MAX);
    (
        half(nix::sys::stat::major(number)),
        half(nix::sys::stat::minor(number)),
    )
}
