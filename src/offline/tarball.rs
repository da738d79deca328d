//! The contents of a release tarball, after it was read once: its entries, each with a role, and the blobs that were written to the disk.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::problem::Problem;
use crate::archive::Entry;
use crate::release::digest::BlobDigests;
use crate::release::{Manifest, MultiDigest};

/// The role of a path in a release tarball.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// `release.MF`.
    Manifest,
    /// The directory `packages` or `compiled_packages`.
    PackagesDirectory,
    /// `packages/NAME.tgz`.
    Package(String),
    /// `compiled_packages/NAME.tgz`.
    CompiledPackage(String),
    /// `jobs/NAME.tgz`.
    Job(String),
    /// `license.tgz`.
    License,
    /// Any other path directly in `packages` or `compiled_packages`, which no program reads.
    Stray,
    /// Any other path.
    Other,
}

impl Role {
    pub(crate) fn of(path: &Path) -> Self {
        let Some(path) = path.to_str() else {
            return Self::Other;
        };
        match path {
            "release.MF" => return Self::Manifest,
            "license.tgz" => return Self::License,
            "packages" | "compiled_packages" => return Self::PackagesDirectory,
            _ => {}
        }
        let Some((directory, file)) = path.split_once('/') else {
            return Self::Other;
        };
        if file.contains('/') {
            return Self::Other;
        }
        let name = file.strip_suffix(".tgz").filter(|name| !name.is_empty());
        match (directory, name) {
            ("packages", Some(name)) => Self::Package(name.to_owned()),
            ("compiled_packages", Some(name)) => Self::CompiledPackage(name.to_owned()),
            ("jobs", Some(name)) => Self::Job(name.to_owned()),
            ("packages" | "compiled_packages", None) => Self::Stray,
            _ => Self::Other,
        }
    }
}

/// One entry of the tarball. If several entries have one path, the last one counts, as in tar.
#[derive(Debug, Clone)]
pub(super) struct Carried {
    /// The normalized path.
    pub path: PathBuf,
    /// The role of the path.
    pub role: Role,
    /// The header.
    pub entry: Entry,
    /// The contents of a file or hard link. `None` for other kinds and for the manifest.
    pub blob: Option<Blob>,
}

/// A file of the tarball, extracted to the disk.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub file: PathBuf,
    pub size: u64,
    pub digests: BlobDigests,
}

/// A release tarball that was read and is not checked yet.
#[derive(Debug)]
pub(super) struct Opened {
    /// The tarball.
    pub tarball: PathBuf,
    /// Whether the tarball can be read again, which a pipe cannot.
    pub is_file: bool,
    /// The SHA-256 of the whole tarball, as it was read.
    pub digests: BlobDigests,
    pub manifest: Manifest,
    /// The entries, in the tarball's order.
    pub carried: Vec<Carried>,
    /// Ignored files of operating systems and tools.
    pub clutter: Vec<PathBuf>,
    pub jobs: Jobs,
}

/// What the blobs of jobs contain.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    /// The problems with the contents of jobs and the license.
    pub problems: Vec<Problem>,
    pub packages: JobPackages,
}

/// The packages that each job needs, as its `job.MF` lists them, by the job's name. A job whose `job.MF` cannot be parsed is missing.
pub(super) type JobPackages = HashMap<String, Vec<String>>;

/// The path in a tarball of a role's blob.
pub(crate) fn path_of(role: &Role) -> String {
    match role {
        Role::Package(name) => format!("packages/{name}.tgz"),
        Role::CompiledPackage(name) => format!("compiled_packages/{name}.tgz"),
        Role::Job(name) => format!("jobs/{name}.tgz"),
        Role::License => "license.tgz".to_owned(),
        Role::Manifest => "release.MF".to_owned(),
        Role::PackagesDirectory | Role::Stray | Role::Other => String::new(),
    }
}

/// The digest of a role's blob in a manifest.
pub(super) fn expected_digest<'a>(manifest: &'a Manifest, role: &Role) -> Option<&'a MultiDigest> {
    let digest = match role {
        Role::Package(name) => {
            let mut packages = manifest.packages.iter();
            &packages.find(|it| it.name.as_str() == name)?.digest
        }
        Role::CompiledPackage(name) => {
            let mut packages = manifest.compiled_packages.iter().flatten();
            &packages.find(|it| it.name.as_str() == name)?.digest
        }
        Role::Job(name) => {
            let mut jobs = manifest.jobs.iter();
            &jobs.find(|it| it.name.as_str() == name)?.digest
        }
        Role::License => &manifest.license.as_ref()?.digest,
        Role::Manifest | Role::PackagesDirectory | Role::Stray | Role::Other => return None,
    };
    Some(digest)
}

/// The path of an entry, for messages.
pub(crate) fn shown(path: &Path) -> String {
    String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_paths_have_roles() {
        let role = |path: &str| Role::of(Path::new(path));
        assert_eq!(role("release.MF"), Role::Manifest);
        assert_eq!(role("docs/release.MF"), Role::Other);
        assert_eq!(role("packages"), Role::PackagesDirectory);
        assert_eq!(
            role("packages/a.b+c.tgz"),
            Role::Package("a.b+c".to_owned())
        );
        assert_eq!(role("packages/.tgz"), Role::Stray);
        assert_eq!(role("packages/README"), Role::Stray);
        assert_eq!(role("packages/sub/a.tgz"), Role::Other);
        assert_eq!(role("docs/packages/a.tgz"), Role::Other);
        assert_eq!(
            role("compiled_packages/a.tgz"),
            Role::CompiledPackage("a".to_owned())
        );
        assert_eq!(role("jobs/web.tgz"), Role::Job("web".to_owned()));
        assert_eq!(role("license.tgz"), Role::License);
        assert_eq!(role("LICENSE"), Role::Other);
    }
}
