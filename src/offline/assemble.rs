//! Writes the compiled release to a temporary file, reads it back and renames it.
//!
//! The entries have the order of the source release and canonical names (`./release.MF`). The compiled packages replace the source
//! packages, with the modes and times that the Go agent gives them. Most blobs are compressed already; the compressor stores these without
//! compressing them again.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{panic, thread};

use tokio_util::sync::CancellationToken;

use super::tarball::{Blob, Carried, Role};
use super::verify::{self, Expected, VerifyError, WrittenFile};
use crate::archive::{
    AppendError, Compress, Compression, EntryHeader, EntryWriter, GzipWriter, Kind, Owner,
};
use crate::diag::Bytes;
use crate::fs::{self, Context, LeasedFile};
use crate::release::digest::BlobDigests;
use crate::release::{Manifest, Name};
use crate::runtime::Cancellable;

/// The prefix of an unfinished output's name, which is hidden and does not match `*.tgz`.
pub(super) const PARTIAL_PREFIX: &str = ".bosh-agent-partial-";

const BUFFER: usize = 128 * 1024;

/// The size from which a blob fills whole blocks of the compressor, in bytes.
const LARGE: u64 = 2 << 20;

/// How many bytes of an already compiled release are copied before the next check for a cancellation.
const PIECE: u64 = 64 << 20;

/// Why a compiled release has not been written.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// A file operation failed.
    #[error(transparent)]
    Files(#[from] fs::Error),
    /// An entry could not be written.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The written file does not have the expected contents.
    #[error("verification of the written file failed")]
    Verify(#[from] VerifyError),
    /// The disk is full.
    #[error("not enough space for a file of about {}", Bytes(*size))]
    NoSpace {
        /// The sum of the sizes of the result's entries, in bytes. Blobs of packages and jobs are compressed already.
        size: u64,
        /// The error of the system.
        source: Box<AssembleError>,
    },
}

impl AssembleError {
    /// Whether another program probably caused the error, by changing or removing files from which the result is made.
    pub(super) fn is_of_changed_files(&self) -> bool {
        match self {
            Self::Files(error) => error.is_not_found(),
            Self::Append(error) => matches!(error, AppendError::Size { .. }),
            Self::Verify(error) => matches!(error, VerifyError::Content(_)),
            Self::NoSpace { .. } => false,
        }
    }
}

/// A compiled package for the output.
#[derive(Debug, Clone)]
pub(super) struct PackageBlob {
    pub name: Name,
    pub blob: Blob,
}

/// One entry of the output.
struct TarballEntry {
    path: PathBuf,
    kind: Kind,
    mode: u32,
    owner: Owner,
    link: Vec<u8>,
    content: Content,
}

enum Content {
    None,
    Text(Vec<u8>),
    Blob(Blob),
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Text(text) => text.len() as u64,
            Self::Blob(blob) => blob.size,
        }
    }
}

/// Writes a compiled release to `output`: the entries in `carried`, with `packages` instead of the source packages. An existing file stays
/// unchanged until the new one is complete. With `wants_digests`, returns the digests of the bytes that were
/// verified.
pub(super) fn assemble(
    manifest: &Manifest,
    carried: &[Carried],
    packages: &[PackageBlob],
    output: &Path,
    wants_digests: bool,
    cancel: &CancellationToken,
) -> Result<Option<WrittenFile>, AssembleError> {
    let entries = entries(manifest, carried, packages);
    let size = entries.iter().map(|entry| entry.content.size()).sum();
    let written = replace(output, wants_digests, cancel, |file| {
        let out = BufWriter::with_capacity(BUFFER, Cancellable::new(file, cancel));
        if manifest.no_compression {
            write(out, &entries)?.flush().at("write", output)?;
        } else {
            let gzip =
                GzipWriter::new(out, GzipWriter::<File>::DEFAULT_LEVEL).at("write", output)?;
            let mut out = write(gzip, &entries)?.finish().at("write", output)?;
            out.flush().at("write", output)?;
        }
        Ok(expectations(&entries))
    });
    written.map_err(|error| match fs::is_no_space_behind(&error) {
        true => AssembleError::NoSpace {
            size,
            source: error.into(),
        },
        false => error,
    })
}

/// Copies a release that is compiled already. Fails if the copy does not have `digests`, those of the tarball that was checked. Returns the
/// digests of the copy.
pub(super) fn pass_on(
    tarball: &Path,
    digests: &BlobDigests,
    output: &Path,
    cancel: &CancellationToken,
) -> Result<WrittenFile, AssembleError> {
    fs::create_dir_all(fs::parent(output))?;
    let target = partial(output)?;
    let (source, mut file) = (fs::open(tarball)?, target.file());
    // Copy in pieces, so that a cancellation takes effect between them. The kernel copies each piece, or lets both files share it.
    while io::copy(&mut (&source).take(PIECE), &mut file).at("copy", tarball)? > 0 {
        if cancel.is_cancelled() {
            return Err(io::Error::other("stopped")).at("copy", tarball)?;
        }
    }
    file.sync_all().at("write to the disk", target.path())?;
    let written = WrittenFile::of(target.path(), cancel)?;
    if written.digests.sha256() != digests.sha256() {
        return Err(VerifyError::Copy.into());
    }
    target.persist(output)?;
    Ok(written)
}

/// Creates the temporary file that becomes a result, in the directory of the result.
pub(super) fn partial(output: &Path) -> fs::Result<LeasedFile> {
    let file = LeasedFile::create(fs::parent(output), PARTIAL_PREFIX, "")?;
    fs::set_mode(file.path(), fs::mode_of_results())?;
    Ok(file)
}

/// Writes a temporary file, reads it back, and then renames it.
fn replace(
    output: &Path,
    wants_digests: bool,
    cancel: &CancellationToken,
    write: impl FnOnce(&File) -> Result<Vec<Expected>, AssembleError>,
) -> Result<Option<WrittenFile>, AssembleError> {
    // The output directory existed at the start of the run, but another run that created it may have removed it again.
    fs::create_dir_all(fs::parent(output))?;
    let target = partial(output)?;
    let expected = write(target.file())?;
    let verify = || verify::verify(target.path(), &expected, wants_digests, cancel);
    let (synced, verified) = while_syncing(target.file(), verify);
    synced.at("write to the disk", target.path())?;
    let written = verified?;
    target.persist(output)?;
    Ok(written)
}

/// Writes a file's data to the disk on another thread while `work` runs. The two are concurrent because reading back needs a CPU, and
/// writing needs the disk.
fn while_syncing<T>(file: &File, work: impl FnOnce() -> T) -> (io::Result<()>, T) {
    thread::scope(|scope| {
        let syncing = thread::Builder::new()
            .name("sync".to_owned())
            .spawn_scoped(scope, || file.sync_all());
        let done = work();
        let synced = match syncing {
            Ok(syncing) => syncing
                .join()
                .unwrap_or_else(|panic| panic::resume_unwind(panic)),
            // No thread could be started.
            Err(_) => file.sync_all(),
        };
        (synced, done)
    })
}

fn write<W: Compress>(out: W, entries: &[TarballEntry]) -> Result<W, AssembleError> {
    let mut archive = EntryWriter::new(out);
    for entry in entries {
        let name = archived_name(entry);
        let mut header = EntryHeader::new(entry.kind, &name, entry.mode);
        header.link = &entry.link;
        header.uid = entry.owner.uid;
        header.gid = entry.owner.gid;
        header.user = &entry.owner.user;
        header.group = &entry.owner.group;
        match &entry.content {
            Content::None => archive.append(&header, io::empty())?,
            Content::Text(text) => {
                header.size = text.len() as u64;
                archive.append(&header, text.as_slice())?;
            }
            Content::Blob(blob) => {
                header.size = blob.size;
                let file = fs::open_file(&blob.file)?;
                let is_dense = is_dense(&file, blob.size).at("read", &blob.file)?;
                archive.output().expect_dense(is_dense);
                archive.append(&header, file)?;
                archive.output().expect_dense(false);
            }
        }
    }
    archive
        .finish()
        .map_err(|source| AppendError::Output { source }.into())
}

/// Whether a blob is compressed already and fills whole blocks of the compressor, which can then store these blocks. Otherwise, the
/// compressor would take samples of them, which needs most of the CPU time of writing a result.
fn is_dense(mut file: &File, size: u64) -> io::Result<bool> {
    if size < LARGE {
        return Ok(false);
    }
    let mut beginning = Vec::new();
    file.take(Compression::BEGINNING as u64)
        .read_to_end(&mut beginning)?;
    file.rewind()?;
    let compression = Compression::detect(&beginning);
    Ok(!matches!(compression, None | Some(Compression::None)))
}

/// The name of an entry: `./path`, with a slash after a directory.
fn archived_name(entry: &TarballEntry) -> Vec<u8> {
    let mut name = b"./".to_vec();
    name.extend_from_slice(entry.path.as_os_str().as_bytes());
    if entry.kind == Kind::Directory {
        name.push(b'/');
    }
    name
}

fn entries(
    manifest: &Manifest,
    carried: &[Carried],
    packages: &[PackageBlob],
) -> Vec<TarballEntry> {
    let mut entries = Vec::new();
    let mut packages_written = packages.is_empty();
    for source in carried {
        match &source.role {
            Role::Manifest => entries.push(TarballEntry {
                content: Content::Text(manifest.to_yaml().into_bytes()),
                kind: Kind::File,
                link: Vec::new(),
                ..entry_of(source)
            }),
            Role::PackagesDirectory | Role::Package(_) | Role::CompiledPackage(_) | Role::Stray => {
                if !packages_written {
                    entries.extend(package_entries(carried, packages));
                    packages_written = true;
                }
            }
            Role::Job(_) | Role::License | Role::Other => entries.push(entry_of(source)),
        }
    }
    entries
}

fn entry_of(source: &Carried) -> TarballEntry {
    let entry = &source.entry;
    let (kind, content) = match &source.blob {
        // A hard link becomes a file.
        Some(blob) => (Kind::File, Content::Blob(blob.clone())),
        None => (entry.kind, Content::None),
    };
    let mode = if entry.kind == Kind::Directory || source.role == Role::Manifest {
        entry.mode
    } else {
        0o644
    };
    TarballEntry {
        path: source.path.clone(),
        kind,
        mode,
        owner: entry.owner.clone(),
        link: match kind {
            Kind::Symlink => entry.link.clone(),
            _ => Vec::new(),
        },
        content,
    }
}

/// The entries for the directory `compiled_packages` and its files. They get the owner of the source release's directory `packages`; the
/// directory also gets its mode.
fn package_entries(carried: &[Carried], packages: &[PackageBlob]) -> Vec<TarballEntry> {
    let like = carried
        .iter()
        .find(|carried| carried.role == Role::PackagesDirectory)
        .map(|carried| &carried.entry);
    let owner = like.map(|like| like.owner.clone()).unwrap_or_default();
    let directory = PathBuf::from("compiled_packages");
    let mut entries = vec![TarballEntry {
        path: directory.clone(),
        kind: Kind::Directory,
        mode: like.map_or(0o755, |like| like.mode),
        owner: owner.clone(),
        link: Vec::new(),
        content: Content::None,
    }];
    entries.extend(packages.iter().map(|package| TarballEntry {
        path: directory.join(format!("{}.tgz", package.name)),
        kind: Kind::File,
        mode: 0o644,
        owner: owner.clone(),
        link: Vec::new(),
        content: Content::Blob(package.blob.clone()),
    }));
    entries
}

fn expectations(entries: &[TarballEntry]) -> Vec<Expected> {
    entries
        .iter()
        .map(|entry| Expected {
            name: archived_name(entry),
            kind: entry.kind,
            content: match &entry.content {
                Content::None => None,
                Content::Text(text) => Some((text.len() as u64, BlobDigests::of(text))),
                Content::Blob(blob) => Some((blob.size, blob.digests.clone())),
            },
        })
        .collect()
}
