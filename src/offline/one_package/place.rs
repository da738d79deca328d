//! Moves a compiled package to its output path, after it was written to the disk and read back.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use crate::archive::Compression;
use crate::compile::Compiled;
use crate::fs::{self, Context, LeasedFile};
use crate::offline::assemble::AssembleError;
use crate::offline::verify::{self, VerifyError};
use crate::package_job::CompiledBlob;
use crate::release::digest::BlobDigests;
use crate::runtime::Cancellable;

/// The number of bytes with which the compression of an archive is detected.
const BEGINNING: usize = 4;

/// A package at its final path.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) blob: CompiledBlob,
    /// Why its name may not survive a crash of the machine.
    pub(super) unsynced: Option<fs::Error>,
}

/// Renames a compiled package to `output`. What is there stays as it is until the new file was verified.
pub(super) fn place(
    target: LeasedFile,
    compiled: &Compiled,
    output: &Path,
    cancel: &CancellationToken,
) -> Result<Placed, AssembleError> {
    let (Some(digests), Some(sha1)) = (
        BlobDigests::new(compiled.digests.clone()),
        compiled.digests.sha1(),
    ) else {
        // This does not happen: `compile` computes the digests that a job requests.
        return Err(VerifyError::Copy.into());
    };
    let file = target.file();
    file.sync_all().at("write to the disk", target.path())?;
    verify::same_bytes(target.path(), &digests, cancel)?;
    let blob = CompiledBlob {
        size: compiled.size,
        sha1: sha1.to_owned(),
        sha256: digests.sha256().to_owned(),
        compression: compression(target.path(), cancel)?.to_owned(),
    };
    target.rename(output)?;
    let unsynced = fs::sync(fs::parent(output)).err();
    Ok(Placed { blob, unsynced })
}

/// The compression of a compiled package: `gzip` or `none`, as there are no others.
fn compression(path: &Path, cancel: &CancellationToken) -> fs::Result<&'static str> {
    let mut beginning = [0; BEGINNING];
    let mut file = Cancellable::new(fs::open(path)?, cancel);
    std::io::Read::read_exact(&mut file, &mut beginning).at("read", path)?;
    Ok(match Compression::detect(&beginning) {
        Some(Compression::Gzip) => "gzip",
        _ => "none",
    })
}
