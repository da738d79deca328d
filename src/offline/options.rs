//! The options of a run of `bosh-agent compile` or `compile-package`.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::selection::Selection;
use crate::cache::{Credentials, Location};
use crate::compile::{SecondRun, Shell, SourceDates};
use crate::config::{Environment, Vcap};
use crate::http::Url;
use crate::image::Unpacked;
use crate::package_job::ScriptUser;
use crate::process::{ForkServer, TimeLimits};
use crate::release::Slug;
use crate::sandbox;

/// The options of a run. By default, they name no input.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What the run does.
    pub purpose: Purpose,
    /// The tarballs.
    pub inputs: Vec<PathBuf>,
    /// Results of earlier runs, from which packages are reused.
    pub reuse: Vec<PathBuf>,
    /// Whether everything is compiled a second time, to compare the results.
    pub verify_rebuild: bool,
    /// Which jobs and packages of the inputs are compiled.
    pub selection: Selection,
    /// The directory of the results. `None` to write each result next to its input.
    pub output_directory: Option<PathBuf>,
    /// The stemcell to compile for. `None` for the stemcell of this machine.
    pub stemcell: Option<Slug>,
    /// The images in which all packages are compiled, one image after the other. Without images, scripts run in the root file system of
    /// this machine.
    pub stemcell_images: Vec<StemcellImage>,
    /// The image of this part of the run. The run sets it.
    pub stemcell_image: Option<StemcellImage>,
    /// Whether the run has several images, so that names in messages and of files need their stemcell.
    pub is_one_of_several: bool,
    /// Where temporary files go.
    pub work_directory: Option<PathBuf>,
    /// Where logs are kept.
    pub logs_directory: Option<PathBuf>,
    /// Who shares the scratch directories of packages.
    pub scratch: sandbox::Sharing,
    /// The base directory, `/var/vcap`.
    pub vcap: Vcap,
    /// Mounts over directories of packages that do not respond. The run sets it.
    pub(crate) silent: Vec<sandbox::SilentMount>,
    /// The isolation of packages from each other.
    pub isolation: sandbox::Isolation,
    /// The user namespace that this process has entered for isolation.
    pub user_namespace: sandbox::UserNamespace,
    /// How many packages are compiled concurrently, at most; `None` for the number of available CPUs, or fewer if the memory is not
    /// sufficient.
    pub jobs: Option<NonZeroUsize>,
    /// If `jobs` is `None`, the memory in bytes that a package is expected to need. Zero means that memory does not limit the number.
    pub memory_per_job: u64,
    /// Whether all scripts share one pool of GNU make jobs.
    pub make_jobserver: bool,
    /// Whether dependencies are read-only for scripts, where the tier supports it.
    pub readonly_dependencies: bool,
    /// Whether a script can write only to its own files and directories. An error in tiers without support.
    pub protect_host: bool,
    /// Whether scripts have access to the host's network.
    pub network: bool,
    /// By how much scripts' niceness is raised above the agent's, from 0 to 19.
    pub nice: i32,
    /// Whether installed packages of another agent may be removed.
    pub force: bool,
    /// The time between SIGTERM and SIGKILL when a script is stopped.
    pub grace: Duration,
    /// The time limits of a script.
    pub limits: TimeLimits,
    /// When a script that failed under Landlock is run again without restrictions.
    pub second_run: SecondRun,
    /// How many of the last lines of a failed script are reported.
    pub log_lines: usize,
    /// Where the report for other programs goes, if one is wanted.
    pub report: Option<PathBuf>,
    /// Where the page with the times of packages goes, if it is wanted.
    pub timings: Option<PathBuf>,
    /// The documents about the results.
    pub documents: DocumentOptions,
    /// Where the dependency graph of the packages goes, if it is wanted.
    pub graph: Option<PathBuf>,
    /// The cache of compiled packages, if one is used.
    pub cache: Option<CacheOptions>,
    /// The server of the Remote Execution API, if one is used.
    pub remote: Option<RemoteOptions>,
    /// The gzip level of compiled packages.
    pub compression_level: u32,
    /// The source dates of packages, which limit the times in compiled packages.
    pub source_dates: SourceDates,
    /// The variables that scripts inherit without an image, and those of the agent's own programs and requests.
    pub environment: Environment,
    /// Forks the parent process of each script.
    pub fork_server: ForkServer,
    /// Where the directories of failed packages are kept.
    pub keep_failed: Option<PathBuf>,
    /// The path of this program.
    pub program: PathBuf,
    /// Whether an interactive shell is opened, and when.
    pub shell: Option<Shell>,
    /// Whether packages that do not depend on a failed one are still compiled.
    pub keep_going: bool,
    /// The name of this process in the message of another agent that finds the directories in use.
    pub who: String,
}

/// The documents about the results of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DocumentOptions {
    /// The SBOMs.
    pub sboms: Vec<(SbomFormat, DocumentPath)>,
    /// The provenance.
    pub provenance: Option<DocumentPath>,
    /// The URI of the build platform, for provenance.
    pub builder: String,
    /// The names of the variables that the user sets for scripts, for provenance.
    pub variables: Vec<String>,
}

impl DocumentOptions {
    /// Whether the user wants any documents.
    pub(super) fn are_wanted(&self) -> bool {
        !self.sboms.is_empty() || self.provenance.is_some()
    }
}

/// The format of an SBOM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SbomFormat {
    /// CycloneDX 1.6 as JSON.
    CycloneDx,
    /// SPDX 2.3 as JSON.
    Spdx,
}

/// Where documents go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentPath {
    /// This file, if the run has one result.
    File(PathBuf),
    /// A file for each result in this directory.
    Directory(PathBuf),
}

/// A stemcell image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StemcellImage {
    /// The file or directory.
    pub path: PathBuf,
    /// The directory in which images are unpacked.
    pub directory: PathBuf,
    /// The variables that its scripts inherit.
    pub environment: Environment,
    /// The unpacked image, after the run has opened it.
    pub unpacked: Option<Unpacked>,
}

impl Options {
    /// The image in which scripts run, after the run has opened it.
    pub(super) fn image(&self) -> Option<&Unpacked> {
        self.stemcell_image.as_ref()?.unpacked.as_ref()
    }

    /// The stemcell of this part of the run, if the run has several images.
    pub(super) fn one_of_several(&self) -> Option<&Slug> {
        self.stemcell.as_ref().filter(|_| self.is_one_of_several)
    }

    /// The directory for the logs of this part of the run. `logs` is that of the whole run.
    pub(super) fn own_logs(&self, logs: PathBuf) -> PathBuf {
        match self.one_of_several() {
            Some(Slug { os, version }) => logs.join(format!("{os}-{version}")),
            None => logs,
        }
    }

    /// The variables that scripts inherit.
    pub(super) fn script_environment(&self) -> &Environment {
        let image = self.stemcell_image.as_ref();
        image.map_or(&self.environment, |it| &it.environment)
    }
}

/// The caches of compiled packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOptions {
    /// The directory of the local cache.
    pub directory: Option<PathBuf>,
    /// The maximum size of the local cache in bytes at the end of a run.
    pub max_size: Option<u64>,
    /// Whether results of unrestricted second runs are used and stored.
    pub unrestricted: bool,
    /// The caches that several machines share.
    pub shared: SharedCaches,
}

/// The caches of a run that several machines share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedCaches {
    /// The caches from which packages are taken, in this order.
    pub from: Vec<Location>,
    /// The cache in which packages are stored.
    pub to: Option<Location>,
    /// The credentials for the caches.
    pub credentials: Credentials,
}

impl SharedCaches {
    /// Whether there is a shared cache.
    #[must_use]
    pub fn is_used(&self) -> bool {
        !self.from.is_empty() || self.to.is_some()
    }
}

/// The use of a server of the Remote Execution API: its machines, or only its action cache.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Where the server is, for messages.
    pub location: Location,
    /// The server, as an HTTP URL.
    pub url: Url,
    /// The instance name of the Remote Execution API. `None` for the path of the URL.
    pub instance: Option<String>,
    /// The properties that a machine must have.
    pub platform: Vec<(String, String)>,
    /// How many packages are compiled concurrently, at most.
    pub jobs: NonZeroUsize,
    /// The time limit of the server for each package.
    pub timeout: Option<Duration>,
    /// The program for the machines; `None` for this program.
    pub agent: Option<PathBuf>,
    /// The variables of scripts, in addition to those of the machines.
    pub variables: BTreeMap<String, String>,
    /// The credentials for the server.
    pub credentials: Credentials,
    /// Whether results of unrestricted earlier runs are used.
    pub accepts_unrestricted: bool,
    /// Whether this machine compiles the packages whose results the server does not have. Then nothing is executed on other machines.
    pub cache_only: bool,
    /// Whether packages that this machine compiles are stored as results on the server.
    pub stores: bool,
    /// The user that must run scripts. `None` if any user may.
    pub script_user: Option<ScriptUser>,
    /// Whether this machine compiles the rest if the server is given up.
    pub falls_back: bool,
    /// How long all packages may wait in the server's queue before the server is given up.
    pub queue_timeout: Option<Duration>,
    /// The files with the certificate of this client and its private key, in PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    /// Compiles the releases.
    #[default]
    Compile,
    /// Checks everything that can be checked before the first script.
    Check,
    /// Makes the same checks, and prints in which order packages would be compiled and how long that would take.
    DryRun,
    /// Only says where the results of a compilation would be.
    NameResults,
}
