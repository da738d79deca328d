//! Determines the cause of a failure (script, input, or machine), and the exit code that reports it.

use std::io;

use super::error::{InputProblem, InputProblemKind, OfflineError};
use super::failure::FailureCause;
use super::open_error::OpenError;
use crate::archive::{PackError, UnpackError};
use crate::cluster::RemoteFailure;
use crate::compile::{Cause, CompileError, ScriptFailure};
use crate::fs;
use crate::image::ImageError;
use crate::package_job::Blame;

/// What is to blame for a failure.
///
/// The order is that of the exit codes: if there are several failures, the smallest one is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// A packaging script, or the files that it installed.
    Script,
    /// A release.
    Input,
    /// This machine: a full disk, too little memory, missing permissions, no isolation. A retry on another machine can succeed.
    Machine,
}

impl FailureKind {
    /// The kind of a run's failure; `None` if the user stopped it.
    #[must_use]
    pub fn of(error: &OfflineError) -> Option<Self> {
        match error {
            OfflineError::Stopped => None,
            OfflineError::Incomplete(incomplete) => {
                incomplete.failures.iter().filter_map(Self::of).min()
            }
            OfflineError::Stemcells(stemcells) => {
                let failed = stemcells.failed.iter();
                failed.filter_map(|(_, error)| Self::of(error)).min()
            }
            OfflineError::Input(problems) => problems.iter().map(of_problem).min(),
            OfflineError::PackageInput { source, .. } => Some(of_input(source)),
            OfflineError::Image(error) if is_of_the_machine(error) => Some(Self::Machine),
            OfflineError::Image(_)
            | OfflineError::Unknown(_)
            | OfflineError::OverInput { .. }
            | OfflineError::SamePlace { .. }
            | OfflineError::OneDocument { .. }
            | OfflineError::SameDocument { .. }
            | OfflineError::SameStemcell { .. }
            | OfflineError::InEmptied { .. } => Some(Self::Input),
            OfflineError::Enter { source, .. } => Some(of_package(source)),
            OfflineError::Package(failure) => Some(match &failure.source {
                FailureCause::Local(error) => of_package(error),
                FailureCause::Remote(failure) => of_remote(failure),
            }),
            OfflineError::NotReproducible(_) => Some(Self::Script),
            OfflineError::Stemcell(_)
            | OfflineError::Compare { .. }
            | OfflineError::KeptInUse { .. }
            | OfflineError::Spool { .. }
            | OfflineError::Files(_)
            | OfflineError::Sandbox(_)
            | OfflineError::Assemble { .. }
            | OfflineError::ScriptUser { .. }
            | OfflineError::Place { .. }
            | OfflineError::NoDigest { .. }
            | OfflineError::Remote { .. }
            | OfflineError::StoreRefused { .. }
            | OfflineError::Task(_) => Some(Self::Machine),
        }
    }

    /// The exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Script => 1,
            Self::Input => 3,
            Self::Machine => 4,
        }
    }
}

/// The kind of a failure in the notation of reports.
pub(super) fn blame(kind: FailureKind) -> Blame {
    match kind {
        FailureKind::Script => Blame::Script,
        FailureKind::Input => Blame::Input,
        FailureKind::Machine => Blame::Machine,
    }
}

fn of_problem(problem: &InputProblem) -> FailureKind {
    match &problem.kind {
        InputProblemKind::OutputDirectory(_) | InputProblemKind::NoSpace { .. } => {
            FailureKind::Machine
        }
        InputProblemKind::Open(OpenError::Files(error)) if !is_wrong_path(error) => {
            FailureKind::Machine
        }
        _ => FailureKind::Input,
    }
}

/// The kind of an input's file error. An input that is missing or not a regular file counts as a wrong input, because a retry on another
/// machine cannot succeed.
fn of_input(error: &fs::Error) -> FailureKind {
    // An error without a code of the operating system means that the path is not that of a regular file.
    match is_wrong_path(error) || error.source.raw_os_error().is_none() {
        true => FailureKind::Input,
        false => FailureKind::Machine,
    }
}

/// Whether an input's path is wrong: it does not exist, or it is not a file.
pub(crate) fn is_wrong_path(error: &fs::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.source.kind(), NotFound | IsADirectory | NotADirectory)
}

fn of_package(error: &CompileError) -> FailureKind {
    match error {
        CompileError::Script(script) => of_script(script),
        CompileError::Source { source, .. } | CompileError::Compiled { source, .. } => {
            if is_of_the_system(source) {
                FailureKind::Machine
            } else {
                FailureKind::Input
            }
        }
        CompileError::DanglingScript { .. } | CompileError::ScriptIsNotAFile { .. } => {
            FailureKind::Input
        }
        CompileError::Pack {
            source: PackError::File(_),
            ..
        }
        | CompileError::BlobChanged { .. }
        | CompileError::Unkillable { .. }
        | CompileError::NoResponse { .. }
        | CompileError::TimedOut { .. }
        | CompileError::Files { .. }
        | CompileError::Sandbox { .. }
        | CompileError::NoSpace { .. }
        | CompileError::Task { .. } => FailureKind::Machine,
        CompileError::Pack { .. }
        | CompileError::Changed { .. }
        | CompileError::ChangedInUse { .. }
        | CompileError::InstallTarget { .. }
        | CompileError::Mounted { .. }
        | CompileError::Denied { .. }
        | CompileError::AcrossMounts { .. }
        | CompileError::ReplacedByShell { .. }
        | CompileError::Stopped { .. } => FailureKind::Script,
    }
}

/// The kind that another machine reported. Without a report, the machines of the server are to blame.
fn of_remote(failure: &RemoteFailure) -> FailureKind {
    match failure.report().and_then(|report| report.failure_kind) {
        Some(Blame::Script) => FailureKind::Script,
        Some(Blame::Input) => FailureKind::Input,
        Some(Blame::Machine) | None => FailureKind::Machine,
    }
}

fn of_script(script: &ScriptFailure) -> FailureKind {
    match script.cause {
        Some(Cause::OutOfMemory { .. } | Cause::NoSpace { .. }) => FailureKind::Machine,
        Some(Cause::TimeLimit { .. } | Cause::Silence { .. } | Cause::Scratch { .. }) | None => {
            FailureKind::Script
        }
    }
}

/// Whether this machine is to blame for an image that cannot be used, and not the image.
fn is_of_the_machine(error: &ImageError) -> bool {
    match error {
        ImageError::Files(error) => !is_wrong_path(error),
        ImageError::TooLarge { .. }
        | ImageError::OfOthers { .. }
        | ImageError::OtherOwner { .. } => true,
        other => is_of_the_system(other),
    }
}

/// Whether the operating system refused an operation. Then the data may be valid.
pub(super) fn is_of_the_system(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.raw_os_error().is_some()
        {
            return true;
        }
        if let Some(UnpackError::File(_)) = error.downcast_ref() {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::offline::{Incomplete, PackageFailure};
    use crate::release::{Name, Version};

    fn package(source: CompileError) -> OfflineError {
        OfflineError::Package(Box::new(PackageFailure {
            releases: Vec::new(),
            package: (Name::parse("app").unwrap(), Version::parse("1").unwrap()),
            blob: (PathBuf::from("packages/app.tgz"), 1),
            log: None,
            error_line: None,
            source: source.into(),
        }))
    }

    fn installed_nothing() -> OfflineError {
        package(CompileError::InstallTarget {
            package: Name::parse("app").unwrap(),
            path: PathBuf::from("/target"),
            found: "a file".into(),
        })
    }

    fn over_directory() -> OfflineError {
        OfflineError::Input(vec![InputProblem {
            path: PathBuf::from("a.tgz"),
            kind: InputProblemKind::OverDirectory {
                output: PathBuf::from("/out"),
            },
        }])
    }

    fn no_space() -> OfflineError {
        let system = io::Error::from_raw_os_error(28);
        OfflineError::Files(fs::Error::new("write", Path::new("/file"), system))
    }

    fn incomplete(failures: Vec<OfflineError>) -> OfflineError {
        OfflineError::Incomplete(Box::new(Incomplete {
            failures,
            releases: Vec::new(),
        }))
    }

    fn code(error: &OfflineError) -> Option<u8> {
        FailureKind::of(error).map(FailureKind::exit_code)
    }

    #[test]
    fn each_kind_has_its_exit_code() {
        assert_eq!(code(&installed_nothing()), Some(1));
        assert_eq!(code(&over_directory()), Some(3));
        assert_eq!(code(&no_space()), Some(4));
        assert_eq!(code(&OfflineError::Stopped), None);
    }

    #[test]
    fn of_several_failures_the_smallest_code_counts() {
        let both = incomplete(vec![no_space(), installed_nothing()]);
        assert_eq!(code(&both), Some(1));
        let stopped_too = incomplete(vec![OfflineError::Stopped, no_space()]);
        assert_eq!(code(&stopped_too), Some(4));
    }
}
