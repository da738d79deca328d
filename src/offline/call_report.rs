//! The report of a run for other programs, as JSON. `docs/report.schema.json` describes it.

use serde::Serialize;

use crate::compile::PrintedLine;
pub(super) use crate::package_job::{
    Agent, Blame, Blob, Phase, PhaseName, Script, SecondRun, SecondRunWith, Seconds,
};

/// The version of the format. A release that removes or changes a field increases it; new fields do not.
pub(super) const FORMAT_VERSION: u32 = 1;

/// The whole document.
#[derive(Debug, Serialize)]
pub(super) struct CallReport {
    pub format_version: u32,
    pub agent: Agent,
    /// `None` if it is unknown, or if the run has several.
    pub stemcell: Option<String>,
    pub isolation: Option<&'static str>,
    pub jobs: Option<usize>,
    /// Why the server of `--remote` was given up, if this machine compiled the rest.
    pub fallback: Option<String>,
    /// RFC 3339, in UTC.
    pub started: String,
    pub seconds: f64,
    pub result: CallResult,
    pub exit_code: u8,
    pub failure_kind: Option<Blame>,
    pub errors: Vec<String>,
    pub inputs: Vec<File>,
    pub outputs: Vec<Output>,
    pub releases: Vec<Release>,
    pub packages: Vec<Package>,
    /// The ids of the packages on the critical path, in the order of their dependencies.
    pub critical_path: Vec<usize>,
    /// `None` if no package was started.
    pub summary: Option<Summary>,
}

/// The sums over all packages of the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Summary {
    /// How many packages were compiled.
    pub compiled: usize,
    /// How many packages were to be compiled.
    pub to_compile: usize,
    /// The sums of the packages' times.
    pub seconds: Seconds,
    /// From the start of the first package to the end of the last one.
    pub elapsed: f64,
    /// The times of the packages without waiting, divided by `elapsed`.
    pub gain: Option<f64>,
    pub critical_path_seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CallResult {
    Written,
    Failed,
    Stopped,
}

/// A file of the run.
#[derive(Debug, Default, Serialize)]
pub(super) struct File {
    pub path: String,
    pub size: Option<u64>,
    pub sha1: Option<String>,
    pub sha256: Option<String>,
}

/// A compiled release that was written.
#[derive(Debug, Serialize)]
pub(super) struct Output {
    pub name: String,
    pub version: String,
    pub stemcell: Option<String>,
    #[serde(flatten)]
    pub file: File,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Release {
    pub name: String,
    pub version: String,
    pub stemcell: Option<String>,
    pub input: String,
    pub output: String,
    pub status: ReleaseStatus,
    pub packages: Vec<ReleasePackage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ReleaseStatus {
    /// The release was compiled and written.
    Written,
    /// The release was compiled before, and was copied.
    Copied,
    /// The release was compiled before, and already has the path of its result.
    Unchanged,
    /// The result was not written.
    Unfinished,
}

/// A package that a release lists.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ReleasePackage {
    pub name: String,
    pub version: String,
    /// Whether the package was compiled before the run.
    pub precompiled: bool,
    /// The earlier result from which the package was taken.
    pub reused_from: Option<String>,
}

/// A package of the run. A package that several releases share is listed once for each stemcell.
#[derive(Debug, Serialize)]
pub(super) struct Package {
    pub id: usize,
    pub name: String,
    pub version: String,
    pub stemcell: Option<String>,
    /// `NAME/VERSION` of each release that has it.
    pub releases: Vec<String>,
    pub status: PackageStatus,
    pub precompiled: bool,
    /// Whether the package was found in a cache, so that it was not compiled in this run.
    pub cached: bool,
    /// The cache in which the package was found.
    pub cached_from: Option<String>,
    /// The machine of a server that compiled the package.
    pub machine: Option<Machine>,
    /// Why the package was not in the cache, if a cache is used.
    pub cache_miss: Option<String>,
    /// The ids of the direct dependencies.
    pub dependencies: Vec<usize>,
    pub source: Blob,
    pub compiled: Option<Blob>,
    /// The package's start, in seconds after the start of the run.
    pub started: Option<f64>,
    pub seconds: Option<Seconds>,
    pub phases: Vec<Phase>,
    pub script: Option<Script>,
    pub second_run: Option<SecondRun>,
    pub log: Option<String>,
    pub first_log: Option<String>,
    /// The last lines that the script printed, if the package was compiled. A failed package has them in its failure.
    pub last_lines: Vec<String>,
    pub failure: Option<Failure>,
}

/// The machine of a server that compiled a package, as the server reports it. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Machine {
    /// The name of the machine.
    pub name: Option<String>,
    /// Whether it compiled the package in an earlier run.
    pub cached: bool,
    pub queued: Option<f64>,
    pub fetching: Option<f64>,
    pub executing: Option<f64>,
    pub storing: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PackageStatus {
    Compiled,
    /// The package was compiled before, and was installed for its dependents.
    Installed,
    Failed,
    /// A dependency of the package failed.
    Skipped,
    Stopped,
    NotStarted,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Failure {
    pub kind: Blame,
    pub message: String,
    pub exit_code: Option<i32>,
    pub signal: Option<String>,
    pub error_line: Option<PrintedLine>,
    pub last_lines: Vec<String>,
    /// The log, or its copy in the output directory.
    pub log: Option<String>,
}

/// Reports for tests.
#[cfg(test)]
pub(super) mod fixtures {
    use super::*;
    use crate::offline::package_events::rounded;

    /// A compiled package `p0`, `p1` and so on. `phases` are the seconds of wait, unpack, script and pack.
    pub(in crate::offline) fn package(
        id: usize,
        started: f64,
        phases: [f64; 4],
        dependencies: &[usize],
    ) -> Package {
        use PhaseName::{Pack, Script, Unpack, Wait};
        let mut start = started;
        let timed = [Wait, Unpack, Script, Pack].into_iter().zip(phases);
        let timed = timed.map(|(name, seconds)| {
            start += seconds;
            Phase {
                name,
                start: rounded(start - seconds),
                seconds,
            }
        });
        let timed = timed.collect();
        let [wait, unpack, script, pack] = phases;
        Package {
            id,
            name: format!("p{id}"),
            version: format!("v{id}"),
            stemcell: None,
            releases: vec!["demo/1".to_owned()],
            status: PackageStatus::Compiled,
            precompiled: false,
            cached: false,
            cached_from: None,
            machine: None,
            cache_miss: None,
            dependencies: dependencies.to_vec(),
            source: Blob {
                size: 1,
                sha1: None,
                sha256: None,
            },
            compiled: None,
            started: Some(started),
            seconds: Some(Seconds {
                total: wait + unpack + script + pack,
                wait,
                unpack,
                script,
                pack,
            }),
            phases: timed,
            script: None,
            second_run: None,
            log: None,
            first_log: None,
            last_lines: Vec::new(),
            failure: None,
        }
    }

    /// The report of a run that succeeded after 100 seconds.
    pub(in crate::offline) fn report(packages: Vec<Package>) -> CallReport {
        CallReport {
            format_version: FORMAT_VERSION,
            agent: Agent {
                version: "1".to_owned(),
                commit: "abc".to_owned(),
                target: "x86_64".to_owned(),
            },
            stemcell: None,
            isolation: None,
            jobs: Some(2),
            fallback: None,
            started: "2026-01-01T00:00:00Z".to_owned(),
            seconds: 100.0,
            result: CallResult::Written,
            exit_code: 0,
            failure_kind: None,
            errors: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            releases: Vec::new(),
            packages,
            critical_path: Vec::new(),
            summary: None,
        }
    }
}
