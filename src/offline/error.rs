//! The reasons why a run of `bosh-agent compile` or `compile-package` failed.

use std::path::PathBuf;

use super::assemble::AssembleError;
use super::failure::{FailureCause, PackageFailure, UnfinishedRelease};
use super::open_error::OpenError;
use super::problem::Problem;
use super::rebuild_differences::RebuildDifferences;
use super::selection::UnknownName;
use super::stemcell::UnknownStemcell;
use super::store_check::StoreRefusal;
use crate::cluster::RemoteFailure;
use crate::compile::CompileError;
use crate::diag::Bytes;
use crate::image::ImageError;
use crate::package_job::ScriptUser;
use crate::release::{ManifestProblem, Name, Slug};
use crate::sandbox::SandboxError;
use crate::{fs, runtime};

/// The reason why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The stemcell to compile for is unknown.
    #[error(transparent)]
    Stemcell(#[from] UnknownStemcell),
    /// The stemcell image cannot be used.
    #[error(transparent)]
    Image(Box<ImageError>),
    /// Two images of a run have the same stemcell, so their results would have the same names.
    #[error("the images `{}` and `{}` are both of stemcell {stemcell}", images[0].display(), images[1].display())]
    SameStemcell {
        /// The stemcell.
        stemcell: Slug,
        /// The images.
        images: [PathBuf; 2],
    },
    /// The run failed with some of its stemcell images.
    #[error("failed with {} of {} stemcells", .0.failed.len(), .0.total)]
    Stemcells(Box<StemcellFailures>),
    /// The input releases have problems. Nothing has been compiled.
    #[error("nothing was compiled: {} found", count(.0.len()))]
    Input(Vec<InputProblem>),
    /// The user selected jobs or packages that no release of the run has. Nothing has been compiled.
    #[error("nothing was compiled: no release of this run has {}", unknown(.0))]
    Unknown(Vec<UnknownName>),
    /// The contents of a tarball cannot be written to the work directory.
    #[error("failed to extract `{}`", tarball.display())]
    Spool {
        /// The tarball.
        tarball: PathBuf,
        /// The cause.
        source: fs::Error,
    },
    /// A file operation failed.
    #[error(transparent)]
    Files(#[from] fs::Error),
    /// The directories in which packages are compiled are not available.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Not every release was written.
    #[error(transparent)]
    Incomplete(Box<Incomplete>),
    /// A package failed.
    #[error(transparent)]
    Package(Box<PackageFailure>),
    /// A compiled release has not been written.
    #[error("failed to write the compiled release `{}`", output.display())]
    Assemble {
        /// The path of the result.
        output: PathBuf,
        /// The cause.
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
    /// Two files of the run have the same path, or one is in the other.
    #[error("cannot write both `{}` and `{}`: both lead to the same file, or one would be a directory that contains the other", path.display(), other.display())]
    SamePlace {
        /// One file.
        path: PathBuf,
        /// The other file.
        other: PathBuf,
    },
    /// The documents of several results cannot be one file.
    #[error("cannot write {results} documents to the one file `{}`: this run has {results} results", path.display())]
    OneDocument {
        /// The file.
        path: PathBuf,
        /// How many results the run has.
        results: usize,
    },
    /// Two results have the same file name, so their documents would be one file.
    #[error("the results `{}` and `{}` would both write their document to `{}`", results[0].display(), results[1].display(), path.display())]
    SameDocument {
        /// The path of the document.
        path: PathBuf,
        /// The results.
        results: [PathBuf; 2],
    },
    /// A file of a run of a single package is in a directory that the run empties.
    #[error("`{}` is in `{}`, which --force empties", path.display(), directory.display())]
    InEmptied {
        /// The file.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
    },
    /// This process cannot run the script of a single package as the user that the job names.
    #[error(
        "the job file requires that the script runs as {} (`script_user`), but this process runs scripts as {}",
        script_user(*wanted),
        other_user(*wanted)
    )]
    ScriptUser {
        /// The user.
        wanted: ScriptUser,
    },
    /// A single compiled package has not been written.
    #[error("failed to write the compiled package `{}`", output.display())]
    Place {
        /// The path of the result.
        output: PathBuf,
        /// The cause.
        source: AssembleError,
    },
    /// A package was compiled without the digests that its release needs. This is a bug.
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
    /// A result of one of the two compilations of `--verify-rebuild` could not be read for the comparison.
    #[error("failed to compare the results of both compilations: cannot read `{}`", file.display())]
    Compare {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: Box<OpenError>,
    },
    /// A second compilation gave different packages (`--verify-rebuild`).
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
    /// This machine may not store its packages as results of actions.
    #[error("packages of this machine cannot be stored on `{server}`")]
    StoreRefused {
        /// The server.
        server: String,
        /// Why.
        source: StoreRefusal,
    },
    /// A task of this program panicked.
    #[error(transparent)]
    Task(#[from] runtime::TaskFailed),
    /// The user stopped the run.
    #[error("stopped")]
    Stopped,
}

impl OfflineError {
    /// The failures of the run, in the order in which they occurred. A run with several stemcells counts as one failure.
    pub(super) fn failures(&self) -> &[Self] {
        match self {
            Self::Incomplete(incomplete) => &incomplete.failures,
            only => std::slice::from_ref(only),
        }
    }

    /// Whether the user stopped the run.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        match self {
            Self::Stopped => true,
            Self::Stemcells(stemcells) => stemcells.is_stopped(),
            _ => false,
        }
    }

    /// Whether a disk (or a quota) is full.
    pub(super) fn is_no_space(&self) -> bool {
        match self {
            Self::Incomplete(incomplete) => incomplete.failures.iter().any(Self::is_no_space),
            Self::Stemcells(stemcells) => stemcells.failed.iter().any(|(_, it)| it.is_no_space()),
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

/// The kind of user that is not `wanted`.
fn other_user(wanted: ScriptUser) -> &'static str {
    match wanted {
        ScriptUser::Root => script_user(ScriptUser::Ordinary),
        ScriptUser::Ordinary => script_user(ScriptUser::Root),
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

/// A problem with an input tarball, or with the place of its result.
#[derive(Debug)]
pub struct InputProblem {
    /// The tarball or directory.
    pub path: PathBuf,
    /// The problem.
    pub kind: InputProblemKind,
}

/// What is wrong with an input.
#[derive(Debug, thiserror::Error)]
pub enum InputProblemKind {
    /// The input is not a release.
    #[error(transparent)]
    Open(OpenError),
    /// The manifest has a problem.
    #[error("release.MF: {0}")]
    Manifest(ManifestProblem),
    /// The contents of the release do not match its manifest.
    #[error(transparent)]
    Release(Problem),
    /// The input is a compiled release that can be read only once, such as a pipe. Compiled releases are read twice.
    #[error(
        "it is not a regular file: a release that is already compiled can only be copied from a regular file"
    )]
    NotAFile,
    /// A tarball that is given with `--reuse` has no compiled packages.
    #[error("it has no compiled packages to reuse (--reuse)")]
    NothingToReuse,
    /// The input can be read only once, but `--verify-rebuild` needs it for a second compilation.
    #[error("--verify-rebuild would read it twice, but it is not a regular file")]
    NotReadTwice,
    /// The input can be read only once, but each stemcell image needs it.
    #[error("it is read once for each --stemcell-image, but it is not a regular file")]
    NotReadAgain,
    /// The same file is given more than once.
    #[error("it is given twice, first as `{}`", earlier.display())]
    GivenTwice {
        /// The path by which it was given before.
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
    /// The result would overwrite an input.
    #[error("its result would overwrite `{}`, which is an input of this run", output.display())]
    OverInput {
        /// The file.
        output: PathBuf,
    },
    /// A directory has the path of the output.
    #[error("its result cannot be written to `{}`, which is a directory", output.display())]
    OverDirectory {
        /// The directory.
        output: PathBuf,
    },
    /// The name of the result is too long for a file.
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
    /// The release has no source of the package that `--shell` names.
    #[error(
        "it has no source of package `{package}` to compile (--shell){}",
        listed(sources)
    )]
    NoSource {
        /// The package.
        package: Name,
        /// The packages of which the release has sources.
        sources: Vec<Name>,
    },
    /// `--only-needed` selects nothing, because no job needs a package.
    #[error("it has no jobs, so no package is needed (--only-needed)")]
    NothingSelected,
    /// The user selected a part of a compiled release.
    #[error("--job and --package need the source release, and this one is compiled")]
    SelectionOfCompiled,
    /// A disk has less free space than the run certainly needs.
    #[error(
        "not enough space: at least {} is needed {purpose}, and {} is free",
        Bytes(*needed),
        Bytes(*free)
    )]
    NoSpace {
        /// The purpose of the space.
        purpose: &'static str,
        /// The bytes that are certainly needed.
        needed: u64,
        /// The bytes that are free.
        free: u64,
    },
}

fn listed(sources: &[Name]) -> String {
    let sources: Vec<&str> = sources.iter().map(Name::as_str).collect();
    match sources.as_slice() {
        [] => ": it contains no sources of packages".to_owned(),
        sources => format!("; its packages are {}", sources.join(", ")),
    }
}

/// The failures of a run with several stemcell images.
#[derive(Debug)]
pub struct StemcellFailures {
    /// The stemcells for which the run failed, each with the failure. If the user stopped the run after a failure, the last one is
    /// [`OfflineError::Stopped`].
    pub failed: Vec<(Slug, OfflineError)>,
    /// The stemcells for which nothing was started, because of an earlier failure.
    pub not_started: Vec<Slug>,
    /// The number of images.
    pub total: usize,
}

impl StemcellFailures {
    /// Whether the user stopped the run after a failure.
    pub(super) fn is_stopped(&self) -> bool {
        matches!(self.failed.last(), Some((_, OfflineError::Stopped)))
    }

    /// The failure for a stemcell.
    pub(super) fn of(&self, stemcell: &Slug) -> Option<&OfflineError> {
        let mut failed = self.failed.iter();
        failed
            .find(|(it, _)| it == stemcell)
            .map(|(_, error)| error)
    }
}

/// A run in which not every release was written.
#[derive(Debug)]
pub struct Incomplete {
    /// All failures, at least one, in the order in which they occurred.
    pub failures: Vec<OfflineError>,
    /// The releases whose packages have not all been compiled, in the order of the inputs.
    pub releases: Vec<UnfinishedRelease>,
}

impl std::fmt::Display for Incomplete {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.failures.as_slice() {
            [only] => write!(f, "{only}"),
            [first, others @ ..] => write!(f, "{first} (and {} other failures)", others.len()),
            [] => write!(f, "not every release was written"),
        }
    }
}

impl std::error::Error for Incomplete {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.failures.first()?.source()
    }
}
