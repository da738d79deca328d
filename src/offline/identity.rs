//! Decides which source blobs of a run are the same: those with the same bytes, and those that unpack to the same files.
//!
//! Each release archives its packages itself, so the blobs of one package differ in times and owners from release to release.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::checked::{CheckedPackage, CheckedRelease, Listed};
use super::ids::ReleaseId;
use crate::archive::{Compression, Decoder};
use crate::compile::{SourceDates, content_digest};
use crate::fs;
use crate::release::{Name, Version};
use crate::runtime::Cancellable;

/// The identities of the source packages that were compared by content.
#[derive(Debug, Default)]
pub(super) struct Identities(HashMap<(ReleaseId, Name), String>);

impl Identities {
    /// The identity of a package's source, which is equal for equal sources. It is the digest of the contents, or the SHA-256 of the blob.
    pub(super) fn of<'a>(&'a self, release: ReleaseId, package: &'a CheckedPackage) -> &'a str {
        match self.0.get(&(release, package.name().clone())) {
            Some(identity) => identity,
            None => package.blob.digests.sha256(),
        }
    }
}

/// A package that several releases have with the same fingerprint and different contents.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conflict {
    pub package: (Name, Version),
    /// The releases that have the package, each named once.
    pub releases: Vec<String>,
}

/// A source blob, and the packages that have it.
#[derive(Debug)]
struct SourceBlob<'a> {
    file: &'a Path,
    /// The release of each package, and the package's fingerprint.
    packages: Vec<(ReleaseId, &'a str)>,
}

/// The source blobs of one package name and version, by SHA-256.
type SourceBlobs<'a> = BTreeMap<&'a str, SourceBlob<'a>>;

/// Compares the contents of sources with the same package name and version but different bytes. A blob that cannot be read is not compared:
/// its compilation fails later. With source dates, the times in a source affect the compiled package, so only sources with the same bytes
/// are the same.
pub(super) fn compare(
    releases: &BTreeMap<ReleaseId, Arc<CheckedRelease>>,
    dates: SourceDates,
    cancel: &CancellationToken,
) -> (Identities, Vec<Conflict>) {
    let (mut identities, mut conflicts) = (HashMap::new(), Vec::new());
    for ((name, version), blobs) in source_blobs(releases) {
        if blobs.len() < 2 {
            continue;
        }
        // For each fingerprint, the contents that occur, and the releases that have them.
        let mut contents: BTreeMap<&str, BTreeMap<String, Vec<String>>> = BTreeMap::new();
        for (digest, blob) in blobs {
            let identity = content_identity(blob.file, cancel).unwrap_or_else(|| digest.to_owned());
            for (release, fingerprint) in blob.packages {
                if !dates.are_used() {
                    identities.insert((release, name.clone()), identity.clone());
                }
                let same = contents.entry(fingerprint).or_default();
                same.entry(identity.clone())
                    .or_default()
                    .push(releases[&release].label());
            }
        }
        for (fingerprint, contents) in contents {
            if contents.len() > 1 && !fingerprint.is_empty() {
                let mut labels: Vec<String> = contents.into_values().flatten().collect();
                labels.sort();
                labels.dedup();
                conflicts.push(Conflict {
                    package: (name.clone(), version.clone()),
                    releases: labels,
                });
            }
        }
    }
    (Identities(identities), conflicts)
}

fn source_blobs(
    releases: &BTreeMap<ReleaseId, Arc<CheckedRelease>>,
) -> BTreeMap<(&Name, &Version), SourceBlobs<'_>> {
    let mut packages: BTreeMap<(&Name, &Version), SourceBlobs<'_>> = BTreeMap::new();
    for (id, release) in releases {
        for package in &release.packages {
            let Listed::Source(source) = &package.listed else {
                continue;
            };
            packages
                .entry((&source.name, &source.version))
                .or_default()
                .entry(package.blob.digests.sha256())
                .or_insert_with(|| SourceBlob {
                    file: &package.blob.file,
                    packages: Vec::new(),
                })
                .packages
                .push((*id, &source.fingerprint));
        }
    }
    packages
}

/// The identity of a source by content: a digest of its files, and whether its blob is compressed, because the compiled blob is compressed
/// only if the source is. `None` if the blob cannot be read.
fn content_identity(blob: &Path, cancel: &CancellationToken) -> Option<String> {
    let open = || Some(Cancellable::new(fs::open(blob).ok()?, cancel));
    let content = content_digest(open()?).ok()??;
    let is_plain = Decoder::new(open()?).ok()?.compression() == Compression::None;
    let form = if is_plain { "plain" } else { "compressed" };
    Some(format!("{form} content {content}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{EntryHeader, EntryWriter, Kind};
    use crate::offline::graph::tests::releases;
    use crate::offline::tarball::Blob;
    use crate::release::digest::BlobDigests;

    #[test]
    fn sources_with_other_times_are_the_same_without_source_dates() {
        let scratch = tempfile::tempdir().unwrap();
        let mut all = releases(&["lib@1=a", "lib@1=b"]);
        for (time, release) in all.values_mut().enumerate() {
            let mut archive = EntryWriter::new(Vec::new());
            let mut header = EntryHeader::new(Kind::File, b"file", 0o644);
            header.mtime = i64::try_from(time).unwrap();
            archive.append(&header, b"".as_slice()).unwrap();
            let bytes = archive.finish().unwrap();
            let file = scratch.path().join(time.to_string());
            fs::write(&file, &bytes).unwrap();
            let release = Arc::get_mut(release).unwrap();
            let package = Arc::get_mut(&mut release.packages[0]).unwrap();
            package.blob = Blob {
                file,
                size: bytes.len() as u64,
                digests: BlobDigests::of(&bytes),
            };
        }
        let are_same = |dates| {
            let (identities, conflicts) = compare(&all, dates, &CancellationToken::new());
            assert_eq!(conflicts, []);
            let found = all
                .iter()
                .map(|(id, release)| identities.of(*id, &release.packages[0]));
            let found: Vec<&str> = found.collect();
            found[0] == found[1]
        };
        assert!(are_same(SourceDates::None));
        assert!(!are_same(SourceDates::OfEachSource));
    }
}
