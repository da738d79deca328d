//! Unpacks the layers of an image into one directory.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::budget::Budget;
use super::error::ImageError;
use super::layers::{Action, Layers, Step};
use crate::archive::{Decoder, Entry, Files, Reader, UnpackError};
use crate::fs;
use crate::release::Algorithm;
use crate::release::digest::{Digests, Hasher};
use crate::runtime::ReadAhead;

/// Whether files get the owners that the image names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Files get the owners in the image.
    OfImage,
    /// All files belong to the current user, who may not change owners.
    Current,
}

/// The attributes of a directory, which are set at the end.
struct Attributes {
    mode: u32,
    mtime: i64,
    uid: u32,
    gid: u32,
}

impl Attributes {
    /// The attributes of directories that no layer lists.
    const DEFAULT: Self = Self {
        mode: 0o755,
        mtime: 0,
        uid: 0,
        gid: 0,
    };
}

/// A root file system that is being unpacked into an empty directory.
pub(super) struct Root<'a> {
    files: Files,
    layers: Layers,
    owners: Owners,
    directories: BTreeMap<PathBuf, Attributes>,
    destination: PathBuf,
    budget: Budget,
    stop: &'a dyn Fn() -> bool,
}

impl<'a> Root<'a> {
    pub(super) fn new(
        destination: &Path,
        layers: Layers,
        owners: Owners,
        stop: &'a dyn Fn() -> bool,
    ) -> Result<Self, ImageError> {
        let unpack = |source| ImageError::Unpack {
            file: destination.to_owned(),
            source,
        };
        Ok(Self {
            files: Files::new(destination).map_err(unpack)?,
            layers,
            owners,
            directories: BTreeMap::new(),
            destination: destination.to_owned(),
            budget: Budget::new(fs::space(destination)?.free),
            stop,
        })
    }

    /// Unpacks a layer, which may be compressed, on top of the earlier ones. Reads it to its end. Returns the SHA-256 of the decompressed
    /// layer. `file` names it in errors.
    pub(super) fn add_file(
        &mut self,
        layer: impl Read + Send + 'static,
        file: &Path,
    ) -> Result<Digests, ImageError> {
        let decode = |source| decode(file, source);
        let decoder = Decoder::new(layer).map_err(decode)?;
        let mut decoded = Hashed::new(ReadAhead::new(decoder), &[Algorithm::Sha256]);
        self.add(&mut decoded, file)?;
        decoded.finish().map_err(decode)
    }

    /// Like [`add_file`](Self::add_file), but decompresses in this thread, and computes no digest.
    pub(super) fn add_here(&mut self, layer: impl Read, file: &Path) -> Result<(), ImageError> {
        let decode = |source| decode(file, source);
        let mut decoder = Decoder::new(layer).map_err(decode)?;
        self.add(&mut decoder, file)?;
        decoder.finish().map_err(decode)
    }

    fn add(&mut self, decoded: impl Read, file: &Path) -> Result<(), ImageError> {
        let mut archive = Reader::new(decoded);
        while let Some(entry) = archive.next_entry().map_err(|source| ImageError::Archive {
            file: file.to_owned(),
            source,
        })? {
            if (self.stop)() {
                return Err(ImageError::Stopped);
            }
            self.check_space(&entry, file)?;
            let step = self.layers.add((&entry).into());
            let step = step.map_err(|source| ImageError::Layer {
                file: file.to_owned(),
                source,
            })?;
            let done = self.carry_out(step, &entry, &mut archive);
            done.map_err(|source| ImageError::Unpack {
                file: file.to_owned(),
                source,
            })?;
        }
        self.layers.next_layer();
        Ok(())
    }

    /// Refuses an entry whose data does not fit into the free space.
    fn check_space(&mut self, entry: &Entry, file: &Path) -> Result<(), ImageError> {
        let stored = entry.size - entry.holes();
        let free = || fs::space(&self.destination).map(|it| it.free);
        match self.budget.take(stored, free)? {
            true => Ok(()),
            false => Err(ImageError::TooLarge {
                file: file.to_owned(),
                limit: self.budget.limit(),
            }),
        }
    }

    fn carry_out<R: Read>(
        &mut self,
        step: Step,
        entry: &Entry,
        archive: &mut Reader<R>,
    ) -> Result<(), UnpackError> {
        for path in step.directories {
            self.files.tree.directory(&path)?;
            self.directories.insert(path, Attributes::DEFAULT);
        }
        for path in &step.remove {
            self.files.tree.remove(path)?;
            self.directories.remove(path);
        }
        let path = match step.action {
            None | Some(Action::Skip(_)) => return Ok(()),
            Some(Action::HardLink { path, target }) => {
                return self.files.tree.hard_link(&path, &target);
            }
            Some(Action::Directory(path)) => {
                if path != Path::new("") {
                    self.files.tree.directory(&path)?;
                }
                let attributes = Attributes {
                    mode: entry.mode,
                    mtime: entry.mtime,
                    uid: entry.owner.uid,
                    gid: entry.owner.gid,
                };
                self.directories.insert(path, attributes);
                return Ok(());
            }
            Some(Action::File(path)) => {
                self.files.file(&path, entry, archive)?;
                path
            }
            Some(Action::Fifo(path)) => {
                self.files.tree.fifo(&path, entry.mode, entry.mtime)?;
                path
            }
            Some(Action::Symlink(path)) => {
                let target = Path::new(OsStr::from_bytes(&entry.link));
                self.files.tree.symlink(&path, target, entry.mtime)?;
                return self.set_owner(&path, (entry.owner.uid, entry.owner.gid), None);
            }
        };
        let owner = (entry.owner.uid, entry.owner.gid);
        self.set_owner(&path, owner, Some(entry.mode))
    }

    /// Sets the owner of a new file. Then sets a mode with set-user-ID or set-group-ID bits again, because the kernel clears these bits
    /// when the owner changes.
    fn set_owner(
        &mut self,
        path: &Path,
        (uid, gid): (u32, u32),
        mode: Option<u32>,
    ) -> Result<(), UnpackError> {
        if self.owners == Owners::Current || (uid, gid) == (0, 0) {
            return Ok(());
        }
        self.files.tree.set_owner(path, uid, gid)?;
        match mode.filter(|mode| mode & 0o6000 != 0) {
            Some(mode) => self.files.tree.set_mode(path, mode),
            None => Ok(()),
        }
    }

    /// Sets the attributes of directories, after all files are in them.
    pub(super) fn finish(mut self, destination: &Path) -> Result<(), ImageError> {
        let directories = std::mem::take(&mut self.directories);
        // In reverse order, the contents of a directory precede it: changing them would change its mtime.
        for (path, it) in directories.into_iter().rev() {
            let set = self.set_owner(&path, (it.uid, it.gid), None);
            let set = set.and_then(|()| {
                let tree = &mut self.files.tree;
                tree.finish_directory(&path, it.mode, it.mtime)
            });
            set.map_err(|source| ImageError::Unpack {
                file: destination.to_owned(),
                source,
            })?;
        }
        Ok(())
    }
}

fn decode(file: &Path, source: io::Error) -> ImageError {
    ImageError::Decode {
        file: file.to_owned(),
        source,
    }
}

/// A reader that hashes what is read through it.
pub(super) struct Hashed<R> {
    input: R,
    hasher: Hasher,
}

impl<R: Read> Hashed<R> {
    pub(super) fn new(input: R, algorithms: &[Algorithm]) -> Self {
        Self {
            input,
            hasher: Hasher::new(algorithms),
        }
    }

    /// Reads the rest of the input. Returns the digests of the whole input.
    pub(super) fn finish(mut self) -> io::Result<Digests> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hasher.finish())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
