//! Reads a release tarball in one pass, without writing anything: blobs are hashed and examined while they are read.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blob::{Blob, Measured};
use crate::archive::entry::normalize;
use crate::archive::{Compression, Entry, Kind, ReadError, Reader};
use crate::offline::{
    Holes, Lookalike, OpenError, Role, first_entry, open_file, path_of_entry, read_manifest,
};

/// The maximum memory for the paths in a tarball and the facts about its blobs, in bytes. A limit
/// is needed because tarballs may come from untrusted sources.
const MEMORY_LIMIT: usize = 64 << 20;

/// The memory that an entry needs in addition to its path, in bytes.
const ENTRY_COST: usize = 200;

/// The contents of a tarball, as far as they could be read.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// The size of the tarball in bytes.
    pub size: u64,
    /// The SHA-256 of the whole tarball.
    pub sha256: String,
    pub compression: Option<Compression>,
    /// The text of `release.MF`.
    pub manifest: Option<Vec<u8>>,
    /// The entries by path. If several entries have the same path, the last one is kept, as by
    /// `tar`.
    pub members: HashMap<PathBuf, Member>,
    /// The paths of files that occur more than once.
    pub duplicates: Vec<PathBuf>,
    /// Why the rest of the tarball could not be read.
    pub damage: Option<Damage>,
}

/// Why a tarball was not read to its end.
#[derive(Debug)]
pub(super) enum Damage {
    /// The tarball is damaged or is not a release.
    Unreadable(OpenError),
    /// The paths of the entries, or the facts about the blobs, need too much memory.
    TooManyEntries,
}

/// An entry of a tarball.
#[derive(Debug)]
pub(super) struct Member {
    pub role: Role,
    /// The contents of the entry, if it is a file.
    pub blob: Option<Arc<Blob>>,
    pub is_symlink: bool,
}

impl From<OpenError> for Damage {
    fn from(error: OpenError) -> Self {
        Self::Unreadable(error)
    }
}

/// Reads a tarball.
///
/// # Errors
/// If the file cannot be opened or read. A damaged tarball is not an error; [`Contents::damage`]
/// has the reason.
pub(super) fn read(tarball: &Path) -> Result<Contents, OpenError> {
    let (file, _) = open_file(tarball)?;
    let mut file = Measured::new(file);
    let mut contents = Contents::default();
    match contents.read(&mut file) {
        Err(Damage::Unreadable(error)) if !is_caused_by_contents(&error) => return Err(error),
        read => contents.damage = read.err(),
    }
    // After damage, read the rest of the file, because the digest covers the whole file.
    io::copy(&mut file, &mut io::sink()).map_err(OpenError::Decode)?;
    let (digests, size) = file.finish();
    contents.size = size;
    contents.sha256 = digests.sha256().unwrap_or_default().to_owned();
    Ok(contents)
}

/// Whether an error is caused by the contents of a file, and not by a wrong path or a failure of
/// the system.
pub(super) fn is_caused_by_contents(error: &OpenError) -> bool {
    let source = match error {
        OpenError::Decode(source) | OpenError::Read(ReadError::Input { source }) => source,
        OpenError::Files(_)
        | OpenError::Url { .. }
        | OpenError::NoMatch { .. }
        | OpenError::Absent { .. }
        | OpenError::Directory { .. } => return false,
        OpenError::Read(_)
        | OpenError::Path { .. }
        | OpenError::Lookalike(_)
        | OpenError::NoManifest(_)
        | OpenError::OddManifest(_)
        | OpenError::Manifest(_)
        | OpenError::Sparse { .. }
        | OpenError::Link { .. } => return true,
    };
    source.raw_os_error().is_none()
}

impl Contents {
    fn read(&mut self, file: impl Read) -> Result<(), Damage> {
        let (mut reader, mut next) = first_entry(file, |decoded| {
            self.compression = Some(decoded.inner().compression());
            decoded
        })?;
        let (mut memory, mut holes) = (0, Holes::default());
        while let Some(entry) = next {
            holes.add(&entry)?;
            memory += entry.name.len() + ENTRY_COST;
            if memory <= MEMORY_LIMIT {
                memory += self.add(&entry, &mut reader)?;
            }
            if memory > MEMORY_LIMIT {
                return Err(Damage::TooManyEntries);
            }
            next = reader.next_entry().map_err(OpenError::Read)?;
        }
        let mut rest = reader.into_inner();
        io::copy(&mut rest, &mut io::sink()).map_err(OpenError::Decode)?;
        match self.manifest {
            Some(_) => Ok(()),
            None => {
                let paths = self.members.keys().map(PathBuf::as_path);
                Err(OpenError::NoManifest(Lookalike::of_paths(paths)).into())
            }
        }
    }

    /// Adds the current entry of a reader. Returns the memory that the facts about its contents need, in
    /// bytes.
    fn add(&mut self, entry: &Entry, reader: &mut Reader<impl Read>) -> Result<usize, OpenError> {
        let path = path_of_entry(entry)?;
        let role = Role::of(&path);
        if role == Role::Manifest {
            return self.add_manifest(entry, reader).map(|()| 0);
        }
        let mut memory = 0;
        let blob = match entry.kind {
            Kind::File => {
                let blob = Blob::read(reader.whole(entry), role.clone())?;
                memory = blob.memory();
                Some(Arc::new(blob))
            }
            Kind::HardLink => Some(self.linked(&path, entry)?),
            _ => None,
        };
        let member = Member {
            role,
            blob,
            is_symlink: entry.kind == Kind::Symlink,
        };
        match self.members.entry(path) {
            Slot::Vacant(slot) => {
                slot.insert(member);
            }
            Slot::Occupied(mut slot) => {
                if entry.kind != Kind::Directory {
                    self.duplicates.push(slot.key().clone());
                }
                slot.insert(member);
            }
        }
        Ok(memory)
    }

    fn add_manifest(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<impl Read>,
    ) -> Result<(), OpenError> {
        if entry.kind != Kind::File {
            return Err(OpenError::OddManifest("not a regular file".to_owned()));
        }
        let text = read_manifest(reader, entry)?;
        if self.manifest.replace(text).is_some() {
            self.duplicates.push("release.MF".into());
        }
        Ok(())
    }

    /// Returns the contents of the file to which a hard link leads.
    fn linked(&self, path: &Path, entry: &Entry) -> Result<Arc<Blob>, OpenError> {
        let target = normalize(&entry.link).ok();
        let target = target.and_then(|it| self.members.get(&it)?.blob.clone());
        target.ok_or_else(|| OpenError::Link {
            path: path.to_owned(),
            target: String::from_utf8_lossy(&entry.link).into_owned(),
        })
    }

    /// The contents of the file with this path.
    pub(super) fn blob(&self, path: &Path) -> Option<&Blob> {
        self.members.get(path)?.blob.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{EntryHeader, EntryWriter};
    use crate::fs;

    #[test]
    fn facts_about_jobs_need_limited_memory() {
        let names = "- n\n".repeat(900_000);
        let text = format!("name: web\npackages:\n{names}");
        let archive = |name: &str, content: &[u8]| {
            let mut header = EntryHeader::new(Kind::File, name.as_bytes(), 0o644);
            header.size = content.len() as u64;
            let mut writer = EntryWriter::new(Vec::new());
            writer.append(&header, content).unwrap();
            writer.finish().unwrap()
        };
        let job = archive("job.MF", text.as_bytes());
        let mut writer = EntryWriter::new(Vec::new());
        for name in ["jobs/a.tgz", "jobs/b.tgz", "jobs/c.tgz"] {
            let mut header = EntryHeader::new(Kind::File, name.as_bytes(), 0o644);
            header.size = job.len() as u64;
            writer.append(&header, &job[..]).unwrap();
        }
        let scratch = tempfile::tempdir().unwrap();
        let tarball = scratch.path().join("a.tgz");
        fs::write(&tarball, &writer.finish().unwrap()).unwrap();
        let contents = read(&tarball).unwrap();
        assert!(matches!(contents.damage, Some(Damage::TooManyEntries)));
        assert!(contents.members.len() < 3);
    }

    #[test]
    fn paths_of_a_tarball_need_limited_memory() {
        let mut writer = EntryWriter::new(Vec::new());
        let name = "n".repeat((1 << 20) - 100);
        for number in 0..65 {
            let name = format!("{number}/{name}");
            let header = EntryHeader::new(Kind::Directory, name.as_bytes(), 0o755);
            writer.append(&header, b"".as_slice()).unwrap();
        }
        let scratch = tempfile::tempdir().unwrap();
        let tarball = scratch.path().join("a.tgz");
        fs::write(&tarball, &writer.finish().unwrap()).unwrap();
        let contents = read(&tarball).unwrap();
        assert!(matches!(contents.damage, Some(Damage::TooManyEntries)));
        assert!(contents.members.len() < 65);
    }
}
