//! Whether there is room for a call, as far as that can be known before. Only what is sure to fail is refused: the least that is
//! needed is compared with what is free.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::{InputProblem, InputProblemKind};
use crate::fs;

/// Room that is needed somewhere.
#[derive(Debug, Clone)]
pub(super) struct Need {
    pub directory: PathBuf,
    pub bytes: u64,
}

/// Compares needs with what is free, file system by file system.
pub(super) fn check(needs: &[Need], purpose: &'static str) -> fs::Result<Vec<InputProblem>> {
    let mut devices: BTreeMap<u64, (PathBuf, u64, u64)> = BTreeMap::new();
    for need in needs {
        let space = fs::space(&need.directory)?;
        let (_, _, needed) = devices
            .entry(space.device)
            .or_insert_with(|| (need.directory.clone(), space.free, 0));
        *needed = needed.saturating_add(need.bytes);
    }
    let short = devices
        .into_values()
        .filter(|(_, free, needed)| needed > free)
        .map(|(path, free, needed)| InputProblem {
            path,
            kind: InputProblemKind::NoSpace {
                purpose,
                needed,
                free,
            },
        });
    Ok(short.collect())
}

/// What a blob is at least when it is unpacked: a gzip file tells in its last four bytes, modulo 4 GiB; other blobs are at
/// least as large as they are.
pub(super) fn least_unpacked(blob: &Path, size: u64) -> fs::Result<u64> {
    use std::os::unix::fs::FileExt;

    use crate::fs::Context;
    let file = fs::open(blob)?;
    let mut magic = [0; 2];
    let mut last = [0; 4];
    if size < 18 {
        return Ok(size);
    }
    file.read_exact_at(&mut magic, 0).at("read", blob)?;
    file.read_exact_at(&mut last, size - 4).at("read", blob)?;
    Ok(match magic {
        [0x1f, 0x8b] => u64::from(u32::from_le_bytes(last)),
        _ => size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Bytes;

    #[test]
    fn too_little_space_is_told_with_figures() {
        let scratch = tempfile::tempdir().unwrap();
        let free = fs::space(scratch.path()).unwrap().free;
        let need = |bytes| Need {
            directory: scratch.path().join("not/there/yet"),
            bytes,
        };
        assert!(check(&[need(1), need(2)], "for a test").unwrap().is_empty());
        let problems = check(&[need(free), need(1 << 40)], "for a test").unwrap();
        let text = problems[0].kind.to_string();
        assert!(
            text.contains(&Bytes(free + (1 << 40)).to_string()) && text.contains("for a test"),
            "{text}"
        );
    }

    #[test]
    fn a_gzip_blob_tells_its_size() {
        use std::io::Write;
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("blob");
        let mut gzip = crate::archive::GzipWriter::new(Vec::new(), 6).unwrap();
        gzip.write_all(&[7; 100_000]).unwrap();
        let packed = gzip.finish().unwrap();
        fs::write(&path, &packed).unwrap();
        assert_eq!(least_unpacked(&path, packed.len() as u64).unwrap(), 100_000);
    }
}
