//! Finds the licenses of a release and of its packages, for SBOMs.
//!
//! Licenses are files with names such as `LICENSE` and `COPYING`: next to `release.MF`, in `license.tgz`, and in the blobs of packages,
//! including archives in them. Files that cannot be read are left out: the compilation of a damaged source fails later.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::checked::CheckedRelease;
use super::tarball::{Blob, Role, shown};
use crate::archive::entry::normalize;
use crate::archive::{Decoder, Entry, Kind, Reader};
use crate::fs;
use crate::release::Name;
use crate::runtime::Cancellable;
use crate::supply_chain::{License, identify, is_license};

/// The maximum size of a license, in bytes. The GNU GPL has 35,000.
pub(super) const LONGEST: u64 = 256 << 10;

/// The maximum memory for the licenses of a release, in bytes. Sources are not trusted.
pub(super) const MEMORY: u64 = 32 << 20;

/// The maximum depth of nested archives: the blob, and an archive in it.
const DEPTH: u32 = 2;

/// The suffixes of archives.
const ARCHIVES: [&str; 9] = [
    ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".tar.zst", ".tzst",
];

/// The licenses of a release.
#[derive(Debug, Default)]
pub(super) struct FoundLicenses {
    /// The licenses of the whole release.
    pub release: Vec<License>,
    /// The licenses in the blobs of packages.
    pub packages: BTreeMap<Name, Vec<License>>,
    /// How many files with licenses were left out: their texts are too long, or need too much memory.
    pub left_out: usize,
}

/// Finds the licenses of a release, whose blobs are on the disk.
pub(super) fn find(release: &CheckedRelease, cancel: &CancellationToken) -> FoundLicenses {
    let mut search = Search::new(MEMORY);
    let files = release.carried.iter().filter_map(|carried| {
        let blob = carried.blob.as_ref()?;
        Some((carried, blob))
    });
    for (carried, blob) in files {
        match &carried.role {
            Role::License => search.blob(blob, cancel),
            Role::Other if is_license_at_top(&carried.path) => search.file(&carried.path, blob),
            _ => {}
        }
    }
    let of_release = search.take();
    let packages = release.packages.iter().map(|package| {
        // A compiled package may lack the licenses of its source.
        search.blob(package.replaced.as_ref().unwrap_or(&package.blob), cancel);
        (package.name().clone(), search.take())
    });
    FoundLicenses {
        packages: packages.collect(),
        release: of_release,
        left_out: search.left_out,
    }
}

/// Whether a path of a release is that of a license file next to `release.MF`.
fn is_license_at_top(path: &Path) -> bool {
    path.components().count() == 1 && path.to_str().is_some_and(is_license)
}

struct Search {
    found: BTreeSet<License>,
    /// How many bytes of licenses can still be kept.
    left: u64,
    /// How many files with licenses were left out.
    left_out: usize,
}

impl Search {
    /// A search that keeps at most `memory` bytes.
    fn new(memory: u64) -> Self {
        Self {
            found: BTreeSet::new(),
            left: memory,
            left_out: 0,
        }
    }

    /// The licenses that were found, each text once.
    fn take(&mut self) -> Vec<License> {
        let mut licenses: Vec<License> = Vec::new();
        for license in std::mem::take(&mut self.found) {
            let is_same = |it: &License| match it.id {
                Some(_) => it.id == license.id,
                None => it.text == license.text,
            };
            if !licenses.iter().any(is_same) {
                licenses.push(license);
            }
        }
        licenses
    }

    fn blob(&mut self, blob: &Blob, cancel: &CancellationToken) {
        match fs::open(&blob.file) {
            Ok(file) => {
                let mut file = Cancellable::new(file, cancel);
                self.archive(&mut file, Path::new(""), DEPTH);
            }
            Err(error) => tracing::debug!(%error, "could not read a blob to find licenses"),
        }
    }

    fn file(&mut self, path: &Path, blob: &Blob) {
        if let Ok(file) = fs::open(&blob.file) {
            self.add(path, blob.size, file);
        }
    }

    /// Reads an archive up to its first error. `within` is its path in the blob. `depth` is how many levels of archives are read, including
    /// this one.
    fn archive(&mut self, input: &mut dyn Read, within: &Path, depth: u32) {
        let Ok(decoder) = Decoder::new(input) else {
            return;
        };
        let mut reader = Reader::new(decoder);
        while let Ok(Some(entry)) = reader.next_entry() {
            self.entry(&mut reader, &entry, within, depth);
        }
    }

    fn entry(&mut self, reader: &mut Reader<impl Read>, entry: &Entry, within: &Path, depth: u32) {
        let Ok(path) = normalize(&entry.name) else {
            return;
        };
        if entry.kind != Kind::File || entry.is_sparse() {
            return;
        }
        let Some(name) = path.file_name().and_then(|it| it.to_str()) else {
            return;
        };
        let place = within.join(&path);
        if is_license(name) {
            self.add(&place, entry.size, reader);
        } else if depth > 1 && ARCHIVES.iter().any(|end| name.ends_with(end)) {
            self.archive(reader, &place, depth - 1);
        }
    }

    fn add(&mut self, path: &Path, size: u64, content: impl Read) {
        if size == 0 {
            return;
        }
        if size > LONGEST {
            self.left_out += 1;
            return;
        }
        let mut text = Vec::new();
        if content.take(LONGEST).read_to_end(&mut text).is_err() {
            return;
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let id = identify(&text);
        // The text of a well-known license is known.
        let text = if id.is_some() { String::new() } else { text };
        // Many files of a source have the same path or text, but each path is kept.
        let needed = (text.len() + path.as_os_str().len()) as u64;
        if needed > self.left {
            self.left_out += 1;
            return;
        }
        self.left -= needed;
        self.found.insert(License {
            id,
            path: shown(path),
            text,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{EntryHeader, EntryWriter};

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = EntryWriter::new(Vec::new());
        for (name, content) in files {
            let mut header = EntryHeader::new(Kind::File, name.as_bytes(), 0o644);
            header.size = content.len() as u64;
            archive.append(&header, *content).unwrap();
        }
        archive.finish().unwrap()
    }

    fn found(archive: &[u8]) -> Vec<License> {
        let mut search = Search::new(MEMORY);
        let mut input = archive;
        search.archive(&mut input, Path::new(""), DEPTH);
        search.take()
    }

    const UNLICENSE: &[u8] =
        b"This is free and unencumbered software released into the public domain.";

    #[test]
    fn licenses_are_found_in_archives_of_a_source() {
        let innermost = archive(&[("LICENSE", b"too deep")]);
        let inner = archive(&[("x-1/COPYING", UNLICENSE), ("y.tar", &innermost)]);
        let outer = archive(&[
            ("./x/x-1.tar", &inner),
            ("./LICENSE", b"own terms"),
            ("./x/vendor/LICENSE.md", b"own terms"),
            ("./x/LICENSE.go", b"code"),
            ("./empty/LICENSE", b""),
        ]);
        let found = found(&outer);
        let facts: Vec<_> = found
            .iter()
            .map(|it| (it.id, it.path.as_str(), it.text.as_str()))
            .collect();
        assert_eq!(
            facts,
            [
                (None, "LICENSE", "own terms"),
                (Some("Unlicense"), "x/x-1.tar/x-1/COPYING", "")
            ]
        );
    }

    #[test]
    fn licenses_that_need_too_much_memory_are_counted() {
        let archive = archive(&[("a/LICENSE", b"terms"), ("b/LICENSE", b"other")]);
        let mut search = Search::new(20);
        search.archive(&mut archive.as_slice(), Path::new(""), DEPTH);
        assert_eq!((search.take().len(), search.left_out), (1, 1));
    }

    #[test]
    fn damaged_and_long_licenses_are_left_out() {
        let long = vec![b'x'; LONGEST as usize + 1];
        let mut archive = archive(&[("LICENSE", &long), ("COPYING", b"text"), ("a", b"b")]);
        assert_eq!(found(&archive).len(), 1);
        archive.truncate(archive.len() / 2);
        assert_eq!(found(&archive), []);
        assert_eq!(found(b"no archive"), []);
    }
}
