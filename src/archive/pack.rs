//! Packs a tree as GNU `tar -cf - -C TREE .` does, but in a fixed order.
//!
//! `./` comes first, each directory precedes its entries, and the entries of a directory are in the byte order of their names (GNU
//! tar's `--sort=name`). For a tree without sparse files, the archive has the same bytes as that of GNU tar.
//!
//! Hard links, FIFOs and devices are kept; sockets and extended attributes are omitted. Times are whole seconds. Times before 1970 are
//! negative numbers in base-256, as GNU tar writes and all common readers read them. A file with at least 1 MiB of holes is written as
//! an old GNU sparse entry, which GNU tar, bsdtar and Python read.
//!
//! Trees may have any depth and paths any length. Files and directories whose modes deny their owner access are packed, too. A mount in
//! the tree is an error.

mod content;
mod error;
mod owners;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::FileType;

use crate::archive::CHUNK;
use crate::archive::entry::Kind;
use crate::archive::header::EntryHeader;
use crate::archive::tarball::EntryWriter;
use crate::fs::{self, Context, Found, Mounts, Walk, WalkStep};

pub use error::PackError;
pub use owners::{Owners, SystemOwners};

/// The result of packing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packed {
    /// The number of entries in the archive.
    pub entries: u64,
    /// The size of their content, in bytes, without holes and headers.
    pub bytes: u64,
}

/// Packs the directory `tree` into `out`, which should be buffered and is not flushed. Times after `newest`, in seconds since 1970, are
/// written as `newest`.
///
/// # Errors
/// If a file cannot be read or changes while it is packed, or if `out` cannot be written. The archive is then incomplete.
pub fn pack<W: Write>(
    tree: &Path,
    out: W,
    owners: &mut (impl Owners + ?Sized),
    newest: Option<i64>,
) -> Result<Packed, PackError> {
    let mut packer = Packer {
        archive: EntryWriter::new(out),
        owners,
        newest: newest.unwrap_or(i64::MAX),
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
    let mut walk = Walk::to_read(tree, Mounts::Refuse)?;
    let mut name = b".".to_vec();
    let mut is_root = true;
    while let Some(step) = walk.next_step().map_err(changed_or_failed)? {
        match step {
            WalkStep::Enter(found) => {
                if !is_root {
                    name.push(b'/');
                    name.extend_from_slice(fs::file_name(walk.path()).as_bytes());
                }
                is_root = false;
                packer.add(&walk, OsStr::new(""), &name, &found)?;
            }
            WalkStep::Entry(file, found) => {
                let length = name.len();
                name.push(b'/');
                name.extend_from_slice(file.as_bytes());
                packer.add(&walk, &file, &name, &found)?;
                name.truncate(length);
            }
            WalkStep::Leave(_) => {
                name.truncate(name.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
            }
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

/// Converts the error of a file operation. If a listed file no longer exists, the error is [`PackError::Changed`].
fn changed_or_failed(error: fs::Error) -> PackError {
    if error.is_not_found() {
        content::changed(&error.path)
    } else {
        PackError::File(error)
    }
}

struct Packer<'a, W, O: ?Sized> {
    archive: EntryWriter<W>,
    owners: &'a mut O,
    /// The newest time that is written, in seconds since 1970.
    newest: i64,
    /// The files with several hard links, by device and inode. Each has the name of its first entry, and the number of links that were not
    /// added yet.
    linked: HashMap<(u64, u64), (Vec<u8>, u64)>,
    buffer: Vec<u8>,
    packed: Packed,
}

impl<W: Write, O: Owners + ?Sized> Packer<'_, W, O> {
    /// Adds the entry `file` of the directory that the walk has reached, or, if `file` is empty, the directory itself without its entries.
    /// `name` is the name in the archive.
    fn add(
        &mut self,
        walk: &Walk,
        file: &OsStr,
        name: &[u8],
        found: &Found,
    ) -> Result<(), PackError> {
        let Some(kind) = kind(found) else {
            return Ok(());
        };
        let (uid, gid) = self.owners.numbers(name, found.uid, found.gid);
        let user = self.owners.user(uid);
        let group = self.owners.group(gid);
        let mut header = EntryHeader {
            uid,
            gid,
            user: &user,
            group: &group,
            mtime: found.mtime.0.min(self.newest),
            ..EntryHeader::new(kind, name, found.mode)
        };
        self.packed.entries += 1;
        if kind == Kind::Directory {
            let name = [name, b"/"].concat();
            header.name = &name;
            return self.plain(&header);
        }
        if found.links > 1
            && let Some(first) = self.first_name(name, found)
        {
            header.kind = Kind::HardLink;
            header.link = &first;
            return self.plain(&header);
        }
        match kind {
            Kind::File => self.file(walk, file, header, found),
            Kind::Symlink => {
                let target = walk.read_link(file)?;
                header.link = &target;
                self.plain(&header)
            }
            Kind::CharacterDevice | Kind::BlockDevice => {
                header.device = Some(device(found.node_device));
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
        walk: &Walk,
        file: &OsStr,
        mut header: EntryHeader<'_>,
        listed: &Found,
    ) -> Result<(), PackError> {
        let path = &walk.path_of(file);
        // If a link or a FIFO has replaced the file, `open` neither follows the link nor blocks.
        let mut file = walk.open(file)?;
        let metadata = file.metadata().at("examine", path)?;
        if inode(&metadata) != listed.id() || !metadata.is_file() {
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

    /// The name of the earlier entry for a file with several hard links; `None` if there is no earlier entry.
    fn first_name(&mut self, name: &[u8], found: &Found) -> Option<Vec<u8>> {
        let Some((first, left)) = self.linked.get_mut(&found.id()) else {
            let others = found.links - 1;
            self.linked.insert(found.id(), (name.to_vec(), others));
            return None;
        };
        *left -= 1;
        if *left > 0 {
            return Some(first.clone());
        }
        self.linked.remove(&found.id()).map(|(first, _)| first)
    }
}

/// The kind of a file's entry. `None` for a socket: sockets are omitted, because they do not work without their process.
fn kind(found: &Found) -> Option<Kind> {
    Some(match found.kind() {
        FileType::Socket => return None,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::CharacterDevice => Kind::CharacterDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::RegularFile | FileType::Unknown => Kind::File,
    })
}

fn inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// The major and minor number, which have at most 32 bits on all systems.
fn device(number: u64) -> (u32, u32) {
    let half = |number| u32::try_from(number).unwrap_or(u32::MAX);
    (
        half(nix::sys::stat::major(number)),
        half(nix::sys::stat::minor(number)),
    )
}
