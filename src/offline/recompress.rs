//! Changes how a compiled blob is compressed, without changing the files in it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::archive::{DecodeError, Decoder, GzipWriter};
use crate::cache::Form;
use crate::fs::{self, Context as _};
use crate::release::digest::{Hasher, HashingWriter};
use crate::release::{Algorithm, Digests};
use crate::runtime::Cancellable;

/// The maximum factor by which a blob may expand. One byte of gzip becomes at most 1032 bytes.
const MOST_EXPANSION: u64 = 1100;

/// The number of bytes by which a blob may exceed this factor. It matters only for small blobs.
const SLACK: u64 = 1 << 20;

/// How much free space must remain while a blob is written, in bytes, for packages that are being compiled.
const KEPT_FREE: u64 = 256 << 20;

/// After how many written bytes the free space is checked again.
const CHECKED: u64 = 16 << 20;

/// The extension of a blob while it is written.
const PARTIAL: &str = "partial";

/// Replaces a blob by one of another form. Returns its SHA-1 and SHA-256, and its size.
///
/// # Errors
/// A file operation fails, or there is too little space. The blob is then unchanged.
pub(super) fn recompress(
    blob: &Path,
    (from, to): (Form, Form),
    cancel: &CancellationToken,
) -> fs::Result<(Digests, u64)> {
    let free = |directory: &Path| fs::space(directory).map(|space| space.free);
    recompress_into(blob, (from, to), &free, cancel)
}

fn recompress_into(
    blob: &Path,
    forms: (Form, Form),
    free: Free<'_>,
    cancel: &CancellationToken,
) -> fs::Result<(Digests, u64)> {
    let partial = blob.with_extension(PARTIAL);
    let done = write(blob, &partial, forms, free, cancel);
    if done.is_err() {
        // Remove the partial file, if there is one.
        let _ = fs::remove_file_if_there(&partial);
    }
    let done = done?;
    // Rename instead of writing to the blob, which may be a link to a file of the cache.
    fs::rename(&partial, blob)?;
    Ok(done)
}

/// Whether recompression failed because the blob is damaged.
pub(super) fn is_damage(error: &fs::Error) -> bool {
    let inner = error.source.get_ref();
    inner.is_some_and(|it| it.is::<DecodeError>() || it.is::<Expands>())
}

/// Whether recompression failed because the file system has too little space.
pub(super) fn is_no_room(error: &fs::Error) -> bool {
    let inner = error.source.get_ref();
    inner.is_some_and(|it| it.is::<NoRoom>())
}

/// The error for a blob that becomes too large.
#[derive(Debug, thiserror::Error)]
#[error("it expands to more than {0} bytes")]
struct Expands(u64);

/// The error for a file that would fill its file system.
#[derive(Debug, thiserror::Error)]
#[error("its file system has too little space")]
struct NoRoom;

/// Returns how many bytes are free in the file system of a path.
type Free<'a> = &'a dyn Fn(&Path) -> fs::Result<u64>;

/// A file that does not fill its file system. It uses at most half of the space that is free at the start, and stops when little is free
/// because other programs write there.
struct Sparing<'a> {
    file: File,
    directory: PathBuf,
    free: Free<'a>,
    /// How many bytes the file may still use.
    left: u64,
    /// How many bytes were written since the last check of the free space.
    unchecked: u64,
}

impl<'a> Sparing<'a> {
    fn create(path: &Path, free: Free<'a>) -> fs::Result<Self> {
        let directory = fs::parent(path).to_owned();
        Ok(Self {
            left: free(&directory)? / 2,
            file: fs::create(path)?,
            directory,
            free,
            unchecked: 0,
        })
    }

    fn check(&mut self, count: u64) -> io::Result<()> {
        let no_room = || io::Error::new(io::ErrorKind::StorageFull, NoRoom);
        self.left = self.left.checked_sub(count).ok_or_else(no_room)?;
        self.unchecked += count;
        if self.unchecked < CHECKED {
            return Ok(());
        }
        self.unchecked = 0;
        let free = (self.free)(&self.directory).map_err(|error| error.source)?;
        match free < KEPT_FREE {
            true => Err(no_room()),
            false => Ok(()),
        }
    }
}

impl Write for Sparing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check(bytes.len() as u64)?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn write(
    blob: &Path,
    partial: &Path,
    (form, to): (Form, Form),
    free: Free<'_>,
    cancel: &CancellationToken,
) -> fs::Result<(Digests, u64)> {
    let opened = fs::open(blob)?;
    let length = opened.metadata().at("examine", blob)?.len();
    let limit = match form {
        // The blob was verified, so its length is that of the cache entry.
        Form::Plain => length,
        Form::Gzip(_) => length.saturating_mul(MOST_EXPANSION).saturating_add(SLACK),
    };
    let from = Cancellable::new(opened, cancel);
    let mut decoder = Decoder::new(from).at("read", blob)?;
    let hasher = Hasher::new(&[Algorithm::Sha1, Algorithm::Sha256]);
    let file = io::BufWriter::new(Sparing::create(partial, free)?);
    let mut out = HashingWriter::new(file, hasher);
    let out = match to {
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
        true => Err(io::Error::new(io::ErrorKind::InvalidData, Expands(limit))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: (Form, Form) = (Form::Gzip(6), Form::Plain);

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
        let (digests, size) = recompress(&blob, (Form::Gzip(1), Form::Gzip(9)), &cancel).unwrap();
        let expected = pack(9);
        assert_eq!(fs::read(&blob).unwrap(), expected);
        assert_eq!(size, expected.len() as u64);
        let all = [Algorithm::Sha1, Algorithm::Sha256];
        assert_eq!(digests, Digests::of(&expected, &all));
        recompress(&blob, (Form::Gzip(9), Form::Plain), &cancel).unwrap();
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
            let error = recompress(&blob, FORMS, &CancellationToken::new()).unwrap_err();
            assert!(is_damage(&error), "{error:?}");
            assert_eq!(fs::read(&blob).unwrap(), bytes);
            assert_eq!(fs::list(scratch.path()).unwrap().len(), 1);
        }
        let missing = scratch.path().join("missing");
        let error = recompress(&missing, FORMS, &CancellationToken::new()).unwrap_err();
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

    /// A small blob that expands to some MiB of zeros.
    fn bomb(directory: &Path, size: u64) -> PathBuf {
        let blob = directory.join("blob.tgz");
        let mut gzip = GzipWriter::new(fs::create(&blob).unwrap(), 6).unwrap();
        io::copy(&mut io::repeat(0).take(size), &mut gzip).unwrap();
        gzip.finish().unwrap();
        blob
    }

    #[test]
    fn expanded_blob_never_fills_the_disk() {
        let scratch = tempfile::tempdir().unwrap();
        let blob = bomb(scratch.path(), 2 * CHECKED);
        let before = fs::read(&blob).unwrap();
        // More than half of the free space, and a disk that other programs fill meanwhile.
        let little = |_: &Path| Ok(3 * CHECKED);
        let looked = std::cell::Cell::new(0);
        let shrinking = |_: &Path| {
            looked.set(looked.get() + 1);
            Ok(if looked.get() == 1 {
                u64::MAX
            } else {
                KEPT_FREE - 1
            })
        };
        let all: [Free<'_>; 2] = [&little, &shrinking];
        for free in all {
            let error = recompress_into(&blob, FORMS, free, &CancellationToken::new()).unwrap_err();
            assert!(is_no_room(&error) && !is_damage(&error), "{error:?}");
            assert_eq!(fs::read(&blob).unwrap(), before);
            assert_eq!(fs::list(scratch.path()).unwrap().len(), 1);
        }
        assert_eq!(looked.get(), 2);
    }

    #[test]
    fn uncompressed_blob_does_not_expand() {
        let scratch = tempfile::tempdir().unwrap();
        let blob = bomb(scratch.path(), 1000);
        let forms = (Form::Plain, Form::Gzip(1));
        let error = recompress(&blob, forms, &CancellationToken::new()).unwrap_err();
        assert!(is_damage(&error), "{error:?}");
    }
}
