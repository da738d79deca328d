//! The logs of packaging scripts: one file for each package, in a directory for each release.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checked::CheckedRelease;
use super::graph::{PackageNode, PackageUse};
use super::ids::ReleaseId;
use crate::compile::first_log;
use crate::diag::Chain;
use crate::fs;

/// The paths of one package's log.
#[derive(Debug)]
pub(super) struct PackageLogs {
    /// Where the log is written.
    pub own: PathBuf,
    /// Further paths of the log, in the directories of the other releases that have the package.
    pub others: Vec<PathBuf>,
}

/// The directories of all releases' logs.
#[derive(Debug)]
pub(super) struct LogDirectories(BTreeMap<ReleaseId, PathBuf>);

impl LogDirectories {
    /// Chooses a directory in `logs` for each release. Releases that would have the same `NAME-VERSION` get different directories, because
    /// packages that are compiled concurrently must not write to one file.
    pub(super) fn new(logs: &Path, releases: &BTreeMap<ReleaseId, Arc<CheckedRelease>>) -> Self {
        let mut used: HashSet<PathBuf> = HashSet::new();
        let mut directories = BTreeMap::new();
        for (id, release) in releases {
            let name = format!("{}-{}", release.manifest.name, release.manifest.version);
            let mut directory = logs.join(&name);
            let mut number = 2;
            while !used.insert(directory.clone()) {
                directory = logs.join(format!("{name}.{number}"));
                number += 1;
            }
            directories.insert(*id, directory);
        }
        Self(directories)
    }

    /// The paths of a package's log. Creates their directories.
    pub(super) fn logs_of(&self, node: &PackageNode) -> fs::Result<PackageLogs> {
        let path = |place: &PackageUse| {
            let directory = &self.0[&place.release];
            fs::create_dir_all(directory)?;
            Ok(directory.join(format!("{}.log", place.package.name())))
        };
        Ok(PackageLogs {
            own: path(&node.first)?,
            others: node.others.iter().map(path).collect::<fs::Result<_>>()?,
        })
    }
}

impl PackageLogs {
    /// Removes the logs of an earlier run. They are removed, not truncated, because a log may be a hard link to that of another release.
    pub(super) fn remove(&self) {
        for log in std::iter::once(&self.own).chain(&self.others) {
            for log in [log.clone(), first_log(log)] {
                if let Err(error) = fs::remove_file_if_there(&log) {
                    tracing::warn!(error = %Chain(&error), "could not remove an old log");
                }
            }
        }
    }

    /// Whether the log exists, which means that the script was started.
    pub(super) fn has_own(&self) -> bool {
        fs::lookup(&self.own).is_ok_and(|it| it.is_some())
    }

    /// Creates hard links to the log in the directories of the other releases that have the package.
    pub(super) fn link(&self) {
        for other in &self.others {
            for (log, other) in [
                (self.own.clone(), other.clone()),
                (first_log(&self.own), first_log(other)),
            ] {
                if let Err(error) = fs::hard_link(&log, &other)
                    && !error.is_not_found()
                {
                    tracing::warn!(error = %Chain(&error), "could not link a log into the directory of every release that has the package");
                }
            }
        }
    }
}
