//! A package job: one package to compile, as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::release::{Name, Slug, Version};

/// The gzip levels of compiled packages.
const LEVELS: std::ops::RangeInclusive<u32> = 1..=9;

/// One package to compile: everything that determines the result.
///
/// Unknown fields are errors, because ignoring an unknown setting would change the result. Only
/// `name`, `version` and `source` are required.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageJob {
    /// The package's name.
    pub name: Name,
    /// The package's version, which the script sees as `BOSH_PACKAGE_VERSION`.
    pub version: Version,
    /// The path of the source blob. In a job file, the path is relative to the file's directory.
    pub source: PathBuf,
    /// The direct dependencies, in any order.
    #[serde(default)]
    pub dependencies: Vec<JobDependency>,
    /// The stemcell that the package is compiled for. It appears in the report, and has no other
    /// effect.
    #[serde(default)]
    pub stemcell: Option<Slug>,
    /// The user that must run the script; `None` if any user may.
    #[serde(default)]
    pub script_user: Option<ScriptUser>,
    /// The settings of the compilation.
    #[serde(default)]
    pub settings: JobSettings,
}

/// A direct dependency, which is already compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobDependency {
    /// The dependency's name.
    pub name: Name,
    /// The dependency's version.
    pub version: Version,
    /// The path of the compiled blob. In a job file, the path is relative to the file's directory.
    pub blob: PathBuf,
}

/// The settings that affect the result of a compilation. Each has a flag, with the same default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobSettings {
    /// The base directory, an absolute path.
    pub base_directory: String,
    /// The isolation tier.
    pub isolation: JobIsolation,
    /// When a script that failed under Landlock rules is run again.
    pub second_run: JobSecondRun,
    /// Whether dependencies are read-only for the script.
    pub readonly_dependencies: bool,
    /// Whether the script can write only to its own directories.
    pub protect_host: bool,
    /// The script's network.
    pub network: JobNetwork,
    /// Whether the script gets shared scratch directories with the names of its dependencies.
    pub shared_scratch: bool,
    /// Whether the script gets a make jobserver.
    pub make_jobserver: bool,
    /// Whether the source date replaces later modification times of installed files.
    pub reproducible: bool,
    /// The gzip level of the compiled package, from 1 to 9.
    pub compression_level: u32,
    /// The time limit of the script, in seconds. It is not written if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    /// How long the script may print nothing, in seconds. It is not written if there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silence_timeout_seconds: Option<u64>,
    /// Variables for the script, in addition to inherited ones.
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
            timeout_seconds: None,
            silence_timeout_seconds: None,
            variables: BTreeMap::new(),
        }
    }
}

/// An isolation tier: a value of `--isolation`.
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
    /// No isolation.
    None,
}

/// When a script runs a second time: a value of `--second-run`.
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

/// The network of a script: a value of `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobNetwork {
    /// The network of the agent.
    Host,
    /// A loopback interface only.
    None,
}

/// The user that runs a script. If the user is not root, `tar` and `install` do not set owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScriptUser {
    /// Root, including root of a user namespace.
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
    /// The base directory is not an absolute path.
    #[error("the base directory `{path}` is not an absolute path")]
    BaseDirectory {
        /// The base directory.
        path: String,
    },
    /// The gzip level does not exist.
    #[error("the compression level {level} is not from {} to {}", LEVELS.start(), LEVELS.end())]
    Level {
        /// The level.
        level: u32,
    },
    /// A variable has an invalid name or value.
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

    /// Checks what the types do not ensure. Several blobs may have the same path: packages with
    /// equal contents share one file if the files are named after their digests.
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

    /// The job as canonical JSON: equal jobs have equal bytes, regardless of the order of
    /// dependencies.
    ///
    /// # Errors
    /// If a path is not valid UTF-8.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut sorted = self.clone();
        sorted.dependencies.sort_by(|a, b| a.name.cmp(&b.name));
        let mut json = serde_json::to_vec(&sorted)?;
        json.push(b'\n');
        Ok(json)
    }

    /// The same job with relative paths joined to `directory`.
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
