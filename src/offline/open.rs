//! One pass over a release tarball.
//!
//! Blobs stream to disk while they are hashed; the manifest may come first or last. Only exact normalised paths mean
//! anything: a `docs/release.MF` is just a file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::clutter::is_clutter;
use super::inspect::Problem;
use super::jobs;
use super::lookalike::{self, Lookalike};
use crate::archive::compression::DecodeError;
use crate::archive::entry::{EntryPathError, normalise};
use crate::archive::{Decoder, Entry, Kind, ReadError, Reader};
use crate::fs::{self, Context};
use crate::release::digest::{Hasher, HashingWriter};
use crate::release::{Algorithm, Digests, Manifest, ManifestProblem, MultiDigest};
use crate::runtime::{Cancellable, ReadAhead};

/// No manifest is longer, in bytes. The largest releases have some hundred kilobytes.
const MANIFEST_LIMIT: u64 = 64 << 20;

const BUFFER: usize = 128 * 1024;

/// What a path inside a release tarball means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// `release.MF`.
    Manifest,
    /// `packages` or `compiled_packages`, the directory.
    PackagesDirectory,
    /// `packages/NAME.tgz`.
    Package(String),
    /// `compiled_packages/NAME.tgz`.
    CompiledPackage(String),
    /// `jobs/NAME.tgz`.
    Job(String),
    /// `license.tgz`.
    License,
    /// Anything else directly in `packages` or `compiled_packages`, which no consumer reads.
    Stray,
    /// Anything else.
    Other,
}

impl Role {
    pub(super) fn of(path: &Path) -> Self {
        let Some(path) = path.to_str() else {
            return Self::Other;
        };
        match path {
            "release.MF" => return Self::Manifest,
            "license.tgz" => return Self::License,
            "packages" | "compiled_packages" => return Self::PackagesDirectory,
            _ => {}
        }
        let Some((directory, file)) = path.split_once('/') else {
            return Self::Other;
        };
        if file.contains('/') {
            return Self::Other;
        }
        let name = file.strip_suffix(".tgz").filter(|name| !name.is_empty());
        match (directory, name) {
            ("packages", Some(name)) => Self::Package(name.to_owned()),
            ("compiled_packages", Some(name)) => Self::CompiledPackage(name.to_owned()),
            ("jobs", Some(name)) => Self::Job(name.to_owned()),
            ("packages" | "compiled_packages", None) => Self::Stray,
            _ => Self::Other,
        }
    }
}

/// One entry of the tarball. Of several for one path the last counts, as in tar.
#[derive(Debug, Clone)]
pub(super) struct Carried {
    /// The normalised path.
    pub path: PathBuf,
    /// What the path means.
    pub role: Role,
    /// The header.
    pub entry: Entry,
    /// The contents of a file.
    pub blob: Option<Blob>,
}

/// A file of the tarball on the disk.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub file: PathBuf,
    pub size: u64,
    pub digests: Digests,
}

/// A release as its tarball has it.
#[derive(Debug)]
pub(super) struct Opened {
    /// The tarball.
    pub tarball: PathBuf,
    /// Whether it can be read again: a pipe cannot.
    pub is_file: bool,
    /// The SHA-256 of the whole tarball, as it was read.
    pub digests: Digests,
    pub manifest: Manifest,
    /// In the tarball's order.
    pub carried: Vec<Carried>,
    /// Files of operating systems and tools, which are left out.
    pub clutter: Vec<PathBuf>,
    /// What is wrong with the contents of jobs and the license.
    pub problems: Vec<Problem>,
}

/// Why a tarball is no release.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file operation failed.
    #[error(transparent)]
    Files(#[from] fs::Error),
    /// It cannot be decompressed.
    #[error("failed to read the tarball")]
    Decode(#[source] io::Error),
    /// It is no tar archive, or a damaged one.
    #[error("failed to read the tarball")]
    Read(#[from] ReadError),
    /// An entry would be unpacked outside.
    #[error("entry `{name}`")]
    Path {
        /// The entry's name as it stands.
        name: String,
        /// What is wrong with it.
        source: EntryPathError,
    },
    /// It is something else than a tar archive.
    #[error("{0}")]
    Lookalike(Lookalike),
    /// A directory is given that has a release in it.
    #[error("it is a directory, not a tarball: {}", advice)]
    Directory {
        /// What to do.
        advice: String,
    },
    /// There is no manifest.
    #[error("there is no release.MF at the top of the tarball: {0}")]
    NoManifest(Lookalike),
    /// The manifest is no file, or too long.
    #[error("release.MF is {0}")]
    OddManifest(String),
    /// The manifest does not say what it must.
    #[error("release.MF is not valid")]
    Manifest(Vec<ManifestProblem>),
    /// A link leads to nothing that came before.
    #[error("entry `{}` is a link to `{target}`, which is not in the tarball before it", path.display())]
    Link {
        /// The entry.
        path: PathBuf,
        /// What it links to.
        target: String,
    },
}

/// Reads a tarball. Files go to `spool`, a directory for this tarball alone.
pub(super) fn open(
    tarball: &Path,
    spool: &Path,
    cancel: &CancellationToken,
) -> Result<Opened, OpenError> {
    let file = fs::open(tarball)?;
    if file.metadata().at("examine", tarball)?.is_dir() {
        if let Some(advice) = advice_on_directory(tarball) {
            return Err(OpenError::Directory { advice });
        }
        return Err(io::Error::from_raw_os_error(
            nix::errno::Errno::EISDIR as i32,
        ))
        .at("read", tarball)
        .map_err(OpenError::Files);
    }
    let is_file = file.metadata().at("examine", tarball)?.is_file();
    let hasher = Arc::new(Mutex::new(Hasher::new(&[Algorithm::Sha256])));
    let (raw, beginning) = Beginning::new(Hashed {
        inner: Cancellable::new(file, cancel),
        hasher: Arc::clone(&hasher),
    });
    let decoder =
        Decoder::new(raw).map_err(|error| recognized(OpenError::Decode(error), &beginning))?;
    let (decoded, beginning) = Beginning::new(decoder);
    let mut pass = Pass {
        reader: Reader::new(ReadAhead::new(decoded)),
        spool,
        manifest: None,
        carried: Vec::new(),
        places: HashMap::new(),
        spooled: 0,
    };
    let mut next = || pass.reader.next_entry();
    let mut entry = next().map_err(|error| recognized(error.into(), &beginning))?;
    while let Some(found) = entry {
        pass.take(found)?;
        entry = pass.reader.next_entry()?;
    }
    let Pass {
        reader,
        manifest,
        carried,
        ..
    } = pass;
    reader.into_inner().finish().map_err(OpenError::Decode)?;
    let digests = locked(&hasher).clone().finish();
    let mut carried: Vec<Carried> = carried.into_iter().flatten().collect();
    let manifest = manifest.ok_or_else(|| {
        let paths = carried.iter().map(|carried| carried.path.as_path());
        OpenError::NoManifest(Lookalike::of_paths(paths))
    })?;
    let manifest = manifest.map_err(OpenError::Manifest)?;
    let clutter = remove_clutter(&manifest, &mut carried)?;
    for carried in &mut carried {
        complete_digests(&manifest, carried)?;
    }
    let problems = jobs::problems(&manifest, &carried, cancel)?;
    Ok(Opened {
        clutter,
        problems,
        tarball: tarball.to_owned(),
        is_file,
        digests,
        manifest,
        carried,
    })
}

/// What the file is, where that can be told from its beginning; else the error.
fn recognized(error: OpenError, beginning: &Mutex<Vec<u8>>) -> OpenError {
    let is_foreign = match &error {
        OpenError::Read(ReadError::NotTar) => true,
        OpenError::Decode(error) => error.get_ref().is_some_and(|inner| {
            matches!(
                inner.downcast_ref(),
                Some(DecodeError::Empty | DecodeError::Unknown)
            )
        }),
        _ => false,
    };
    let beginning = beginning.lock().unwrap_or_else(PoisonError::into_inner);
    match Lookalike::of_bytes(&beginning) {
        Some(found) if is_foreign => OpenError::Lookalike(found),
        _ => error,
    }
}

/// What to do with a directory that is given as a release.
fn advice_on_directory(directory: &Path) -> Option<String> {
    let has = |name: &str| fs::metadata(&directory.join(name)).is_ok_and(|found| found.is_file());
    if has("release.MF") {
        return Some(format!(
            "pack the release in it, for example with `tar -czf RELEASE.tgz -C {} .`",
            directory.display()
        ));
    }
    (has("config/final.yml") || has("config/dev.yml")).then(|| {
        "run `bosh create-release --tarball=RELEASE.tgz` in it, and pass that tarball".to_owned()
    })
}

/// Takes files of operating systems and tools out of what a tarball carries, and returns their paths. A file that the manifest
/// lists is none of them, whatever its name.
fn remove_clutter(
    manifest: &Manifest,
    carried: &mut Vec<Carried>,
) -> Result<Vec<PathBuf>, OpenError> {
    let (mut kept, mut clutter) = (Vec::new(), Vec::new());
    for entry in carried.drain(..) {
        if !is_clutter(&entry.path) || expected_digest(manifest, &entry.role).is_some() {
            kept.push(entry);
            continue;
        }
        if let Some(blob) = &entry.blob {
            fs::remove_file_if_there(&blob.file)?;
        }
        clutter.push(entry.path);
    }
    *carried = kept;
    Ok(clutter)
}

/// Hashes a blob once more of which other digests were taken than the manifest names. That is so where an earlier manifest was
/// another one, or an earlier name of the blob was linked to.
fn complete_digests(manifest: &Manifest, carried: &mut Carried) -> Result<(), OpenError> {
    let (Some(digest), Some(blob)) = (expected_digest(manifest, &carried.role), &mut carried.blob)
    else {
        return Ok(());
    };
    let mut wanted = digest.algorithms();
    if wanted.iter().any(|it| blob.digests.get(*it).is_none()) {
        wanted.push(Algorithm::Sha256);
        let mut out = HashingWriter::new(io::sink(), Hasher::new(&wanted));
        io::copy(&mut fs::open(&blob.file)?, &mut out).at("read", &blob.file)?;
        blob.digests = out.finish().1;
    }
    Ok(())
}

/// A reader whose bytes are hashed, wherever it is read.
struct Hashed<R> {
    inner: R,
    hasher: Arc<Mutex<Hasher>>,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        locked(&self.hasher).update(&buffer[..count]);
        Ok(count)
    }
}

/// A reader of which the first bytes are kept.
struct Beginning<R> {
    inner: R,
    kept: Arc<Mutex<Vec<u8>>>,
    is_full: bool,
}

impl<R> Beginning<R> {
    fn new(inner: R) -> (Self, Arc<Mutex<Vec<u8>>>) {
        let kept = Arc::default();
        let reader = Self {
            inner,
            kept: Arc::clone(&kept),
            is_full: false,
        };
        (reader, kept)
    }
}

impl<R: Read> Read for Beginning<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if !self.is_full {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let wanted = lookalike::BEGINNING.saturating_sub(kept.len()).min(count);
            kept.extend_from_slice(&buffer[..wanted]);
            self.is_full = kept.len() >= lookalike::BEGINNING;
        }
        Ok(count)
    }
}

fn locked(hasher: &Mutex<Hasher>) -> MutexGuard<'_, Hasher> {
    hasher.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The state of a pass.
struct Pass<'a, R> {
    reader: Reader<R>,
    spool: &'a Path,
    manifest: Option<Result<Manifest, Vec<ManifestProblem>>>,
    /// An entry that a later one replaced leaves a gap.
    carried: Vec<Option<Carried>>,
    places: HashMap<PathBuf, usize>,
    spooled: usize,
}

impl<R: Read> Pass<'_, R> {
    fn take(&mut self, entry: Entry) -> Result<(), OpenError> {
        let path = normalise(&entry.name).map_err(|source| OpenError::Path {
            name: entry.display_name().display().to_string(),
            source,
        })?;
        if path.as_os_str().is_empty() {
            // The root itself, `./`.
            return Ok(());
        }
        let role = Role::of(&path);
        let blob = match entry.kind {
            Kind::File if role == Role::Manifest => {
                let text = self.read_manifest(&entry)?;
                self.manifest = Some(Manifest::parse(&text));
                None
            }
            Kind::File => Some(self.spool_file(&role, &entry)?),
            Kind::HardLink => {
                let target = self.linked(&path, &entry)?;
                if role == Role::Manifest {
                    self.manifest = Some(Manifest::parse(&fs::read(&target.file)?));
                }
                Some(target)
            }
            _ if role == Role::Manifest => {
                return Err(OpenError::OddManifest("not a file".to_owned()));
            }
            _ => None,
        };
        let carried = Carried {
            path: path.clone(),
            role,
            entry,
            blob,
        };
        self.place(path, carried);
        Ok(())
    }

    /// A directory keeps its first place, before its contents; a file takes the last.
    fn place(&mut self, path: PathBuf, carried: Carried) {
        let is_directory = carried.entry.kind == Kind::Directory;
        if let Some(place) = self.places.get(&path) {
            let earlier = &mut self.carried[*place];
            let was_directory = earlier
                .as_ref()
                .is_some_and(|earlier| earlier.entry.kind == Kind::Directory);
            if is_directory && was_directory {
                *earlier = Some(carried);
                return;
            }
            *earlier = None;
        }
        self.places.insert(path, self.carried.len());
        self.carried.push(Some(carried));
    }

    fn read_manifest(&mut self, entry: &Entry) -> Result<Vec<u8>, OpenError> {
        if entry.size > MANIFEST_LIMIT {
            return Err(OpenError::OddManifest(format!(
                "too long: {} bytes",
                entry.size
            )));
        }
        let mut text = Vec::new();
        self.reader
            .whole(entry)
            .read_to_end(&mut text)
            .map_err(OpenError::Decode)?;
        Ok(text)
    }

    /// The digests that are wanted of a blob: its SHA-256, by which packages are told apart, and those that the manifest names.
    /// A manifest that is still to come may name any.
    fn algorithms(&self, role: &Role) -> Vec<Algorithm> {
        match &self.manifest {
            Some(Ok(manifest)) => {
                let named = expected_digest(manifest, role).map(MultiDigest::algorithms);
                let mut algorithms = named.unwrap_or_default();
                algorithms.push(Algorithm::Sha256);
                algorithms
            }
            _ => Algorithm::ALL.to_vec(),
        }
    }

    fn spool_file(&mut self, role: &Role, entry: &Entry) -> Result<Blob, OpenError> {
        let path = self.next_file();
        let file: File = fs::create(&path)?;
        let mut out = HashingWriter::new(
            BufWriter::with_capacity(BUFFER, file),
            Hasher::new(&self.algorithms(role)),
        );
        let mut content = self.reader.whole(entry);
        let mut buffer = vec![0; BUFFER];
        loop {
            // What goes wrong on this side has the archive's error inside, and on that side the file's.
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(OpenError::Decode(error)),
            };
            out.write_all(&buffer[..count]).at("write", &path)?;
        }
        let size = out.count();
        let (mut writer, digests) = out.finish();
        writer.flush().at("write", &path)?;
        Ok(Blob {
            file: path,
            size,
            digests,
        })
    }

    /// What a hard link leads to, as a file of its own: each is removed when it is done with.
    fn linked(&mut self, path: &Path, entry: &Entry) -> Result<Blob, OpenError> {
        let target = normalise(&entry.link)
            .ok()
            .and_then(|target| self.places.get(&target))
            .and_then(|place| self.carried[*place].as_ref()?.blob.clone())
            .ok_or_else(|| OpenError::Link {
                path: path.to_owned(),
                target: String::from_utf8_lossy(&entry.link).into_owned(),
            })?;
        let file = self.next_file();
        fs::hard_link(&target.file, &file)?;
        Ok(Blob { file, ..target })
    }

    fn next_file(&mut self) -> PathBuf {
        let path = self.spool.join(self.spooled.to_string());
        self.spooled += 1;
        path
    }
}

/// What a manifest says of the digest of a role's blob.
fn expected_digest<'a>(manifest: &'a Manifest, role: &Role) -> Option<&'a MultiDigest> {
    let digest = match role {
        Role::Package(name) => {
            let mut packages = manifest.packages.iter();
            &packages.find(|it| it.name.as_str() == name)?.digest
        }
        Role::CompiledPackage(name) => {
            let mut packages = manifest.compiled_packages.iter().flatten();
            &packages.find(|it| it.name.as_str() == name)?.digest
        }
        Role::Job(name) => {
            let mut jobs = manifest.jobs.iter();
            &jobs.find(|it| it.name.as_str() == name)?.digest
        }
        Role::License => &manifest.license.as_ref()?.digest,
        Role::Manifest | Role::PackagesDirectory | Role::Stray | Role::Other => return None,
    };
    Some(digest)
}

/// The path of an entry, as messages show it.
pub(super) fn shown(path: &Path) -> String {
    String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_paths_mean_anything() {
        let role = |path: &str| Role::of(Path::new(path));
        assert_eq!(role("release.MF"), Role::Manifest);
        assert_eq!(role("docs/release.MF"), Role::Other);
        assert_eq!(role("packages"), Role::PackagesDirectory);
        assert_eq!(
            role("packages/a.b+c.tgz"),
            Role::Package("a.b+c".to_owned())
        );
        assert_eq!(role("packages/.tgz"), Role::Stray);
        assert_eq!(role("packages/README"), Role::Stray);
        assert_eq!(role("packages/sub/a.tgz"), Role::Other);
        assert_eq!(role("docs/packages/a.tgz"), Role::Other);
        assert_eq!(
            role("compiled_packages/a.tgz"),
            Role::CompiledPackage("a".to_owned())
        );
        assert_eq!(role("jobs/web.tgz"), Role::Job("web".to_owned()));
        assert_eq!(role("license.tgz"), Role::License);
        assert_eq!(role("LICENSE"), Role::Other);
    }
}
