//! Changes how a compiled blob is compressed, without changing the files in it.

use std::io::{self, Write};
use std::path::Path;

use tokio_util::sync::CancellationToken;

use crate::archive::{Decoder, GzipWriter};
use crate::cache::Form;
use crate::fs::{self, Context as _};
use crate::release::digest::{Hasher, HashingWriter};
use crate::release::{Algorithm, Digests};
use crate::runtime::Cancellable;

/// The extension of a blob while it is written.
const PARTIAL: &str = "partial";

/// Replaces a blob by one of another form. Returns its SHA-1 and SHA-256, and its size.
///
/// # Errors
/// The error of the system. The blob is then unchanged.
pub(super) fn recompress(
    blob: &Path,
    form: Form,
    cancel: &CancellationToken,
) -> fs::Result<(Digests, u64)> {
    let partial = blob.with_extension(PARTIAL);
    let from = Cancellable::new(fs::open(blob)?, cancel);
    let mut decoder = Decoder::new(from).at("read", blob)?;
    let hasher = Hasher::new(&[Algorithm::Sha1, Algorithm::Sha256]);
    let file = io::BufWriter::new(fs::create(&partial)?);
    let mut out = HashingWriter::new(file, hasher);
    let out = match form {
        Form::Plain => {
            io::copy(&mut decoder, &mut out).at("write", &partial)?;
            out
        }
        Form::Gzip(level) => {
            let mut gzip = GzipWriter::new(out, level).at("write", &partial)?;
            io::copy(&mut decoder, &mut gzip).at("write", &partial)?;
            gzip.finish().at("write", &partial)?
        }
    };
    decoder.finish().at("read", blob)?;
    let size = out.count();
    let (mut file, digests) = out.finish();
    file.flush().at("write", &partial)?;
    // The blob may be a link to a file of the cache, which stays as it is.
    fs::rename(&partial, blob)?;
    Ok((digests, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_changes_only_the_compression() {
        let scratch = tempfile::tempdir().unwrap();
        let blob = scratch.path().join("blob.tgz");
        let original = scratch.path().join("original");
        let text = b"some text ".repeat(10_000);
        let pack = |level| {
            let mut gzip = GzipWriter::new(Vec::new(), level).unwrap();
            gzip.write_all(&text).unwrap();
            gzip.finish().unwrap()
        };
        fs::write(&original, &pack(1)).unwrap();
        fs::hard_link(&original, &blob).unwrap();
        let cancel = CancellationToken::new();
        let (digests, size) = recompress(&blob, Form::Gzip(9), &cancel).unwrap();
        let expected = pack(9);
        assert_eq!(fs::read(&blob).unwrap(), expected);
        assert_eq!(size, expected.len() as u64);
        let all = [Algorithm::Sha1, Algorithm::Sha256];
        assert_eq!(digests, Digests::of(&expected, &all));
        recompress(&blob, Form::Plain, &cancel).unwrap();
        assert_eq!(fs::read(&blob).unwrap(), text);
        assert_eq!(
            fs::read(&original).unwrap(),
            pack(1),
            "the cache is unchanged"
        );
        assert_eq!(fs::list(scratch.path()).unwrap().len(), 2);
    }
}
