//! The report of a compiled package, as JSON. `docs/package-report.schema.json` describes it.
//!
//! The reports of `bosh-agent compile` share some of these types.

use serde::{Deserialize, Serialize};

/// The version of the format. A release that removes or changes a field increases it; new fields do not.
pub const REPORT_VERSION: u32 = 1;

/// The report of the compilation of one package. A reader ignores fields that it does not know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PackageReport {
    /// The [`REPORT_VERSION`] of the program that wrote the report.
    pub format_version: u32,
    /// The program that wrote the report.
    pub agent: Agent,
    /// The package's name.
    pub name: String,
    /// The package's version.
    pub version: String,
    /// The stemcell that the caller specified.
    pub stemcell: Option<String>,
    /// The stemcell of the machine; `None` if the machine is not a stemcell.
    pub machine_stemcell: Option<String>,
    /// The machine's architecture, such as `x86_64`.
    pub architecture: String,
    /// The isolation tier; `None` if the compilation failed before a tier was chosen.
    pub isolation: Option<String>,
    /// The time of the start, in RFC 3339 and UTC.
    pub started: String,
    /// How long the run took.
    pub seconds: f64,
    /// How the compilation ended.
    pub result: PackageResult,
    /// The exit code.
    pub exit_code: u8,
    /// What is to blame for a failure.
    pub failure_kind: Option<Blame>,
    /// One line for each error.
    pub errors: Vec<String>,
    /// The warnings about the package and its machine.
    pub warnings: Vec<String>,
    /// The source blob; `None` if it was not read completely.
    pub source: Option<Blob>,
    /// The direct dependencies.
    pub dependencies: Vec<ReportedDependency>,
    /// The compiled blob, if it was written.
    pub compiled: Option<CompiledBlob>,
    /// Whether the package was compiled without restrictions, or although an access was denied. In
    /// both cases, another run may give another result.
    pub unrestricted: bool,
    /// The phases of the compilation, in order.
    pub phases: Vec<Phase>,
    /// The total times of the phases; `None` if the package was not started.
    pub times: Option<Seconds>,
    /// The last run of the script.
    pub script: Option<Script>,
    /// The second run of the script.
    pub second_run: Option<SecondRun>,
    /// Whether this run wrote the log of the script.
    pub has_log: bool,
    /// The last lines that the script printed, if the package was compiled. The lines of a failed
    /// script are in [`failure`](Self::failure).
    pub last_lines: Vec<String>,
    /// Why the package was not compiled.
    pub failure: Option<PackageFailureReport>,
}

/// A program that writes reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// The program's version.
    pub version: String,
    /// The commit from which the program was built, with the commit's date.
    pub commit: String,
    /// The target triple for which the program was built.
    pub target: String,
}

impl Agent {
    /// This program.
    #[must_use]
    pub fn this() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: env!("BOSH_AGENT_COMMIT").to_owned(),
            target: env!("BOSH_AGENT_TARGET").to_owned(),
        }
    }
}

/// How the compilation of a package ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackageResult {
    /// The compiled package was written.
    Compiled,
    /// The compiled package was not written.
    Failed,
    /// The user canceled the compilation.
    Stopped,
}

/// The cause of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// A packaging script, or what it installed.
    Script,
    /// A release, a source or a dependency.
    Input,
    /// The machine.
    Machine,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-1, as 40 hex digits, if it is known.
    pub sha1: Option<String>,
    /// Its SHA-256, as 64 hex digits, if it is known.
    pub sha256: Option<String>,
}

/// A dependency of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedDependency {
    /// The dependency's name.
    pub name: String,
    /// The dependency's version.
    pub version: String,
    /// The compiled blob; `None` if it was not read completely.
    pub blob: Option<Blob>,
}

/// A compiled package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompiledBlob {
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-1, as 40 hex digits.
    pub sha1: String,
    /// Its SHA-256, as 64 hex digits.
    pub sha256: String,
    /// `gzip`, or `none` if the source was not compressed.
    pub compression: String,
}

/// Seconds by phase.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// All phases.
    pub total: f64,
    /// Waiting.
    pub wait: f64,
    /// Unpacking the source and installing dependencies.
    pub unpack: f64,
    /// The packaging script.
    pub script: f64,
    /// Packing the result.
    pub pack: f64,
}

impl Seconds {
    /// Everything except waiting.
    #[must_use]
    pub fn work(&self) -> f64 {
        (self.total - self.wait).max(0.0)
    }
}

/// A phase of a package.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// The kind of the phase.
    pub name: PhaseName,
    /// When it started, in seconds after the start of the run.
    pub start: f64,
    /// How long it took.
    pub seconds: f64,
}

/// The kind of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseName {
    /// Waiting.
    Wait,
    /// Unpacking the source and installing dependencies.
    Unpack,
    /// The packaging script.
    Script,
    /// Packing the result.
    Pack,
}

/// A run of a packaging script.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Script {
    /// How long the script ran.
    pub seconds: f64,
    /// The CPU time of its processes in user mode.
    pub user_seconds: f64,
    /// The CPU time of its processes in the kernel.
    pub system_seconds: f64,
    /// The largest resident memory of one of its processes, in bytes.
    pub max_memory: u64,
}

/// The second run of a packaging script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondRun {
    /// How it differs from the first run.
    pub with: SecondRunWith,
    /// Why the result of the first run was not used.
    pub reason: String,
}

/// How a second run differs from the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecondRunWith {
    /// Without Landlock rules.
    NoRestrictions,
    /// With copies of dependencies instead of mounts.
    CopiedDependencies,
}

/// Why a package was not compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageFailureReport {
    /// What is to blame.
    pub kind: Blame,
    /// The error, on one line.
    pub message: String,
    /// The exit code of the script.
    pub exit_code: Option<i32>,
    /// The signal that ended the script.
    pub signal: Option<String>,
    /// The line of the script's log that most likely says why it failed.
    pub error_line: Option<LogLine>,
    /// The last lines that the script printed.
    pub last_lines: Vec<String>,
    /// Suggestions for solving the problem, as complete texts.
    pub hints: Vec<String>,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The line's number, from 1.
    pub number: usize,
    /// The line, shortened if it is long.
    pub text: String,
}
