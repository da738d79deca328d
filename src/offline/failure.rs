//! The failures of a run's packages, and the releases that are therefore incomplete.

use std::path::{Path, PathBuf};

use crate::cluster::RemoteFailure;
use crate::compile::{CompileError, PrintedLine, ScriptFailure, first_log};
use crate::fs;
use crate::package_job::PackageFailureReport;
use crate::release::{Name, Version};

/// The failure of a package.
#[derive(Debug, thiserror::Error)]
#[error("failed to compile package {}/{}{}", package.0, package.1, of_releases(releases))]
pub struct PackageFailure {
    /// Names and versions of the releases that have the package. Empty if it was compiled without a release.
    pub releases: Vec<(Name, Version)>,
    /// Name and version of the package.
    pub package: (Name, Version),
    /// The package's blob in the tarball or, without a release, the damaged file, with its size in bytes.
    pub blob: (PathBuf, u64),
    /// The script's log, if the script was started.
    pub log: Option<PathBuf>,
    /// The line of the log that most likely says why the script failed.
    pub error_line: Option<PrintedLine>,
    /// The cause.
    pub source: FailureCause,
}

/// Why a package failed.
#[derive(Debug, thiserror::Error)]
pub enum FailureCause {
    /// The package failed on this machine.
    #[error(transparent)]
    Local(#[from] CompileError),
    /// The package failed on another machine.
    #[error(transparent)]
    Remote(#[from] RemoteFailure),
}

impl FailureCause {
    /// The failure of a packaging script on this machine.
    pub(super) fn script(&self) -> Option<&ScriptFailure> {
        match self {
            Self::Local(CompileError::Script(script)) => Some(script),
            Self::Local(_) | Self::Remote(_) => None,
        }
    }

    /// Whether no other package can be compiled, either, because a disk is full or the server does not serve any call.
    pub(super) fn ends_run(&self) -> bool {
        match self {
            Self::Local(error) => error.is_no_space(),
            Self::Remote(failure) => failure.is_outage() || fs::is_no_space_behind(failure),
        }
    }

    /// The failure that another machine reported.
    pub(super) fn reported(&self) -> Option<&PackageFailureReport> {
        match self {
            Self::Local(_) => None,
            Self::Remote(failure) => failure.report()?.failure.as_ref(),
        }
    }
}

impl PackageFailure {
    /// Replaces the paths of the logs by those of their copies. `log` is the copy of the package's log.
    pub(super) fn set_log(&mut self, log: &Path) {
        self.log = Some(log.to_owned());
        if let FailureCause::Local(CompileError::Script(script)) = &mut self.source {
            log.clone_into(&mut script.log);
            script.first_log = script.first_log.take().map(|_| first_log(log));
        }
    }
}

fn of_releases(releases: &[(Name, Version)]) -> String {
    if releases.is_empty() {
        return String::new();
    }
    let names: Vec<String> = releases
        .iter()
        .map(|(name, version)| format!("{name}/{version}"))
        .collect();
    format!(" of release {}", names.join(" and "))
}

/// A release whose packages have not all been compiled.
#[derive(Debug)]
pub struct UnfinishedRelease {
    /// Name and version of the release.
    pub release: (Name, Version),
    /// Packages that have been compiled.
    pub compiled: Vec<Name>,
    /// Packages that failed, each with its dependents.
    pub dependents: Vec<(Name, Vec<Name>)>,
    /// Packages that were stopped although they had not failed.
    pub stopped: Vec<Name>,
    /// Packages that were not started, although none of their dependencies failed.
    pub not_begun: Vec<Name>,
}
