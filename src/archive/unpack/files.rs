//! Writes the content of regular files while an archive is unpacked.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::error::UnpackError;
use super::tree::Tree;
use crate::archive::CHUNK;
use crate::archive::read::{Entry, Reader};
use crate::archive::sparse::Piece;
use crate::fs::Context;

/// The destination of an archive, with a buffer for the content of files.
pub(crate) struct Files {
    pub(crate) tree: Tree,
    buffer: Vec<u8>,
}

impl Files {
    /// Unpacks files into an existing directory.
    pub(crate) fn new(destination: &Path) -> Result<Self, UnpackError> {
        Ok(Self {
            tree: Tree::open(destination)?,
            buffer: vec![0; CHUNK],
        })
    }

    /// Creates the regular file of an entry, with its content, mode and time. Replaces an existing file. Returns the number of bytes that
    /// were written, without holes.
    pub(crate) fn file<R: Read>(
        &mut self,
        path: &Path,
        entry: &Entry,
        archive: &mut Reader<R>,
    ) -> Result<u64, UnpackError> {
        let mut file = self.tree.create(path)?;
        let mut written = 0;
        if let Some(pieces) = &entry.pieces {
            let full = self.tree.full(path);
            file.set_len(entry.size).at("set the length of", &full)?;
            for Piece { offset, length } in pieces {
                file.seek(SeekFrom::Start(*offset)).at("write to", &full)?;
                written += self.copy(*length, &mut file, path, archive)?;
            }
        } else {
            written += self.copy(entry.size, &mut file, path, archive)?;
        }
        self.tree
            .finish_file(path, &file, entry.mode, entry.mtime)?;
        Ok(written)
    }

    fn copy<R: Read>(
        &mut self,
        mut left: u64,
        file: &mut File,
        path: &Path,
        archive: &mut Reader<R>,
    ) -> Result<u64, UnpackError> {
        let mut written = 0;
        while left > 0 {
            let wanted = self
                .buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = archive.read_content(&mut self.buffer[..wanted])?;
            if read == 0 {
                // Not reached, because the reader has compared the pieces with the size of the content. It only excludes an endless loop.
                break;
            }
            file.write_all(&self.buffer[..read])
                .at("write to", &self.tree.full(path))?;
            left -= read as u64;
            written += read as u64;
        }
        Ok(written)
    }
}
