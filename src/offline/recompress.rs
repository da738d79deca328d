//! Changes how a compiled blob is compressed, without changing the files in it.

use std::io::{self, Read, Write};
use std::path::Path;

use tokio_util::sync::CancellationToken;

use crate::archive::{DecodeError, Decoder, GzipWriter};
use crate::cache::Form;
use crate::fs::{self, Context as _};
use crate::release::digest::{Hasher, HashingWriter};
use crate::release::{Algorithm, Digests};
use crate::runtime::Cancellable;

/// More than one byte of gzip can become, which is at most 1032 bytes.
const MOST_EXPANSION: u64 = 1100;

/// What the end of a small blob may add.
const SLACK: u64 = 1 << 20;

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
    let done = write(blob, &partial, form, cancel);
    if done.is_err() {
        // It is partial, or not there.
        let _ = fs::remove_file_if_there(&partial);
    }
    let done = done?;
    // The blob may be a link to a file of the cache, which stays as it is.
    fs::rename(&partial, blob)?;
    Ok(done)
}

/// Whether recompression failed because of the bytes of the blob.
pub(super) fn is_damage(error: &fs::Error) -> bool {
    let inner = error.source.get_ref();
    inner.is_some_and(|it| it.is::<DecodeError>() || it.is::<Expands>())
}

/// A blob that becomes too large.
#[derive(Debug, thiserror::Error)]
#[error("it expands to more than {MOST_EXPANSION} times its size")]
struct Expands;

fn write(
    blob: &Path,
    partial: &Path,
    form: Form,
    cancel: &CancellationToken,
) -> fs::Result<(Digests, u64)> {
    let opened = fs::open(blob)?;
    let length = opened.metadata().at("examine", blob)?.len();
    let limit = length.saturating_mul(MOST_EXPANSION).saturating_add(SLACK);
    let from = Cancellable::new(opened, cancel);
    let mut decoder = Decoder::new(from).at("read", blob)?;
    let hasher = Hasher::new(&[Algorithm::Sha1, Algorithm::Sha256]);
    let file = io::BufWriter::new(fs::create(partial)?);
    let mut out = HashingWriter::new(file, hasher);
    let out = match form {
        Form::Plain => {
            copy(&mut decoder, &mut out, limit).at("write", partial)?;
            out
        }
        Form::Gzip(level) => {
            let mut gzip = GzipWriter::new(out, level).at("write", partial)?;
            copy(&mut decoder, &mut gzip, limit).at("write", partial)?;
            gzip.finish().at("write", partial)?
        }
    };
    decoder.finish().at("read", blob)?;
    let size = out.count();
    let (mut file, digests) = out.finish();
    file.flush().at("write", partial)?;
    Ok((digests, size))
}

fn copy(from: &mut impl Read, to: &mut impl Write, limit: u64) -> io::Result<()> {
    let count = io::copy(&mut from.take(limit.saturating_add(1)), to)?;
    match count > limit {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, Expands)),
        false => Ok(()),
    }
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

    #[test]
    fn blob_that_cannot_be_decoded_is_damaged() {
        let scratch = tempfile::tempdir().unwrap();
        let blob = scratch.path().join("blob.tgz");
        let mut gzip = GzipWriter::new(Vec::new(), 6).unwrap();
        gzip.write_all(&b"some text ".repeat(1000)).unwrap();
        let cut = gzip.finish().unwrap();
        for bytes in [b"no archive".as_slice(), b"", &cut[..cut.len() - 9]] {
            fs::write(&blob, bytes).unwrap();
            let error = recompress(&blob, Form::Plain, &CancellationToken::new()).unwrap_err();
            assert!(is_damage(&error), "{error:?}");
            assert_eq!(fs::read(&blob).unwrap(), bytes);
            assert_eq!(fs::list(scratch.path()).unwrap().len(), 1);
        }
        let missing = scratch.path().join("missing");
        let error = recompress(&missing, Form::Plain, &CancellationToken::new()).unwrap_err();
        assert!(!is_damage(&error));
    }

    #[test]
    fn expansion_is_bounded() {
        let bytes = [0; 100];
        assert!(copy(&mut bytes.as_slice(), &mut io::sink(), 100).is_ok());
        let error = copy(&mut bytes.as_slice(), &mut io::sink(), 99).unwrap_err();
        assert!(is_damage(
            &Err::<(), _>(error).at("write", Path::new("x")).unwrap_err()
        ));
    }
}
