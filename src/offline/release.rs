//! One release of a call: its packages, where they are, and what it becomes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::assemble::PackageBlob;
use super::graph::Candidate;
use super::identity::Identities;
use super::inspect::{Listed, Member, members, order};
use super::open::{Blob, Carried, Opened, Role};
use crate::compile::Compiled;
use crate::release::{
    Algorithm, CompiledPackage, Manifest, MultiDigest, Name, Slug, Version, graph,
};

/// A release whose packages are to be compiled, or that has none.
#[derive(Debug)]
pub(super) struct Release {
    pub opened: Arc<Opened>,
    pub members: Vec<Member>,
    /// Compile order, as indices of the members.
    pub order: Vec<usize>,
    /// Where its result goes.
    pub output: PathBuf,
    /// Where compiled blobs go.
    pub blobs: PathBuf,
}

impl Release {
    /// A release that has been found to be in order.
    pub(super) fn new(opened: Opened, output: PathBuf, blobs: PathBuf) -> Self {
        let members = members(&opened.manifest);
        // Found to be in order before, so there is no problem to report here.
        let order = order(&members).unwrap_or_default();
        Self {
            opened: Arc::new(opened),
            members,
            order,
            output,
            blobs,
        }
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.opened.manifest
    }

    pub(super) fn label(&self) -> String {
        format!("{}/{}", self.manifest().name, self.manifest().version)
    }

    pub(super) fn named(&self) -> (Name, Version) {
        (
            self.manifest().name.clone(),
            self.manifest().version.clone(),
        )
    }

    pub(super) fn version(&self, member: usize) -> &Version {
        let manifest = self.manifest();
        match self.members[member].listed {
            Listed::Source(listed) => &manifest.packages[listed].version,
            Listed::Compiled(listed) => self
                .compiled(listed)
                .map_or(&manifest.version, |it| &it.version),
        }
    }

    fn compiled(&self, listed: usize) -> Option<&CompiledPackage> {
        self.manifest()
            .compiled_packages
            .iter()
            .flatten()
            .nth(listed)
    }

    /// A package's blob in the tarball. Every package has one: that was checked when the release was inspected.
    pub(super) fn blob(&self, member: usize) -> Option<&Blob> {
        self.carried(member)?.blob.as_ref()
    }

    /// A package's entry in the tarball.
    pub(super) fn carried(&self, member: usize) -> Option<&Carried> {
        let name = self.members[member].name.to_string();
        let role = match self.members[member].listed {
            Listed::Source(_) => Role::Package(name),
            Listed::Compiled(_) => Role::CompiledPackage(name),
        };
        self.opened
            .carried
            .iter()
            .find(|carried| carried.role == role)
    }

    /// The packages, told apart by `identities` where these have them, else by the SHA-256 of their blobs. This is the release
    /// of the call with that `number`.
    pub(super) fn candidates<'a>(
        &'a self,
        number: usize,
        identities: &'a Identities,
    ) -> Vec<Candidate<'a>> {
        self.members
            .iter()
            .enumerate()
            .map(|(index, member)| Candidate {
                member,
                version: self.version(index),
                digest: match identities.get(&(number, index)) {
                    Some(identity) => identity,
                    None => self
                        .blob(index)
                        .and_then(|blob| blob.digests.sha256())
                        .unwrap_or_default(),
                },
            })
            .collect()
    }

    /// The members that need this one, directly or through others.
    pub(super) fn dependents(&self, member: usize) -> Vec<Name> {
        let entries: Vec<graph::Entry<'_>> = self
            .members
            .iter()
            .map(|member| (&member.name, member.dependencies.as_slice()))
            .collect();
        graph::dependents(&entries, member)
            .into_iter()
            .map(|index| self.members[index].name.clone())
            .collect()
    }

    /// What the compiled release consists of, its packages in compile order. What has been compiled is given by members.
    pub(super) fn compiled_with(
        &self,
        compiled: &HashMap<usize, &Compiled>,
        stemcell: &Slug,
    ) -> (Manifest, Vec<PackageBlob>) {
        let manifest = self.manifest();
        if self.members.is_empty() {
            return (manifest.clone(), Vec::new());
        }
        let (mut entries, mut packages) = (Vec::new(), Vec::new());
        for member in self.order.iter().copied() {
            let found = match self.members[member].listed {
                Listed::Source(listed) => compiled
                    .get(&member)
                    .map(|compiled| compiled_entry(manifest, listed, compiled, stemcell)),
                Listed::Compiled(listed) => self
                    .compiled(listed)
                    .cloned()
                    .zip(self.blob(member).cloned()),
            };
            if let Some((entry, blob)) = found {
                packages.push(PackageBlob {
                    name: self.members[member].name.clone(),
                    blob,
                });
                entries.push(entry);
            }
        }
        let manifest = Manifest {
            packages: Vec::new(),
            compiled_packages: (!entries.is_empty()).then_some(entries),
            ..manifest.clone()
        };
        (manifest, packages)
    }
}

/// What the manifest will say of a compiled package, and its blob.
fn compiled_entry(
    manifest: &Manifest,
    listed: usize,
    compiled: &Compiled,
    stemcell: &Slug,
) -> (CompiledPackage, Blob) {
    let digests = compiled.digests.clone();
    let mut package = manifest.packages[listed].clone();
    // A bare SHA-1 is what every Director and agent reads.
    if let Some(digest) = MultiDigest::of(&digests, &[Algorithm::Sha1]) {
        package.digest = digest;
    }
    let entry = CompiledPackage {
        name: package.name,
        version: package.version,
        fingerprint: package.fingerprint,
        digest: package.digest,
        dependencies: package.dependencies,
        stemcell: stemcell.clone(),
    };
    let blob = Blob {
        file: compiled.blob.clone(),
        size: compiled.size,
        digests,
    };
    (entry, blob)
}
