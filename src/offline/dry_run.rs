//! `--dry-run` and `--graph`: the packages of a run with their expected times, without compiling them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::cache_forecast::{self, Expectation};
use super::cached_packages::count_line;
use super::checked::CheckedRelease;
use super::critical_path::{self, CriticalPath, Timed};
use super::dot::{self, DotNode};
use super::durations::{Durations, Expected};
use super::error::OfflineError;
use super::graph::{self, Include, PackageNode};
use super::identity;
use super::ids::ReleaseId;
use super::options::Options;
use super::progress::Progress;
use super::scheduling::{Planned, expected, schedule};
use super::select::Task;
use super::server_forecast;
use crate::compile::{ForecastStep, Origin, Source, SourceDates};
use crate::diag::{Chain, Elapsed};
use crate::fs;
use crate::release::Slug;
use crate::runtime;

/// The packages of a run and how long they are expected to take.
#[derive(Debug)]
pub(super) struct PlannedPackages {
    nodes: Vec<PackageNode>,
    expected: Vec<Expected>,
    releases: BTreeMap<ReleaseId, Arc<CheckedRelease>>,
    /// What a compilation would do with each package.
    expectations: Vec<Expectation>,
}

/// How packages would be compiled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compilation {
    pub jobs: NonZeroUsize,
    /// The flag that sets `jobs`.
    pub flag: &'static str,
    /// Whether all packages use the same directories, so that some cannot be compiled concurrently.
    pub is_shared: bool,
}

impl PlannedPackages {
    /// The packages of `tasks`. `logs` is the directory with the durations of earlier runs.
    pub(super) async fn of(
        tasks: &[Task],
        (include, dates): (Include, SourceDates),
        logs: &Path,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Self, OfflineError> {
        let releases: BTreeMap<ReleaseId, Arc<CheckedRelease>> = tasks
            .iter()
            .filter_map(|task| match task {
                Task::Compile { id, release, .. } => Some((*id, Arc::clone(release))),
                Task::PassOn { id, release, .. } | Task::InPlace { id, release } => {
                    (include == Include::All).then(|| (*id, Arc::clone(release)))
                }
                Task::Replaced { .. } | Task::Unselected { .. } => None,
            })
            .collect();
        let shared = Arc::new(releases);
        let (compared, token) = (Arc::clone(&shared), cancel.clone());
        let comparing = runtime::spawn_blocking("compare sources", move || {
            identity::compare(&compared, dates, &token)
        });
        let (identities, _) = comparing.await?;
        if cancel.is_cancelled() {
            return Err(OfflineError::Stopped);
        }
        let nodes = graph::merge(&shared, &identities, include);
        let durations = Durations::read(logs).unwrap_or_else(|error| {
            progress.warn(&format!(
                "Warning: could not read how long packages took in the previous run: {}",
                Chain(&error)
            ));
            Durations::default()
        });
        let to_compile = nodes.iter().map(|node| match node.package().is_source() {
            true => Expectation::Compile(None),
            false => Expectation::Nothing,
        });
        Ok(Self {
            expected: expected(nodes.iter(), &durations),
            expectations: to_compile.collect(),
            nodes,
            releases: Arc::unwrap_or_clone(shared),
        })
    }

    /// Predicts for each package whether it is in the run's caches or on its server, if it has any.
    pub(super) async fn look_into_cache(
        &mut self,
        options: &Options,
        stemcell: Option<&Slug>,
        cancel: &CancellationToken,
    ) -> Result<(), OfflineError> {
        self.expectations = match options.remote.as_ref().zip(stemcell) {
            Some((server, stemcell)) => {
                let with = (options, server);
                server_forecast::expectations(&self.nodes, with, stemcell, cancel).await?
            }
            None => cache_forecast::expectations(&self.nodes, options, stemcell, cancel).await?,
        };
        Ok(())
    }

    fn is_compiled(&self, index: usize) -> bool {
        matches!(self.expectations[index], Expectation::Compile(_))
    }

    /// The expected times of all packages. Packages that are not compiled count as zero, because installing them takes almost no time.
    fn times(&self) -> Vec<Duration> {
        let expected = self.expected.iter().enumerate();
        expected
            .map(|(index, expected)| match self.is_compiled(index) {
                true => expected.time,
                false => Duration::ZERO,
            })
            .collect()
    }

    fn critical_path(&self) -> CriticalPath {
        let nodes = self.nodes.iter().zip(self.times());
        let timed = nodes.map(|(node, time)| Timed {
            dependencies: node.dependencies.iter().map(|it| it.index()).collect(),
            until_installed: time,
            total: time,
        });
        critical_path::of(&timed.collect::<Vec<_>>())
    }

    /// The start and end of each package in a compilation.
    fn forecast(&self, compilation: Compilation) -> Vec<ForecastStep> {
        let expected = self.expected.iter().zip(&self.expectations);
        let packages = self.nodes.iter().zip(expected);
        let packages = packages.map(|(node, (expected, expectation))| {
            let blob = &node.package().blob;
            let (file, digests) = (blob.file.clone(), blob.digests.all().clone());
            let origin = match expectation {
                Expectation::Compile(_) => Origin::Source(Source {
                    source: file,
                    digests,
                    log: PathBuf::new(),
                    blob: PathBuf::new(),
                }),
                Expectation::Cached | Expectation::Shared(_) | Expectation::Nothing => {
                    Origin::Compiled {
                        blob: file,
                        digests,
                    }
                }
            };
            Planned {
                node,
                origin,
                expected: *expected,
                is_cached: expectation.is_cached(),
            }
        });
        let Compilation {
            jobs, is_shared, ..
        } = compilation;
        schedule(packages, is_shared, jobs).forecast(jobs, &self.times())
    }

    /// The lines that describe how the packages would be compiled. `logs` is the directory with the durations of earlier runs.
    pub(super) fn describe(&self, compilation: Compilation, logs: &Path) -> String {
        let all = 0..self.nodes.len();
        let total = all.filter(|&index| self.is_compiled(index)).count();
        let cached = self.describe_cache();
        if total == 0 {
            return format!("No package would be compiled{cached}");
        }
        let steps = self.forecast(compilation);
        let end = steps.iter().map(|step| step.end).max();
        let end = end.unwrap_or_default();
        let mut text = format!(
            "Expected order with {} {}:\n     start      time  package\n",
            compilation.flag, compilation.jobs,
        );
        let mut measured = 0;
        for step in steps {
            let index = step.id.index();
            let expected = self.expected[index];
            if !self.is_compiled(index) {
                continue;
            }
            measured += usize::from(expected.is_measured);
            let _ = writeln!(
                text,
                "{:>10}{:>10}  {}",
                Elapsed(step.start).to_string(),
                shown(expected),
                self.title(&self.nodes[index])
            );
        }
        let _ = writeln!(
            text,
            "Expected time: {}, {}",
            Elapsed(end),
            basis(measured, total, logs)
        );
        let path = self.critical_path();
        let compiled = path.packages.iter().filter(|&&it| self.is_compiled(it));
        let names = compiled.map(|&index| self.nodes[index].package().name().as_str());
        let names: Vec<&str> = names.collect();
        let _ = write!(
            text,
            "Critical path, {}: {}{cached}",
            Elapsed(path.time),
            names.join(" -> ")
        );
        text
    }

    /// The lines about the cache, each after a line break: how many packages it has, and why it does not have the others.
    fn describe_cache(&self) -> String {
        let hits = self.expectations.iter().filter(|it| it.is_cached());
        let hits = hits.count();
        let mut text = String::new();
        if hits > 0 {
            let sources = self.nodes.iter().filter(|it| it.package().is_source());
            let _ = write!(text, "\n{}", count_line(hits, sources.count()));
        }
        for (node, expectation) in self.nodes.iter().zip(&self.expectations) {
            if let Expectation::Shared(cache) = expectation {
                let _ = write!(text, "\n{} would be fetched from {cache}", self.title(node));
            }
        }
        for (node, expectation) in self.nodes.iter().zip(&self.expectations) {
            if let Expectation::Compile(Some(reason)) = expectation {
                let _ = write!(text, "\n{} is not in the cache: {reason}", self.title(node));
            }
        }
        text
    }

    /// The title of a package. In a run with several releases, it includes the releases that have the package.
    fn title(&self, node: &PackageNode) -> String {
        let package = node.package();
        let name = format!("{}/{}", package.name(), package.version());
        match self.releases.len() {
            1 => name,
            _ => format!("{name} of {}", self.labels(node).join(", ")),
        }
    }

    fn labels(&self, node: &PackageNode) -> Vec<String> {
        node.uses()
            .map(|place| self.releases[&place.release].label())
            .collect()
    }

    /// The graph as DOT text, and the number of packages in it.
    fn dot(&self) -> (String, usize) {
        let critical = self.critical_path().packages;
        // Packages that are compiled already take no time, so they are not marked as part of the critical path.
        let is_source = |index: usize| self.nodes[index].package().is_source();
        let before = |index| {
            let mut pairs = critical.windows(2);
            pairs.find(|pair| pair[1] == index && is_source(pair[0]))
        };
        let nodes = self.nodes.iter().zip(&self.expected).enumerate();
        let nodes = nodes.map(|(index, (node, expected))| {
            let package = node.package();
            DotNode {
                name: package.name().to_string(),
                version: package.version().to_string(),
                releases: self.labels(node),
                time: package.is_source().then(|| shown(*expected)),
                is_compiled: !package.is_source(),
                is_critical: package.is_source() && critical.contains(&index),
                critical_dependency: before(index).map(|pair| pair[0]),
                dependencies: node.dependencies.iter().map(|it| it.index()).collect(),
            }
        });
        let nodes: Vec<DotNode> = nodes.collect();
        (dot::text(&nodes), nodes.len())
    }
}

/// Writes the graph of all packages of a run to a file. An existing file stays unchanged until the new one is complete.
pub(super) async fn write_graph(
    path: &Path,
    (tasks, dates): (&[Task], SourceDates),
    logs: &Path,
    (progress, cancel): (&Progress, &CancellationToken),
) -> Result<(), OfflineError> {
    let with = (Include::All, dates);
    let packages = PlannedPackages::of(tasks, with, logs, progress, cancel).await?;
    let (text, count) = packages.dot();
    let file = path.to_owned();
    let writing = runtime::spawn_blocking("graph", move || write(&file, &text));
    writing.await??;
    let plural = if count == 1 { "" } else { "s" };
    progress.line(&format!(
        "Wrote the dependency graph of {count} package{plural} to {}",
        path.display()
    ));
    Ok(())
}

/// Writes the file of a graph. Refuses to replace anything but a regular file.
fn write(path: &Path, text: &str) -> fs::Result<()> {
    let directory = fs::parent(path);
    fs::create_dir_all(directory)?;
    fs::check_writable(directory)?;
    match fs::lookup(path)? {
        Some(found) if !found.is_file() => Err(fs::Error::new(
            "write the graph to",
            path,
            io::Error::other("it is not a file"),
        )),
        _ => fs::write_atomic(path, text.as_bytes(), fs::mode_of_results()),
    }
}

/// The expected time of a package; `~` means an estimate.
fn shown(expected: Expected) -> String {
    let estimated = if expected.is_measured { "" } else { "~" };
    format!("{estimated}{}", Elapsed(expected.time))
}

/// What the expected times are based on.
fn basis(measured: usize, total: usize, logs: &Path) -> String {
    let from = format!("earlier runs ({})", Durations::path(logs).display());
    match measured {
        0 => "estimated by the sizes of the sources (~): no earlier run has measured a package"
            .to_owned(),
        all if all == total => format!("from {from}"),
        some => format!(
            "{some} of {total} packages from {from}, the others estimated by the sizes of their sources (~)"
        ),
    }
}
