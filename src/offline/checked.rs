//! A release whose manifest and tarball agree. [`inspect::check`](super::inspect::check) creates it; later code relies on the checks.

use std::path::PathBuf;
use std::sync::Arc;

use super::tarball::{Blob, Carried};
use crate::release::digest::BlobDigests;
use crate::release::{CompiledPackage, Manifest, Name, Package, Version, graph};

/// A release in which every package has its blob, every digest is right, and every dependency exists.
#[derive(Debug)]
pub(super) struct CheckedRelease {
    pub tarball: PathBuf,
    /// The digests of the whole tarball.
    pub digests: BlobDigests,
    pub manifest: Manifest,
    /// The entries, in the tarball's order.
    pub carried: Vec<Carried>,
    /// The packages, in compile order.
    pub packages: Vec<Arc<CheckedPackage>>,
}

/// A package of a release, with its blob.
#[derive(Debug, Clone)]
pub(super) struct CheckedPackage {
    pub listed: Listed,
    /// The package's path in the tarball.
    pub path: PathBuf,
    pub blob: Blob,
    /// The earlier result from which the package was taken.
    pub reused_from: Option<PathBuf>,
    /// The source that the package of an earlier result replaces. Its file is removed, unless SBOMs need its licenses.
    pub replaced: Option<Blob>,
}

/// A package as the manifest lists it.
#[derive(Debug, Clone)]
pub(crate) enum Listed {
    Source(Package),
    Compiled(CompiledPackage),
}

impl CheckedRelease {
    /// `NAME/VERSION`, for messages.
    pub(super) fn label(&self) -> String {
        format!("{}/{}", self.manifest.name, self.manifest.version)
    }

    pub(super) fn name_and_version(&self) -> (Name, Version) {
        (self.manifest.name.clone(), self.manifest.version.clone())
    }

    /// The packages as nodes of a dependency graph.
    pub(super) fn graph(&self) -> Vec<graph::PackageNode<'_>> {
        let packages = self.packages.iter();
        packages.map(|it| (it.name(), it.dependencies())).collect()
    }

    /// The packages that depend on this one, directly or through others, in compile order.
    pub(super) fn dependents(&self, package: &Name) -> Vec<Name> {
        let entries = self.graph();
        let index = entries.iter().position(|(name, _)| *name == package);
        index
            .into_iter()
            .flat_map(|index| graph::dependents(&entries, index))
            .map(|index| self.packages[index].name().clone())
            .collect()
    }
}

impl CheckedPackage {
    pub(super) fn name(&self) -> &Name {
        self.listed.name()
    }

    pub(super) fn version(&self) -> &Version {
        match &self.listed {
            Listed::Source(package) => &package.version,
            Listed::Compiled(package) => &package.version,
        }
    }

    /// The direct dependencies, in manifest order.
    pub(super) fn dependencies(&self) -> &[Name] {
        self.listed.dependencies()
    }

    pub(super) fn is_source(&self) -> bool {
        matches!(self.listed, Listed::Source(_))
    }
}

impl Listed {
    pub(crate) fn name(&self) -> &Name {
        match self {
            Self::Source(package) => &package.name,
            Self::Compiled(package) => &package.name,
        }
    }

    pub(crate) fn dependencies(&self) -> &[Name] {
        match self {
            Self::Source(package) => &package.dependencies,
            Self::Compiled(package) => &package.dependencies,
        }
    }
}
