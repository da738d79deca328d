//! `release.MF`: the contents of a release.
//!
//! Several programs write these files: the CLI since 2016, before that the Ruby CLI, Directors that export releases, and the Go agent. The
//! structs here have the key order and the types of the CLI. Strings keep their text and are never parsed as numbers or dates, because a
//! Director compares the texts.
//!
//! ```text
//! read      text → YAML tree → Manifest, or all of its problems
//! problem   the problems
//! write     Manifest → text, in the Go agent's format for compiled releases
//! ```

use super::digest::MultiDigest;
use super::name::{Name, Version};
use super::stemcell::Slug;

mod problem;
mod read;
mod write;

pub(crate) use problem::FieldProblem;
pub use problem::ManifestProblem;

/// The maximum size of a manifest, in bytes. Large manifests have a few hundred kilobytes.
pub(crate) const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The contents of `release.MF`. Names are unique among all packages, source and compiled, and among jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The name of the release.
    pub name: Name,
    /// The version of the release.
    pub version: Version,
    /// The commit that the release was created from, as the producer wrote it (`8ab1aae`, `unknown`, `non-git`, empty). `None` if the
    /// manifest has no commit.
    pub commit_hash: Option<String>,
    /// Whether the release was created with uncommitted changes. False by default.
    pub uncommitted_changes: bool,
    /// The jobs, in manifest order.
    pub jobs: Vec<Job>,
    /// The source packages, in manifest order.
    pub packages: Vec<Package>,
    /// The compiled packages, in manifest order. `None` if the key is missing or null: a Director then treats the release as a source
    /// release. With an empty list, it treats the release as a compiled release.
    pub compiled_packages: Option<Vec<CompiledPackage>>,
    /// The license tarball, if there is one.
    pub license: Option<License>,
    /// Whether the tarball is a plain tar. False by default.
    pub no_compression: bool,
}

/// A job of a release. Compilation does not change jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The name; the archive is `jobs/NAME.tgz`.
    pub name: Name,
    /// The version: the fingerprint, or a number in old releases.
    pub version: Version,
    /// The fingerprint of the sources in hex; empty if the manifest has none.
    pub fingerprint: String,
    /// The digest of `jobs/NAME.tgz`. The manifest's key is `sha1` for all algorithms.
    pub digest: MultiDigest,
    /// The packages that the job uses; `None` if the manifest does not list them (Ruby CLI, exported releases).
    pub packages: Option<Vec<Name>>,
}

/// A source package of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// The name; the archive is `packages/NAME.tgz`.
    pub name: Name,
    /// The version: the fingerprint, or a number in old releases.
    pub version: Version,
    /// The fingerprint of the sources in hex; empty if the manifest has none.
    pub fingerprint: String,
    /// The digest of `packages/NAME.tgz`. The manifest's key is `sha1` for all algorithms.
    pub digest: MultiDigest,
    /// The dependencies in manifest order. Duplicates are kept, because the Director compares the list with the source release.
    pub dependencies: Vec<Name>,
}

/// A package compiled for one stemcell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledPackage {
    /// The name; the archive is `compiled_packages/NAME.tgz`.
    pub name: Name,
    /// The version of the source package.
    pub version: Version,
    /// The fingerprint of the source package; empty if the manifest has none.
    pub fingerprint: String,
    /// The digest of `compiled_packages/NAME.tgz`. The manifest's key is `sha1` for all algorithms.
    pub digest: MultiDigest,
    /// The stemcell of the compilation.
    pub stemcell: Slug,
    /// The dependencies of the source package.
    pub dependencies: Vec<Name>,
}

/// The license archive, `license.tgz`. Its texts are not checked, because they are not used in paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct License {
    /// The version, which is the fingerprint.
    pub version: String,
    /// The fingerprint of the files in hex; empty if the manifest has none.
    pub fingerprint: String,
    /// The digest of `license.tgz`. The manifest's key is `sha1` for all algorithms.
    pub digest: MultiDigest,
}
