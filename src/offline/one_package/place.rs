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
    /// The error of writing its directory to the disk. After it, a crash of the machine may undo the rename.
    pub(super) unsynced: Option<fs::Error>,
}

/// Verifies a compiled package and renames it to `output`. An existing file stays unchanged until then.
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
        // This cannot happen: `compile` computes the digests that a job requests.
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

/// How a compiled package is compressed: `gzip` or `none`.
fn compression(path: &Path, cancel: &CancellationToken) -> fs::Result<&'static str> {
    let mut beginning = [0; BEGINNING];
    let mut file = Cancellable::new(fs::open(path)?, cancel);
    std::io::Read::read_exact(&mut file, &mut beginning).at("read", path)?;
    Ok(match Compression::detect(&beginning) {
        Some(Compression::Gzip) => "gzip",
        _ => "none",
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::offline::assemble;
    use crate::release::{Algorithm, Digests};

    /// The result of a compilation whose blob has these bytes.
    fn compiled(bytes: &[u8]) -> Compiled {
        Compiled {
            blob: PathBuf::new(),
            size: bytes.len() as u64,
            digests: Digests::of(bytes, &[Algorithm::Sha1, Algorithm::Sha256]),
            installed: None,
            unrestricted: false,
            elapsed: Duration::ZERO,
            findings: Vec::new(),
            script: None,
        }
    }

    fn written(output: &Path, bytes: &[u8]) -> LeasedFile {
        let target = assemble::partial(output).unwrap();
        let mut file = target.file();
        file.write_all(bytes).unwrap();
        target
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::list(directory).unwrap();
        let names = entries.iter().map(std::fs::DirEntry::file_name);
        names.map(|it| it.into_string().unwrap()).collect()
    }

    #[test]
    fn package_is_placed_with_its_digests() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("app.tgz");
        let target = written(&output, b"bytes");
        let compiled = compiled(b"bytes");
        let placed = place(target, &compiled, &output, &CancellationToken::new()).unwrap();
        assert_eq!(placed.blob.size, 5);
        assert_eq!(Some(placed.blob.sha256.as_str()), compiled.digests.sha256());
        assert_eq!(placed.blob.compression, "none");
        assert!(placed.unsynced.is_none());
        assert_eq!(fs::read(&output).unwrap(), b"bytes");
        assert_eq!(names(directory.path()), ["app.tgz"]);
    }

    #[test]
    fn blob_that_was_changed_replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("app.tgz");
        fs::write(&output, b"older").unwrap();
        for changed in [&b"byteS"[..], b"byte", b"bytes and more", b""] {
            let target = written(&output, changed);
            let placed = place(
                target,
                &compiled(b"bytes"),
                &output,
                &CancellationToken::new(),
            );
            let error = placed.unwrap_err();
            assert!(matches!(error, AssembleError::Verify(_)), "{error}");
            assert_eq!(fs::read(&output).unwrap(), b"older");
            assert_eq!(names(directory.path()), ["app.tgz"]);
        }
    }

    #[test]
    fn blob_that_was_removed_replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("app.tgz");
        fs::write(&output, b"older").unwrap();
        let target = written(&output, b"bytes");
        fs::remove_file_if_there(target.path()).unwrap();
        let placed = place(
            target,
            &compiled(b"bytes"),
            &output,
            &CancellationToken::new(),
        );
        assert!(placed.is_err());
        assert_eq!(fs::read(&output).unwrap(), b"older");
    }
}
