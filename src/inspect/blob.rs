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
    /// For which role the archive was examined. A hard link may have another one.
    pub role: Role,
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
    License(Result<(), ContentProblem>),
    Job(Result<JobFacts, ContentProblem>),
}

/// What the checks need of a job's archive. The archive's list of files may be long.
#[derive(Debug)]
pub(super) struct JobFacts {
    /// Why a Director refuses the job.
    pub problems: Vec<ContentProblem>,
    /// The packages that `job.MF` lists; none if it is missing. `None` if it is not valid.
    pub packages: Option<Vec<String>>,
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
    pub(super) fn read(file: impl Read, role: Role) -> Result<Self, OpenError> {
        let mut file = Measured::new(file);
        let content = match &role {
            Role::Package(_) | Role::CompiledPackage(_) => {
                Content::Package(PackageContents::read(&mut file))
            }
            Role::Job(name) => Content::Job(JobFacts::read(&mut file, name)),
            Role::License => Content::License(JobContents::of_archive(&mut file).map(drop)),
            Role::Manifest | Role::PackagesDirectory | Role::Stray | Role::Other => {
                Content::Unknown
            }
        };
        // The rest, if the archive is damaged. If the tarball is damaged, this fails again.
        io::copy(&mut file, &mut io::sink()).map_err(OpenError::Decode)?;
        let (digests, size) = file.finish();
        Ok(Self {
            role,
            size,
            digests,
            content,
        })
    }

    /// Whether the content was examined for this role.
    pub(super) fn is_examined_as(&self, role: &Role) -> bool {
        let is_package = |it: &Role| matches!(it, Role::Package(_) | Role::CompiledPackage(_));
        self.role == *role || is_package(&self.role) && is_package(role)
    }

    /// The memory that the facts need in addition to that of every entry, in bytes.
    pub(super) fn memory(&self) -> usize {
        match &self.content {
            Content::Job(Ok(facts)) => facts.memory(),
            Content::Package(Ok(facts)) => facts.unsafe_path.as_ref().map_or(0, String::len),
            _ => 0,
        }
    }
}

impl JobFacts {
    /// How many problems of a job are kept.
    const PROBLEMS: usize = 100;

    /// The memory that a name needs in addition to its text, in bytes.
    const NAME_COST: usize = 40;

    fn read(file: impl Read, name: &str) -> Result<Self, ContentProblem> {
        let contents = JobContents::of_archive(file)?;
        let mut problems = contents.problems_of_job(name);
        problems.truncate(Self::PROBLEMS);
        Ok(Self {
            problems,
            packages: match contents.has_manifest() {
                true => contents.packages_of_job(),
                false => Some(Vec::new()),
            },
        })
    }

    fn memory(&self) -> usize {
        let paths = self.problems.iter().map(|problem| match problem {
            ContentProblem::OtherName { found: Some(text) }
            | ContentProblem::NoTemplate { path: text } => text.len(),
            _ => 0,
        });
        let packages = self.packages.iter().flatten().map(String::len);
        let texts = paths.chain(packages).map(|it| it + Self::NAME_COST);
        texts.sum()
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
