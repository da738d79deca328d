//! Why a run of `bosh-agent compile` failed.

use std::path::PathBuf;

use super::assemble::AssembleError;
use super::failure::{FailureCause, PackageFailure, UnfinishedRelease};
use super::open_error::OpenError;
use super::problem::Problem;
use super::rebuild_differences::RebuildDifferences;
use super::selection::UnknownName;
use super::stemcell::UnknownStemcell;
use crate::cluster::RemoteFailure;
use crate::compile::CompileError;
use crate::diag::Bytes;
use crate::image::ImageError;
use crate::package_job::ScriptUser;
use crate::release::{ManifestProblem, Name};
use crate::sandbox::SandboxError;
use crate::{fs, runtime};

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// It is not known what to compile for.
    #[error(transparent)]
    Stemcell(#[from] UnknownStemcell),
    /// The stemcell image cannot be used.
    #[error(transparent)]
    Image(Box<ImageError>),
    /// The releases of the run are not in order. Nothing has been compiled.
    #[error("nothing was compiled: {} found", count(.0.len()))]
    Input(Vec<InputProblem>),
    /// The user selected jobs or packages that no release of the run has. Nothing has been compiled.
    #[error("nothing was compiled: no release of this run has {}", unknown(.0))]
    Unknown(Vec<UnknownName>),
    /// What is in a tarball cannot be written to the work directory.
    #[error("failed to extract `{}`", tarball.display())]
    Spool {
        /// The tarball.
        tarball: PathBuf,
        /// What went wrong.
        source: fs::Error,
    },
    /// A file operation failed.
    #[error(transparent)]
    Files(#[from] fs::Error),
    /// The tree in which packages are compiled is not available.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Not every release was written.
    #[error(transparent)]
    Incomplete(Box<Incomplete>),
    /// A package has not been compiled.
    #[error(transparent)]
    Package(Box<PackageFailure>),
    /// A compiled release has not been written.
    #[error("failed to write the compiled release `{}`", output.display())]
    Assemble {
        /// Where it should have been.
        output: PathBuf,
        /// What went wrong.
        source: AssembleError,
    },
    /// The source or a dependency of a single package cannot be read.
    #[error("failed to read the blob of package {package}")]
    PackageInput {
        /// The package.
        package: Name,
        /// Why.
        source: fs::Error,
    },
    /// A file that a run of a single package writes would replace one of its inputs.
    #[error("the run would overwrite `{}`, which is one of its inputs", path.display())]
    OverInput {
        /// The input.
        path: PathBuf,
    },
    /// An input of a single package is in a directory that the run empties.
    #[error("`{}` is in `{}`, which --force empties", path.display(), directory.display())]
    InputInBase {
        /// The input.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
    },
    /// This process cannot run the script of a single package as the user that the job names.
    #[error("the job wants its script to run as {}, which this process cannot do", script_user(*wanted))]
    ScriptUser {
        /// The user.
        wanted: ScriptUser,
    },
    /// A single compiled package has not been written.
    #[error("failed to write the compiled package `{}`", output.display())]
    Place {
        /// Where it should have been.
        output: PathBuf,
        /// What went wrong.
        source: AssembleError,
    },
    /// A package was compiled without the digests that its release needs: a bug.
    #[error("the digests of compiled package {package} were not computed")]
    NoDigest {
        /// The package.
        package: Name,
    },
    /// A shell in the sandbox of a kept package could not be opened.
    #[error("failed to open a shell in the sandbox of package {package}")]
    Enter {
        /// The package.
        package: Name,
        /// Why.
        source: Box<CompileError>,
    },
    /// Another shell is open in the sandbox of a kept package.
    #[error("another shell is open in the sandbox of the kept package `{}`", directory.display())]
    KeptInUse {
        /// The directory of the package.
        directory: PathBuf,
    },
    /// A file of one of two compilations could not be read, to compare them.
    #[error("failed to compare the results of both compilations: cannot read `{}`", file.display())]
    Compare {
        /// The file.
        file: PathBuf,
        /// What went wrong.
        source: Box<OpenError>,
    },
    /// Packages were not the same when they were compiled again.
    #[error("{} when compiled again", differing(.0))]
    NotReproducible(Box<RebuildDifferences>),
    /// Packages cannot be compiled on other machines.
    #[error("cannot compile packages on the machines of `{server}`")]
    Remote {
        /// The server.
        server: String,
        /// Why.
        source: Box<RemoteFailure>,
    },
    /// A part of this program broke.
    #[error(transparent)]
    Task(#[from] runtime::TaskFailed),
    /// The user stopped the run.
    #[error("stopped")]
    Stopped,
}

impl OfflineError {
    /// Everything that failed, the first failure first.
    pub(super) fn failures(&self) -> &[Self] {
        match self {
            Self::Incomplete(incomplete) => &incomplete.failures,
            only => std::slice::from_ref(only),
        }
    }

    /// Whether a disk (or a quota) is full.
    pub(super) fn is_no_space(&self) -> bool {
        match self {
            Self::Incomplete(incomplete) => incomplete.failures.iter().any(Self::is_no_space),
            Self::Package(failure) => match &failure.source {
                FailureCause::Local(error) => error.is_no_space(),
                FailureCause::Remote(failure) => fs::is_no_space_behind(failure),
            },
            Self::Sandbox(error) => error.is_no_space(),
            Self::Input(problems) => problems
                .iter()
                .any(|problem| fs::is_no_space_behind(&problem.kind)),
            other => fs::is_no_space_behind(other),
        }
    }
}

fn differing(found: &RebuildDifferences) -> String {
    match (found.packages.len(), found.compared) {
        (_, 1) => "the package differs".to_owned(),
        (1, all) => format!("one of {all} packages differs"),
        (some, all) => format!("{some} of {all} packages differ"),
    }
}

fn script_user(wanted: ScriptUser) -> &'static str {
    match wanted {
        ScriptUser::Root => "root",
        ScriptUser::Ordinary => "an ordinary user",
    }
}

fn unknown(names: &[UnknownName]) -> String {
    let names = names.iter().map(|it| format!("{} `{}`", it.kind, it.name));
    names.collect::<Vec<_>>().join(" or ")
}

fn count(problems: usize) -> String {
    match problems {
        1 => "one problem".to_owned(),
        more => format!("{more} problems"),
    }
}

/// A problem with one of the tarballs, or with where its result would go.
#[derive(Debug)]
pub struct InputProblem {
    /// The tarball or directory.
    pub path: PathBuf,
    /// What is wrong.
    pub kind: InputProblemKind,
}

/// What is wrong with an input.
#[derive(Debug, thiserror::Error)]
pub enum InputProblemKind {
    /// It is not a release.
    #[error(transparent)]
    Open(OpenError),
    /// Its manifest is wrong in one point.
    #[error("release.MF: {0}")]
    Manifest(ManifestProblem),
    /// It is not the release that it says.
    #[error(transparent)]
    Release(Problem),
    /// A release that is compiled already is read twice, and this cannot be.
    #[error("it is already compiled, so it would be copied, but it is not a regular file")]
    NotAFile,
    /// An earlier result from which packages are to be taken has no compiled packages.
    #[error("it has no compiled packages to reuse (--reuse)")]
    NothingToReuse,
    /// It cannot be read for a second compilation.
    #[error("--verify-rebuild would read it twice, but it is not a regular file")]
    NotReadTwice,
    /// The same file is given more than once.
    #[error("it is given twice, first as `{}`", earlier.display())]
    GivenTwice {
        /// How it was given before.
        earlier: PathBuf,
    },
    /// Two inputs would be written to one file.
    #[error("its result `{}` would overwrite the result of `{}`", output.display(), other.display())]
    SameOutput {
        /// The file.
        output: PathBuf,
        /// The other input.
        other: PathBuf,
    },
    /// An input would be overwritten.
    #[error("its result would overwrite `{}`, which is an input of this run", output.display())]
    OverInput {
        /// The file.
        output: PathBuf,
    },
    /// A directory is where the output should be.
    #[error("its result cannot be written to `{}`, which is a directory", output.display())]
    OverDirectory {
        /// The directory.
        output: PathBuf,
    },
    /// No file can have the name that the output would have.
    #[error(
        "the file name of its result, `{}`, is longer than {limit} bytes",
        name
    )]
    LongName {
        /// The name.
        name: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The output directory cannot be used.
    #[error("the output directory cannot be used")]
    OutputDirectory(#[source] fs::Error),
    /// It has not the source of the package that `--shell` names.
    #[error(
        "it has no source of package `{package}` to compile (--shell){}",
        listed(sources)
    )]
    NoSource {
        /// The package.
        package: Name,
        /// The packages that it has sources of.
        sources: Vec<Name>,
    },
    /// Nothing of any input is selected.
    #[error("it has no jobs, so no package is needed (--only-needed)")]
    NothingSelected,
    /// A part of a compiled release was asked for.
    #[error("--job and --package need the source release, and this one is compiled")]
    SelectionOfCompiled,
    /// A disk has not the least that is needed.
    #[error(
        "not enough space: at least {} {purpose}, {} free",
        Bytes(*needed),
        Bytes(*free)
    )]
    NoSpace {
        /// What it is needed for.
        purpose: &'static str,
        /// Bytes that are surely needed.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
}

fn listed(sources: &[Name]) -> String {
    let sources: Vec<&str> = sources.iter().map(Name::as_str).collect();
    match sources.as_slice() {
        [] => ", and no source of another package".to_owned(),
        sources => format!("; its packages are {}", sources.join(", ")),
    }
}

/// A run of which not every release was written.
#[derive(Debug)]
pub struct Incomplete {
    /// Everything that failed, the first failure first; at least one.
    pub failures: Vec<OfflineError>,
    /// The releases whose packages have not all been compiled, in the order of the inputs.
    pub releases: Vec<UnfinishedRelease>,
}

impl std::fmt::Display for Incomplete {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.failures.as_slice() {
            [only] => write!(f, "{only}"),
            [first, others @ ..] => write!(f, "{first}, and {} more failed", others.len()),
            [] => write!(f, "not every release was written"),
        }
    }
}

impl std::error::Error for Incomplete {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.failures.first()?.source()
    }
}
