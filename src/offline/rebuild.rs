//! Compiles everything a second time and compares the compiled packages (`--verify-rebuild`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::blob_difference;
use super::error::{InputProblem, InputProblemKind, OfflineError};
use super::ids::ReleaseId;
use super::open;
use super::options::{DocumentOptions, Options};
use super::progress::Progress;
use super::rebuild_differences::{PackageDifference, RebuildDifferences, RebuildResult};
use super::tarball::{Blob, Opened, Role};
use super::work_directory;
use crate::compile::WorkDirectory;
use crate::config::Environment;
use crate::diag::Chain;
use crate::fs;
use crate::process::{self, Program};
use crate::release::Name;
use crate::runtime;
use crate::sandbox::Sharing;

/// The directory for the logs of the second compilation, in that of the first one.
const LOGS: &str = "rebuild";

/// A program that explains differences between files (<https://diffoscope.org>).
const DIFFOSCOPE: &str = "diffoscope";

/// Refuses inputs that can be read only once.
pub(super) fn check(inputs: &[PathBuf]) -> Result<(), OfflineError> {
    check_files(inputs, || InputProblemKind::NotReadTwice)
}

/// Refuses inputs that can be read only once, with this problem.
pub(super) fn check_files(
    inputs: &[PathBuf],
    problem: fn() -> InputProblemKind,
) -> Result<(), OfflineError> {
    let is_stream =
        |path: &&PathBuf| fs::metadata(path).is_ok_and(|it| !it.is_file() && !it.is_dir());
    let problems: Vec<InputProblem> = inputs
        .iter()
        .filter(is_stream)
        .map(|path| InputProblem {
            path: path.clone(),
            kind: problem(),
        })
        .collect();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(OfflineError::Input(problems)),
    }
}

/// The results of a release of both compilations.
#[derive(Debug)]
pub(super) struct Twice {
    /// The result of the first compilation.
    pub first: PathBuf,
    /// The result of the second compilation. `None` if there is none.
    pub second: Option<PathBuf>,
    /// The packages that were compiled before. They are not compared.
    pub precompiled: BTreeSet<String>,
}

/// The directories of a second compilation.
#[derive(Debug)]
pub(super) struct Rebuild {
    place: WorkDirectory,
    logs: PathBuf,
    environment: Environment,
}

impl Rebuild {
    /// Creates the directories. `first` is one of the results of the first compilation. Blocks.
    ///
    /// # Errors
    /// The directories cannot be created.
    pub(super) fn new(
        options: &Options,
        first: &Path,
        cancel: &CancellationToken,
    ) -> Result<Self, OfflineError> {
        let wanted = options.work_directory.as_deref();
        let stop = || cancel.is_cancelled();
        let place = work_directory::make(wanted, &options.vcap, fs::parent(first), &stop)?;
        let logs = options.logs_directory.as_deref();
        let logs = work_directory::logs(&place, logs, &options.vcap)?.join(LOGS);
        for directory in [place.path().join("work"), place.path().join("out")] {
            fs::create_dir(&directory)?;
        }
        Ok(Self {
            place,
            logs,
            environment: options.environment.clone(),
        })
    }

    /// The options of the second compilation of these inputs. It has other directories, if possible another value of `--jobs` than the first
    /// one, and uses neither caches nor results of earlier runs.
    pub(super) fn options(
        &self,
        first: Options,
        (isolation, first_jobs): (Option<&str>, Option<usize>),
        inputs: Vec<PathBuf>,
    ) -> Options {
        // Without isolation, packages that are compiled concurrently affect each other, so one job is used again.
        let is_isolated = isolation != Some("none");
        let jobs = if first_jobs == Some(1) && is_isolated {
            2
        } else {
            1
        };
        let scratch = match first.scratch {
            Sharing::Kept(_) => Sharing::Run,
            other => other,
        };
        Options {
            inputs,
            scratch,
            jobs: NonZeroUsize::new(jobs),
            output_directory: Some(self.place.path().join("out")),
            work_directory: Some(self.place.path().join("work")),
            logs_directory: Some(self.logs.clone()),
            reuse: Vec::new(),
            cache: None,
            report: None,
            timings: None,
            documents: DocumentOptions::default(),
            graph: None,
            verify_rebuild: false,
            ..first
        }
    }

    /// Compares the packages of the results of both compilations, in the order of the inputs.
    pub(super) async fn compare(
        &self,
        results: Vec<Twice>,
        cancel: &CancellationToken,
    ) -> Result<RebuildDifferences, OfflineError> {
        let mut found = RebuildDifferences {
            compared: 0,
            precompiled: 0,
            packages: Vec::new(),
        };
        for (number, result) in results.into_iter().enumerate() {
            let spools = [2 * number, 2 * number + 1].map(ReleaseId::from_position);
            let [one, other] = spools.map(|id| work_directory::spool(&self.place, id));
            let (one, other, token) = (one?, other?, cancel.clone());
            found.precompiled += result.precompiled.len();
            let comparing = runtime::spawn_blocking("compare", move || {
                let first = opened(&result.first, &one, &token)?;
                let second = result.second.map(|second| opened(&second, &other, &token));
                let second = second.transpose()?;
                differences(&first, second.as_ref(), &result.precompiled, &token)
            });
            let (compared, differences) = comparing.await??;
            found.compared += compared;
            for (mut package, blobs) in differences {
                if let Some(blobs) = blobs {
                    package.details = self.explain(&package, blobs, cancel).await;
                }
                found.packages.push(package);
            }
        }
        Ok(found)
    }

    /// Runs diffoscope, if it is installed, on two blobs and writes its output next to the logs.
    async fn explain(
        &self,
        package: &PackageDifference,
        (first, second): (PathBuf, PathBuf),
        cancel: &CancellationToken,
    ) -> Option<PathBuf> {
        let file = process::find_program(DIFFOSCOPE, &self.environment)?;
        let ((release, version), name) = (&package.release, &package.package);
        let text = format!("{release}-{version}-{name}.{DIFFOSCOPE}.txt");
        let text = self.logs.join(text);
        // Remove the file of an earlier run.
        fs::remove_file_if_there(&text).ok()?;
        let flags = ["--no-progress", "--text"].map(OsString::from);
        let paths = [&text, &first, &second].map(|it| it.clone().into_os_string());
        let program = Program {
            file,
            arguments: flags.into_iter().chain(paths).collect(),
            environment: self.environment.clone(),
        };
        let ended = process::run_to_end(&program, cancel).await;
        if let Err(error) = &ended {
            tracing::warn!(package = %name, error = %Chain(error), "could not run diffoscope");
        }
        fs::metadata(&text).is_ok().then_some(text)
    }

    /// Removes the work directory; the logs remain. A failure is only a warning.
    pub(super) async fn remove(self, progress: &Progress) {
        let path = self.place.path().to_owned();
        let removing = runtime::spawn_blocking("work directory", move || self.place.remove());
        if let Ok(Err(error)) = removing.await {
            progress.warn(&format!(
                "Warning: could not remove `{}`: {}. The next run with this work directory tries again",
                path.display(),
                Chain(&error)
            ));
        }
    }
}

fn opened(result: &Path, spool: &Path, cancel: &CancellationToken) -> Result<Opened, OfflineError> {
    open::open(result, spool, cancel).map_err(|source| OfflineError::Compare {
        file: result.to_owned(),
        source: Box::new(source),
    })
}

/// The number of packages in two results, and those that differ, with their blobs if both results have them.
type Differences = (usize, Vec<(PackageDifference, Option<(PathBuf, PathBuf)>)>);

/// Compares two results, without the `precompiled` packages. If there is no second result, reports all packages as missing in it.
fn differences(
    first: &Opened,
    second: Option<&Opened>,
    precompiled: &BTreeSet<String>,
    cancel: &CancellationToken,
) -> Result<Differences, OfflineError> {
    let is_compared = |package: &&Name| !precompiled.contains(package.as_str());
    let own: BTreeMap<&str, _> = blobs(first).collect();
    let others: BTreeMap<&str, _> = second.into_iter().flat_map(blobs).collect();
    let difference = |package: &Name, only_in| PackageDifference {
        release: (first.manifest.name.clone(), first.manifest.version.clone()),
        package: package.clone(),
        files: Vec::new(),
        only_in,
        details: None,
    };
    let (mut compared, mut found) = (0, Vec::new());
    for package in packages(first).filter(is_compared) {
        compared += 1;
        let name = package.as_str();
        let (one, other) = match (own.get(name), others.get(name)) {
            (Some(one), Some(other)) => (one, other),
            (one, _) => {
                let result = match one {
                    Some(_) => RebuildResult::First,
                    None => RebuildResult::Second,
                };
                found.push((difference(package, Some(result)), None));
                continue;
            }
        };
        if one.digests.sha256() == other.digests.sha256() {
            continue;
        }
        let files = blob_difference::compare(&one.file, &other.file, cancel).map_err(
            |(file, source)| OfflineError::Compare {
                file,
                source: Box::new(source),
            },
        )?;
        let difference = PackageDifference {
            files,
            ..difference(package, None)
        };
        found.push((difference, Some((one.file.clone(), other.file.clone()))));
    }
    let known: BTreeSet<&Name> = packages(first).collect();
    let of_second = second.into_iter().flat_map(packages);
    for package in of_second.filter(is_compared) {
        if !known.contains(package) {
            compared += 1;
            let only_in = Some(RebuildResult::Second);
            found.push((difference(package, only_in), None));
        }
    }
    Ok((compared, found))
}

/// The compiled packages of a result.
fn packages(opened: &Opened) -> impl Iterator<Item = &Name> {
    let packages = opened.manifest.compiled_packages.iter().flatten();
    packages.map(|package| &package.name)
}

/// The blobs of compiled packages by name.
fn blobs(opened: &Opened) -> impl Iterator<Item = (&str, &Blob)> {
    opened
        .carried
        .iter()
        .filter_map(|carried| match &carried.role {
            Role::CompiledPackage(name) => Some((name.as_str(), carried.blob.as_ref()?)),
            _ => None,
        })
}
