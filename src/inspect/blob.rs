//! The blobs in a tarball: their digests, and what their archives hold. Both come from one pass, so nothing is written to disk.

use std::io::{self, Read};
use std::path::Path;

use crate::archive::entry::normalize;
use crate::archive::{Compression, Decoder, Kind, Reader};
use crate::offline::{ContentProblem, JobContents, OpenError, Role};
use crate::release::Digests;
use crate::release::digest::Hasher;

/// A reader that hashes and counts what is read through it.
pub(super) struct Measured<R> {
    inner: R,
    hasher: Hasher,
    size: u64,
}

impl<R: Read> Measured<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: Hasher::all(),
            size: 0,
        }
    }

    /// The digests and the number of the bytes read so far.
    pub(super) fn finish(self) -> (Digests, u64) {
        (self.hasher.finish(), self.size)
    }
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.size += count as u64;
        Ok(count)
    }
}

/// A file in a release tarball.
#[derive(Debug)]
pub(super) struct Blob {
    pub size: u64,
    /// By all algorithms.
    pub digests: Digests,
    /// What the archive holds, as far as the checks of its role need it.
    pub content: Content,
}

/// What an archive in a release holds.
#[derive(Debug)]
pub(super) enum Content {
    /// The file is not a part of the release.
    Unknown,
    Package(Result<PackageContents, ContentProblem>),
    /// A job, or the license.
    Job(Result<JobContents, ContentProblem>),
}

/// What the archive of a package holds.
#[derive(Debug)]
pub(super) struct PackageContents {
    pub compression: Compression,
    /// The number of entries below the top directory.
    pub entries: u64,
    /// Whether there is a script `packaging`.
    pub has_script: bool,
    /// The first entry that would be extracted outside the package's directory.
    pub unsafe_path: Option<String>,
}

impl Blob {
    /// Reads a file to its end.
    ///
    /// # Errors
    /// The tarball ends early or is damaged.
    pub(super) fn read(file: impl Read, role: &Role) -> Result<Self, OpenError> {
        let mut file = Measured::new(file);
        let content = match role {
            Role::Package(_) | Role::CompiledPackage(_) => {
                Content::Package(PackageContents::read(&mut file))
            }
            Role::Job(_) | Role::License => Content::Job(JobContents::of_archive(&mut file)),
            Role::Manifest | Role::PackagesDirectory | Role::Stray | Role::Other => {
                Content::Unknown
            }
        };
        // The rest, if the archive is damaged. If the tarball is damaged, this fails again.
        io::copy(&mut file, &mut io::sink()).map_err(OpenError::Decode)?;
        let (digests, size) = file.finish();
        Ok(Self {
            size,
            digests,
            content,
        })
    }
}

impl PackageContents {
    fn read(file: impl Read) -> Result<Self, ContentProblem> {
        let decoder = Decoder::new(file).map_err(|error| ContentProblem::not_archive(&error))?;
        let mut contents = Self {
            compression: decoder.compression(),
            entries: 0,
            has_script: false,
            unsafe_path: None,
        };
        let mut reader = Reader::new(decoder);
        loop {
            let next = reader.next_entry();
            let Some(entry) = next.map_err(|error| ContentProblem::not_archive(&error))? else {
                break;
            };
            match normalize(&entry.name) {
                // The directory itself, `./`.
                Ok(path) if path.as_os_str().is_empty() => continue,
                Ok(path) => {
                    let is_script = path == Path::new("packaging") && entry.kind != Kind::Directory;
                    contents.has_script |= is_script;
                }
                Err(error) if contents.unsafe_path.is_none() => {
                    contents.unsafe_path = Some(error.to_string());
                }
                Err(_) => {}
            }
            contents.entries += 1;
        }
        let rest = reader.into_inner().finish();
        rest.map_err(|error| ContentProblem::not_archive(&error))?;
        Ok(contents)
    }
}
