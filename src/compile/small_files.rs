//! Reads the small files of a directory, such as scripts and environment files. Other code searches them for paths.

use std::path::Path;

use crate::fs;

/// The maximum size of a file that is read, in bytes. Scripts are smaller.
const TEXT_LIMIT: u64 = 64 << 10;

/// The contents of the small files of a directory whose names `is_wanted` accepts. Leaves out files that cannot be read.
pub(super) fn read(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in fs::list(directory).unwrap_or_default() {
        let is_small = entry
            .metadata()
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() <= TEXT_LIMIT);
        if is_small && entry.file_name().to_str().is_some_and(&is_wanted) {
            texts.extend(fs::read_lossy(&entry.path()).ok());
        }
    }
    texts
}
