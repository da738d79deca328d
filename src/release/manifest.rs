//! `release.MF`: what is in a release.
//!
//! Many producers wrote these files over the years: the CLI since 2016 (the order of keys and the types here are
//! those of its structs), the Ruby CLI before it, Directors that export releases, and the Go agent. Strings are taken as
//! they are written, never through a number or a date, because the Director compares them as text.
//!
//! ```text
//! read      text → yaml tree → Manifest, or everything that is wrong with it
//! problem   what can be wrong
//! write     Manifest → text, as the Go agent writes a compiled release's
//! ```

use super::digest::MultiDigest;
use super::name::{Name, Version};
use super::stemcell::Slug;

mod problem;
mod read;
mod write;

pub use problem::{ManifestProblem, Owner, Problem};

/// The maximum size of a manifest, in bytes. A large real one has a few hundred thousand.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;

/// What `release.MF` says. Names are distinct: no two packages, compiled or not, and no two jobs share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The release's name.
    pub name: Name,
    /// The release's version.
    pub version: Version,
    /// The commit that it was made from, in the producer's words (`8ab1aae`, `unknown`, `non-git`, empty); `None` when
    /// the manifest does not say.
    pub commit_hash: Option<String>,
    /// Whether it was made from a tree with changes that were not committed; false when the manifest does not say.
    pub uncommitted_changes: bool,
    /// The jobs, in manifest order.
    pub jobs: Vec<Job>,
    /// The source packages, in manifest order.
    pub packages: Vec<Package>,
    /// The compiled packages, in manifest order. `None` when the manifest has no such key or a null: then it is a source
    /// release for the Director, while an empty list makes it a compiled one.
    pub compiled_packages: Option<Vec<CompiledPackage>>,
    /// The license tarball, if there is one.
    pub license: Option<License>,
    /// Whether the tarball is a plain tar; false when the manifest does not say.
    pub no_compression: bool,
}

/// A job of a release. Jobs pass through compilation unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its name; the tarball has it as `jobs/NAME.tgz`.
    pub name: Name,
    /// Its version, today the fingerprint, in old releases a number.
    pub version: Version,
    /// The fingerprint of its sources, hex; empty when the manifest does not say.
    pub fingerprint: String,
    /// The digest of `jobs/NAME.tgz`. The manifest's key is `sha1`, whatever the algorithm.
    pub digest: MultiDigest,
    /// The packages that it needs; `None` when the manifest does not say (Ruby CLI, exported releases).
    pub packages: Option<Vec<Name>>,
}

/// A source package of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name; the tarball has it as `packages/NAME.tgz`.
    pub name: Name,
    /// Its version, today the fingerprint, in old releases a number.
    pub version: Version,
    /// The fingerprint of its sources, hex; empty when the manifest does not say.
    pub fingerprint: String,
    /// The digest of `packages/NAME.tgz`. The manifest's key is `sha1`, whatever the algorithm.
    pub digest: MultiDigest,
    /// The packages that its script sees, in manifest order, repetitions kept: the Director compares with the source.
    pub dependencies: Vec<Name>,
}

/// A package that was compiled for one stemcell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledPackage {
    /// Its name; the tarball has it as `compiled_packages/NAME.tgz`.
    pub name: Name,
    /// The version of the source package.
    pub version: Version,
    /// The fingerprint of the source package; empty when the manifest does not say.
    pub fingerprint: String,
    /// The digest of `compiled_packages/NAME.tgz`. The manifest's key is `sha1`, whatever the algorithm.
    pub digest: MultiDigest,
    /// The stemcell that it was compiled for.
    pub stemcell: Slug,
    /// As of the source package.
    pub dependencies: Vec<Name>,
}

/// The license tarball, `license.tgz`. Its texts become part of no path and are taken as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct License {
    /// Its version, which is the fingerprint.
    pub version: String,
    /// The fingerprint of its files, hex; empty when the manifest does not say.
    pub fingerprint: String,
    /// The digest of `license.tgz`. The manifest's key is `sha1`, whatever the algorithm.
    pub digest: MultiDigest,
}
