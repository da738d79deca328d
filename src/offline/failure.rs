//! What has become of the packages of a call that failed.

use std::path::PathBuf;

use crate::compile::CompileError;
use crate::release::{Name, Version};

/// A package that has not been compiled.
#[derive(Debug, thiserror::Error)]
#[error("failed to compile package {}/{} of release {}", package.0, package.1, named(releases))]
pub struct PackageFailure {
    /// Names and versions of the releases that have it.
    pub releases: Vec<(Name, Version)>,
    /// Name and version of the package.
    pub package: (Name, Version),
    /// Its blob in the tarball, and how large that is, in bytes.
    pub blob: (PathBuf, u64),
    /// Why.
    pub source: CompileError,
}

fn named(releases: &[(Name, Version)]) -> String {
    let names: Vec<String> = releases
        .iter()
        .map(|(name, version)| format!("{name}/{version}"))
        .collect();
    names.join(" and ")
}

/// A release whose packages have not all been compiled.
#[derive(Debug)]
pub struct UnfinishedRelease {
    /// Name and version of the release.
    pub release: (Name, Version),
    /// Packages that have been compiled.
    pub compiled: Vec<Name>,
    /// Packages that failed, each with those that need it.
    pub dependents: Vec<(Name, Vec<Name>)>,
    /// Packages that were stopped for no fault of theirs.
    pub stopped: Vec<Name>,
    /// Packages that were not begun for no fault of theirs.
    pub not_begun: Vec<Name>,
}
