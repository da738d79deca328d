//! Determines the contents of a compiled release: its manifest and its packages.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::assemble::PackageBlob;
use super::checked::{CheckedRelease, Listed};
use super::tarball::Blob;
use crate::compile::Compiled;
use crate::release::digest::BlobDigests;
use crate::release::{
    Algorithm, CompiledPackage, Digests, Manifest, MultiDigest, Name, Package, Slug,
};

/// The blob of a package that was compiled in this run or taken from a cache.
#[derive(Debug)]
pub(super) struct CompiledBlob {
    /// The digest for the manifest: a SHA-1 without prefix, which every Director and agent reads.
    pub digest: MultiDigest,
    pub blob: Blob,
}

impl CompiledBlob {
    /// The blob of a compiled package; `None` if its SHA-1 or SHA-256 was not computed.
    pub(super) fn new(compiled: &Compiled) -> Option<Self> {
        Self::of_file(&compiled.blob, compiled.size, &compiled.digests)
    }

    /// A blob with these digests; `None` if the SHA-1 or SHA-256 is not among them.
    pub(super) fn of_file(file: &Path, size: u64, digests: &Digests) -> Option<Self> {
        Some(Self {
            digest: MultiDigest::of(digests, &[Algorithm::Sha1])?,
            blob: Blob {
                file: file.to_owned(),
                size,
                digests: BlobDigests::new(digests.clone())?,
            },
        })
    }
}

/// The manifest of a compiled release, and its packages in compile order.
#[derive(Debug)]
pub(super) struct CompiledRelease {
    pub manifest: Manifest,
    pub packages: Vec<PackageBlob>,
}

impl CompiledRelease {
    /// The compiled release of a release whose source packages were compiled; `None` while one of them is missing.
    pub(super) fn new(
        release: &CheckedRelease,
        compiled: &HashMap<Name, Arc<CompiledBlob>>,
        stemcell: &Slug,
    ) -> Option<Self> {
        if release.packages.is_empty() {
            return Some(Self {
                manifest: release.manifest.clone(),
                packages: Vec::new(),
            });
        }
        // This is asked after the end of each package, so that the common answer should cost little.
        let is_there = |listed: &Listed| match listed {
            Listed::Source(source) => compiled.contains_key(&source.name),
            Listed::Compiled(_) => true,
        };
        if !release.packages.iter().all(|it| is_there(&it.listed)) {
            return None;
        }
        let (mut entries, mut packages) = (Vec::new(), Vec::new());
        for package in &release.packages {
            let (entry, blob) = match &package.listed {
                Listed::Source(source) => {
                    let compiled = compiled.get(&source.name)?;
                    (entry(source, compiled, stemcell), compiled.blob.clone())
                }
                Listed::Compiled(entry) => (entry.clone(), package.blob.clone()),
            };
            packages.push(PackageBlob {
                name: entry.name.clone(),
                blob,
            });
            entries.push(entry);
        }
        let manifest = Manifest {
            packages: Vec::new(),
            compiled_packages: Some(entries),
            ..release.manifest.clone()
        };
        Some(Self { manifest, packages })
    }
}

/// The manifest's entry for a compiled package.
fn entry(source: &Package, compiled: &CompiledBlob, stemcell: &Slug) -> CompiledPackage {
    CompiledPackage {
        name: source.name.clone(),
        version: source.version.clone(),
        fingerprint: source.fingerprint.clone(),
        digest: compiled.digest.clone(),
        dependencies: source.dependencies.clone(),
        stemcell: stemcell.clone(),
    }
}
