//! The blobs (archives) in a release tarball. Their digests and the facts about their contents are
//! collected in one pass, so nothing is written to disk.

use std::io::{self, Read};
use std::path::Path;

use crate::archive::entry::normalize;
use crate::archive::{Compression, Decoder, Kind, Reader};
use crate::offline::{ContentProblem, JobContents, OpenError, Role};
use crate::release::Digests;
use crate::release::digest::Hasher;

/// A reader that hashes and counts the bytes that are read through it.
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
    /// The role (package, job, ...) for which the file was examined. A hard link to the file may have
    /// another role.
    pub role: Role,
    pub size: u64,
    /// The digests by all algorithms.
    pub digests: Digests,
    /// The facts about the contents that the checks of the role need.
    pub content: Content,
}

/// The facts about the contents of a file, or the problem that prevented the examination.
#[derive(Debug)]
pub(super) enum Content {
    /// The file was not examined, because it is not a package, a job or the license.
    Unknown,
    Package(Result<PackageContents, ContentProblem>),
    License(Result<(), ContentProblem>),
    Job(Result<JobFacts, ContentProblem>),
}

/// The facts about a job's archive. The list of its files is not kept, because it may be long.
#[derive(Debug)]
pub(super) struct JobFacts {
    /// Why a Director refuses the job.
    pub problems: Vec<ContentProblem>,
    /// The packages that `job.MF` lists; empty if `job.MF` is missing. `None` if it is invalid.
    pub packages: Option<Vec<String>>,
}

/// The facts about a package's archive.
#[derive(Debug)]
pub(super) struct PackageContents {
    pub compression: Compression,
    /// The number of entries below the top directory.
    pub entries: u64,
    /// Whether there is a file `packaging`, the packaging script.
    pub has_script: bool,
    /// The first entry that would be extracted outside the package's directory.
    pub unsafe_path: Option<String>,
}

impl Blob {
    /// Reads a file to its end, and examines it for `role`.
    ///
    /// # Errors
    /// If the tarball ends early or is damaged.
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
        // The digests cover the rest of a damaged archive, too. Fails if the tarball itself is damaged.
        io::copy(&mut file, &mut io::sink()).map_err(OpenError::Decode)?;
        let (digests, size) = file.finish();
        Ok(Self {
            role,
            size,
            digests,
            content,
        })
    }

    /// Whether the contents were examined for this role.
    pub(super) fn is_examined_as(&self, role: &Role) -> bool {
        let is_package = |it: &Role| matches!(it, Role::Package(_) | Role::CompiledPackage(_));
        self.role == *role || is_package(&self.role) && is_package(role)
    }

    /// The memory that the facts about the contents need, in bytes.
    pub(super) fn memory(&self) -> usize {
        match &self.content {
            Content::Job(Ok(facts)) => facts.memory(),
            Content::Package(Ok(facts)) => facts.unsafe_path.as_ref().map_or(0, String::len),
            _ => 0,
        }
    }
}

impl JobFacts {
    /// The maximum number of problems of one job that are kept.
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
                // Skip `./`, the entry of the top directory itself.
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
