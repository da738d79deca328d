//! One package to compile, as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::release::{Name, Slug, Version};

/// The gzip levels of compiled packages.
const LEVELS: std::ops::RangeInclusive<u32> = 1..=9;

/// One package to compile: everything that decides what the result is.
///
/// Unknown fields are errors: a setting that this version does not know would be ignored, and the result would be another one. Only
/// `name`, `version` and `source` are required.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageJob {
    /// The package's name.
    pub name: Name,
    /// The package's version, which the script sees as `BOSH_PACKAGE_VERSION`.
    pub version: Version,
    /// The source blob. In a file, relative to the file's directory.
    pub source: PathBuf,
    /// The direct dependencies, in any order.
    #[serde(default)]
    pub dependencies: Vec<JobDependency>,
    /// The stemcell that the package is compiled for. It is only recorded.
    #[serde(default)]
    pub stemcell: Option<Slug>,
    /// The user that must run the script, if it matters.
    #[serde(default)]
    pub script_user: Option<ScriptUser>,
    /// How it is compiled.
    #[serde(default)]
    pub settings: JobSettings,
}

/// A direct dependency of a package, compiled already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobDependency {
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// Its compiled blob. In a file, relative to the file's directory.
    pub blob: PathBuf,
}

/// How a package is compiled: the flags that shape the result. The defaults are those of the flags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobSettings {
    /// The base directory, an absolute path.
    pub base_directory: String,
    /// The isolation tier.
    pub isolation: JobIsolation,
    /// When a script that failed under Landlock rules runs again.
    pub second_run: JobSecondRun,
    /// Whether dependencies are read-only for the script.
    pub readonly_dependencies: bool,
    /// Whether everything that is not the script's own is read-only for it.
    pub protect_host: bool,
    /// The script's network.
    pub network: JobNetwork,
    /// Whether the script gets shared scratch directories with the names of its dependencies.
    pub shared_scratch: bool,
    /// Whether the script gets a make jobserver.
    pub make_jobserver: bool,
    /// Whether times of installed files are limited to the source date.
    pub reproducible: bool,
    /// The gzip level of the compiled package, from 1 to 9.
    pub compression_level: u32,
    /// Variables of the script, in addition to those that it inherits.
    pub variables: BTreeMap<String, String>,
}

impl Default for JobSettings {
    fn default() -> Self {
        Self {
            base_directory: "/var/vcap".to_owned(),
            isolation: JobIsolation::Auto,
            second_run: JobSecondRun::Auto,
            readonly_dependencies: false,
            protect_host: false,
            network: JobNetwork::Host,
            shared_scratch: true,
            make_jobserver: false,
            reproducible: false,
            compression_level: 6,
            variables: BTreeMap::new(),
        }
    }
}

/// An isolation tier, as `--isolation` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobIsolation {
    /// The first tier that passes its self-test.
    Auto,
    /// Namespaces.
    Namespace,
    /// Namespaces in a user namespace.
    Userns,
    /// Landlock rules.
    Landlock,
    /// None.
    None,
}

/// When a script runs a second time, as `--second-run` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobSecondRun {
    /// After failures that Landlock rules may have caused.
    Auto,
    /// After each failure.
    Always,
    /// Never.
    Never,
}

/// The network of a script, as `--network` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobNetwork {
    /// That of the agent.
    Host,
    /// A loopback interface only.
    None,
}

/// The user that runs a script. For others than root, `tar` and `install` ignore owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScriptUser {
    /// Root, also that of a user namespace.
    Root,
    /// Another user.
    Ordinary,
}

/// Why a job is not valid.
#[derive(Debug, thiserror::Error)]
pub enum JobProblem {
    /// The text is not the JSON of a job.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Two dependencies have the same name.
    #[error("dependency {name} is given twice")]
    Twice {
        /// The name.
        name: Name,
    },
    /// The package is its own dependency.
    #[error("package {name} cannot depend on itself")]
    Itself {
        /// The name.
        name: Name,
    },
    /// The base directory is relative.
    #[error("the base directory `{path}` is not an absolute path")]
    BaseDirectory {
        /// The base directory.
        path: String,
    },
    /// There is no such gzip level.
    #[error("the compression level {level} is not from {} to {}", LEVELS.start(), LEVELS.end())]
    Level {
        /// The level.
        level: u32,
    },
    /// No variable can have this name or value.
    #[error("the variable `{}` cannot be set", name.escape_debug())]
    Variable {
        /// The name.
        name: String,
    },
}

impl PackageJob {
    /// Parses and checks a job.
    ///
    /// # Errors
    /// See [`JobProblem`].
    pub fn parse(json: &[u8]) -> Result<Self, JobProblem> {
        let job: Self = serde_json::from_slice(json)?;
        job.check()?;
        Ok(job)
    }

    /// Checks what the types do not. Several blobs may have the same path: packages with equal contents do in a store of blobs by
    /// digest.
    ///
    /// # Errors
    /// See [`JobProblem`].
    pub fn check(&self) -> Result<(), JobProblem> {
        let mut names = BTreeSet::new();
        for dependency in &self.dependencies {
            let name = dependency.name.clone();
            if name == self.name {
                return Err(JobProblem::Itself { name });
            }
            if !names.insert(&dependency.name) {
                return Err(JobProblem::Twice { name });
            }
        }
        self.settings.check()
    }

    /// The canonical JSON: equal jobs have equal bytes, and the order of dependencies does not matter.
    ///
    /// # Errors
    /// A path is not valid UTF-8.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut sorted = self.clone();
        sorted.dependencies.sort_by(|a, b| a.name.cmp(&b.name));
        let mut json = serde_json::to_vec(&sorted)?;
        json.push(b'\n');
        Ok(json)
    }

    /// The same job with all paths below `directory`, except absolute ones.
    #[must_use]
    pub fn below(mut self, directory: &Path) -> Self {
        self.source = directory.join(&self.source);
        for dependency in &mut self.dependencies {
            dependency.blob = directory.join(&dependency.blob);
        }
        self
    }
}

impl JobSettings {
    fn check(&self) -> Result<(), JobProblem> {
        if !self.base_directory.starts_with('/') || self.base_directory.contains('\0') {
            let path = self.base_directory.clone();
            return Err(JobProblem::BaseDirectory { path });
        }
        if !LEVELS.contains(&self.compression_level) {
            let level = self.compression_level;
            return Err(JobProblem::Level { level });
        }
        let is_wrong = |(name, value): &(&String, &String)| {
            name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
        };
        match self.variables.iter().find(is_wrong) {
            Some((name, _)) => Err(JobProblem::Variable { name: name.clone() }),
            None => Ok(()),
        }
    }
}
