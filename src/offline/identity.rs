//! Which source blobs of a call count as the same: those with the same bytes, and those that unpack to the same files.
//!
//! Each release packs its packages for itself, so the blobs of one package differ in times and owners from release to release.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::inspect::Listed;
use super::release::Release;
use crate::archive::Compression;
use crate::compile::content_digest;
use crate::fs;
use crate::release::{Name, Version};
use crate::runtime::Cancellable;

/// What members are known by where that is not the digest of their blobs; by release and member.
pub(super) type Identities = HashMap<(usize, usize), String>;

/// A package that releases have with the same fingerprint and other contents.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conflict {
    pub package: (Name, Version),
    /// The releases, each named once.
    pub releases: Vec<String>,
}

/// One blob, and which members have it.
#[derive(Debug)]
struct Candidate<'a> {
    file: &'a Path,
    /// Release, member and fingerprint.
    members: Vec<(usize, usize, &'a str)>,
}

/// Compares the sources that have one name and version and not the same bytes. A blob that cannot be read is left to the
/// step that compiles it.
pub(super) fn compare(
    releases: &[Release],
    cancel: &CancellationToken,
) -> (Identities, Vec<Conflict>) {
    let mut packages: BTreeMap<(&Name, &Version), BTreeMap<&str, Candidate<'_>>> = BTreeMap::new();
    for (index, release) in releases.iter().enumerate() {
        for (number, member) in release.members.iter().enumerate() {
            let (Listed::Source(listed), Some(blob)) = (member.listed, release.blob(number)) else {
                continue;
            };
            let Some(digest) = blob.digests.sha256() else {
                continue;
            };
            let blobs = packages
                .entry((&member.name, release.version(number)))
                .or_default();
            let candidate = blobs.entry(digest).or_insert_with(|| Candidate {
                file: &blob.file,
                members: Vec::new(),
            });
            let fingerprint = release.manifest().packages[listed].fingerprint.as_str();
            candidate.members.push((index, number, fingerprint));
        }
    }
    let (mut identities, mut conflicts) = (HashMap::new(), Vec::new());
    for ((name, version), blobs) in packages {
        if blobs.len() < 2 {
            continue;
        }
        // By fingerprint: which contents there are, and in which releases.
        let mut contents: BTreeMap<&str, BTreeMap<String, Vec<String>>> = BTreeMap::new();
        for (digest, candidate) in blobs {
            let identity = identity(candidate.file, cancel).unwrap_or_else(|| digest.to_owned());
            for (release, member, fingerprint) in candidate.members {
                identities.insert((release, member), identity.clone());
                let same = contents.entry(fingerprint).or_default();
                same.entry(identity.clone())
                    .or_default()
                    .push(releases[release].label());
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
    (identities, conflicts)
}

/// What a source unpacks to, and whether it is compressed, which decides on the form of the compiled blob.
fn identity(blob: &Path, cancel: &CancellationToken) -> Option<String> {
    let open = || Some(Cancellable::new(fs::open(blob).ok()?, cancel));
    let content = content_digest(open()?).ok()??;
    let is_plain = crate::archive::Decoder::new(open()?).ok()?.compression() == Compression::None;
    let form = if is_plain { "plain" } else { "compressed" };
    Some(format!("{form} content {content}"))
}
