//! Estimates the size of an archive's contents without unpacking it, and checks whether an archive is complete.

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::archive::Decoder;
use crate::fs::{self, Context as _};

/// The smallest size of a gzip file, in bytes.
const GZIP_LEAST: u64 = 18;

/// A lower bound for the unpacked size of an archive, in bytes. For a gzip file, this is the number in the last four bytes, the unpacked
/// size modulo 4 GiB. For other files, it is the size of the file.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn least_unpacked(archive: &Path) -> fs::Result<u64> {
    let size = fs::metadata(archive)?.len();
    if size < GZIP_LEAST {
        return Ok(size);
    }
    let file = fs::open(archive)?;
    let mut magic = [0; 2];
    let mut last = [0; 4];
    file.read_exact_at(&mut magic, 0).at("read", archive)?;
    file.read_exact_at(&mut last, size - 4)
        .at("read", archive)?;
    Ok(match magic {
        [0x1f, 0x8b] => u64::from(u32::from_le_bytes(last)),
        _ => size,
    })
}

/// Whether the compressed data of a file can be decoded up to its end.
#[must_use]
pub(crate) fn is_whole(archive: &Path) -> bool {
    fs::open(archive).is_ok_and(|file| Decoder::new(file).and_then(Decoder::finish).is_ok())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn unpacked_size_is_read_from_the_gzip_trailer() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("blob");
        let mut gzip = crate::archive::GzipWriter::new(Vec::new(), 6).unwrap();
        gzip.write_all(&[7; 100_000]).unwrap();
        fs::write(&path, &gzip.finish().unwrap()).unwrap();
        assert_eq!(least_unpacked(&path).unwrap(), 100_000);
        assert!(is_whole(&path));
        let cut = fs::read(&path).unwrap();
        fs::write(&path, &cut[..cut.len() - 4]).unwrap();
        assert!(!is_whole(&path));
        fs::write(&path, b"short").unwrap();
        assert_eq!(least_unpacked(&path).unwrap(), 5);
    }
}
