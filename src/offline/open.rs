//! Reads a release tarball in one pass.
//!
//! Blobs are hashed while they are written to disk. The manifest may have any position. Only the normalized path gives an entry its role:
//! `docs/release.MF` is an ordinary file.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::clutter::is_clutter;
use super::given;
use super::jobs;
use super::lookalike::Lookalike;
use super::open_error::OpenError;
use super::readers::{Hashed, Prefix, Prefixed, SharedHasher};
use super::tarball::{Blob, Carried, Opened, Role, expected_digest};
use crate::archive::compression::DecodeError;
use crate::archive::entry::normalize;
use crate::archive::{Decoder, Entry, Kind, ReadError, Reader};
use crate::diag::Bytes;
use crate::fs::{self, Context};
use crate::release::digest::{BlobDigests, BlobHasher};
use crate::release::{Algorithm, Manifest, ManifestProblem, MultiDigest};
use crate::runtime::{Cancellable, ReadAhead};

/// The maximum size of a manifest, in bytes. Manifests of the largest releases have a few hundred kilobytes.
const MANIFEST_LIMIT: u64 = 64 << 20;

const BUFFER: usize = 128 * 1024;

/// Reads a tarball. Its files are written to `spool`, a directory for this tarball alone.
pub(super) fn open(
    tarball: &Path,
    spool: &Path,
    cancel: &CancellationToken,
) -> Result<Opened, OpenError> {
    let (file, metadata) = open_file(tarball)?;
    let hasher = SharedHasher::new();
    let file = Hashed::new(Cancellable::new(file, cancel), hasher.clone());
    let (reader, mut entry) = first_entry(file, ReadAhead::new)?;
    let mut pass = Pass {
        reader,
        spool,
        manifest: None,
        carried: Vec::new(),
        positions: HashMap::new(),
        spooled: 0,
        holes: Holes::default(),
    };
    while let Some(found) = entry {
        pass.add(found)?;
        entry = pass.reader.next_entry()?;
    }
    let Pass {
        reader,
        manifest,
        carried,
        ..
    } = pass;
    reader.into_inner().finish().map_err(OpenError::Decode)?;
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
    let jobs = jobs::read(&manifest, &carried, cancel)?;
    Ok(Opened {
        clutter,
        jobs,
        tarball: tarball.to_owned(),
        is_file: metadata.is_file(),
        digests: hasher.digests(),
        manifest,
        carried,
    })
}

/// Opens a tarball. The error for a missing file or a directory has advice, if there is any.
pub(crate) fn open_file(tarball: &Path) -> Result<(File, Metadata), OpenError> {
    let file = fs::open(tarball).map_err(|error| match given::absent(tarball) {
        Some(explained) if error.is_not_found() => explained,
        _ => OpenError::Files(error),
    })?;
    let metadata = file.metadata().at("examine", tarball)?;
    match metadata.is_dir() {
        true => Err(refuse_directory(tarball)),
        false => Ok((file, metadata)),
    }
}

/// Reads a tarball up to its first entry. `wrap` wraps the decompressed data.
pub(crate) fn first_entry<R: Read, D: Read>(
    file: R,
    wrap: impl FnOnce(Prefixed<Decoder<Prefixed<R>>>) -> D,
) -> Result<(Reader<D>, Option<Entry>), OpenError> {
    let (raw, prefix) = Prefixed::new(file);
    let decoder =
        Decoder::new(raw).map_err(|error| recognized(OpenError::Decode(error), &prefix))?;
    let (decoded, prefix) = Prefixed::new(decoder);
    let mut reader = Reader::new(wrap(decoded));
    let first = reader.next_entry();
    let first = first.map_err(|error| recognized(error.into(), &prefix))?;
    Ok((reader, first))
}

/// The path of an entry in its tarball.
pub(crate) fn path_of(entry: &Entry) -> Result<PathBuf, OpenError> {
    normalize(&entry.name).map_err(|source| OpenError::Path {
        name: entry.display_name().display().to_string(),
        source,
    })
}

/// Limits the holes of sparse files: zeros that a tarball does not store. Without a limit, a few bytes could represent a file that takes
/// years to read.
#[derive(Debug, Default)]
pub(crate) struct Holes {
    bytes: u64,
}

impl Holes {
    /// The limit for a tarball, in bytes.
    const LIMIT: u64 = 16 << 30;

    /// Counts an entry.
    ///
    /// # Errors
    /// The limit is exceeded.
    pub(crate) fn add(&mut self, entry: &Entry) -> Result<(), OpenError> {
        self.bytes = self.bytes.saturating_add(entry.holes());
        match self.bytes <= Self::LIMIT {
            true => Ok(()),
            false => Err(OpenError::Sparse {
                path: entry.display_name(),
                limit: Bytes(Self::LIMIT),
            }),
        }
    }
}

/// The error for a directory that is given as a tarball.
fn refuse_directory(directory: &Path) -> OpenError {
    if let Some(advice) = given::advice_on_directory(directory) {
        return OpenError::Directory { advice };
    }
    OpenError::Files(fs::Error::new(
        "read",
        directory,
        io::Error::from_raw_os_error(nix::errno::Errno::EISDIR as i32),
    ))
}

/// Replaces the error for a file that is not a tarball by one that names its kind, if the first bytes show it.
fn recognized(error: OpenError, prefix: &Prefix) -> OpenError {
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
    match Lookalike::of_bytes(&prefix.bytes()) {
        Some(found) if is_foreign => OpenError::Lookalike(found),
        _ => error,
    }
}

/// Removes files that operating systems and tools leave in tarballs, and returns their paths. A file that the manifest lists is
/// kept, whatever its name.
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

/// Hashes a blob again if the manifest has a digest for it that was not computed. That happens if the tarball has several
/// manifests, or if a hard link gives a blob another name.
fn complete_digests(manifest: &Manifest, carried: &mut Carried) -> Result<(), OpenError> {
    let (Some(digest), Some(blob)) = (expected_digest(manifest, &carried.role), &mut carried.blob)
    else {
        return Ok(());
    };
    let named = digest.algorithms();
    if named.iter().all(|it| blob.digests.all().get(*it).is_some()) {
        return Ok(());
    }
    blob.digests = BlobDigests::of_reader(fs::open(&blob.file)?, &named).at("read", &blob.file)?;
    Ok(())
}

/// Reads the text of the manifest, which is the current entry of a reader.
pub(crate) fn read_manifest(
    reader: &mut Reader<impl Read>,
    entry: &Entry,
) -> Result<Vec<u8>, OpenError> {
    if entry.size > MANIFEST_LIMIT {
        return Err(OpenError::OddManifest(format!(
            "too long: {} bytes",
            entry.size
        )));
    }
    let mut text = Vec::new();
    reader
        .whole(entry)
        .read_to_end(&mut text)
        .map_err(OpenError::Decode)?;
    Ok(text)
}

/// A pass over a tarball, with its findings so far.
struct Pass<'a, R> {
    reader: Reader<R>,
    spool: &'a Path,
    manifest: Option<Result<Manifest, Vec<ManifestProblem>>>,
    /// The entries. `None` for one that a later entry replaced.
    carried: Vec<Option<Carried>>,
    /// The index in `carried` of each path.
    positions: HashMap<PathBuf, usize>,
    /// The number of files in `spool` so far.
    spooled: usize,
    holes: Holes,
}

impl<R: Read> Pass<'_, R> {
    fn add(&mut self, entry: Entry) -> Result<(), OpenError> {
        self.holes.add(&entry)?;
        let path = path_of(&entry)?;
        if path.as_os_str().is_empty() {
            // The entry is the root, `./`.
            return Ok(());
        }
        let role = Role::of(&path);
        let blob = match entry.kind {
            Kind::File if role == Role::Manifest => {
                let text = read_manifest(&mut self.reader, &entry)?;
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
        self.insert(path, carried);
        Ok(())
    }

    /// Adds an entry. The last entry of a path counts. It has its own position in the list; a repeated directory keeps the first one, which
    /// precedes its contents.
    fn insert(&mut self, path: PathBuf, carried: Carried) {
        let is_directory = carried.entry.kind == Kind::Directory;
        if let Some(position) = self.positions.get(&path) {
            let earlier = &mut self.carried[*position];
            let was_directory = earlier
                .as_ref()
                .is_some_and(|earlier| earlier.entry.kind == Kind::Directory);
            if is_directory && was_directory {
                *earlier = Some(carried);
                return;
            }
            *earlier = None;
        }
        self.positions.insert(path, self.carried.len());
        self.carried.push(Some(carried));
    }

    /// The algorithms, in addition to SHA-256, by which a blob is hashed: those that the manifest names, or all if the manifest comes
    /// later.
    fn algorithms(&self, role: &Role) -> Vec<Algorithm> {
        match &self.manifest {
            Some(Ok(manifest)) => expected_digest(manifest, role)
                .map(MultiDigest::algorithms)
                .unwrap_or_default(),
            _ => Algorithm::ALL.to_vec(),
        }
    }

    fn spool_file(&mut self, role: &Role, entry: &Entry) -> Result<Blob, OpenError> {
        let path = self.next_file();
        let file: File = fs::create(&path)?;
        let mut hasher = BlobHasher::new(&self.algorithms(role));
        let mut out = BufWriter::with_capacity(BUFFER, file);
        let mut content = self.reader.whole(entry);
        let mut buffer = vec![0; BUFFER];
        let mut size = 0;
        loop {
            // Distinguish read errors, which concern the archive, from write errors, which concern the file.
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(OpenError::Decode(error)),
            };
            out.write_all(&buffer[..count]).at("write", &path)?;
            hasher.update(&buffer[..count]);
            size += count as u64;
        }
        out.flush().at("write", &path)?;
        Ok(Blob {
            file: path,
            size,
            digests: hasher.finish(),
        })
    }

    /// The blob of a hard link: another name of its target's file, because the files of entries are removed separately.
    fn linked(&mut self, path: &Path, entry: &Entry) -> Result<Blob, OpenError> {
        let target = normalize(&entry.link)
            .ok()
            .and_then(|target| self.positions.get(&target))
            .and_then(|position| self.carried[*position].as_ref()?.blob.clone())
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
