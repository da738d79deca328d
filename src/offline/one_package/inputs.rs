//! Reads the source and the dependencies of a package: their sizes and digests.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::compile::first_log;
use crate::config::Vcap;
use crate::fs::{self, Context as _};
use crate::offline::error::OfflineError;
use crate::package_job::PackageJob;
use crate::process;
use crate::release::{Algorithm, Digests, Name};
use crate::runtime::{self, Cancellable};

/// The algorithms with which blobs are hashed.
pub(super) const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha1, Algorithm::Sha256];

/// The files that a run of one package writes: absolute paths.
#[derive(Debug, Clone)]
pub struct PackageFiles {
    /// The compiled package.
    pub output: PathBuf,
    /// The log of the packaging script.
    pub log: PathBuf,
    /// The report for other programs, if it is wanted.
    pub report: Option<PathBuf>,
}

/// A blob of the run.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub(super) package: Name,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) digests: Digests,
}

/// Hashes the source and all dependencies. Returns them in this order.
pub(super) async fn read(
    job: &PackageJob,
    cancel: &CancellationToken,
) -> Result<Vec<Input>, OfflineError> {
    let dependencies = job.dependencies.iter();
    let dependencies = dependencies.map(|it| (it.name.clone(), it.blob.clone()));
    let blobs = std::iter::once((job.name.clone(), job.source.clone())).chain(dependencies);
    let reading = {
        let cancel = cancel.clone();
        let read = move |(package, path)| read_one(package, path, &cancel);
        runtime::map_blocking("inputs", process::processors(), blobs.collect(), read)
    };
    let inputs = reading.await?.into_iter().collect();
    match cancel.is_cancelled() {
        true => Err(OfflineError::Stopped),
        false => inputs,
    }
}

fn read_one(
    package: Name,
    path: PathBuf,
    cancel: &CancellationToken,
) -> Result<Input, OfflineError> {
    let read = || {
        let file = Cancellable::new(fs::open_file(&path)?, cancel);
        Digests::of_reader(file, &ALGORITHMS).at("read", &path)
    };
    match read() {
        Ok((digests, size)) => Ok(Input {
            package,
            path,
            size,
            digests,
        }),
        Err(source) => Err(OfflineError::PackageInput { package, source }),
    }
}

/// Splits the inputs into the source and the dependencies.
pub(super) fn source_and_dependencies(inputs: &[Input]) -> (&Input, &[Input]) {
    // `read` returns at least the source.
    (&inputs[0], &inputs[1..])
}

/// The paths of the inputs.
pub(super) fn files(inputs: &[Input]) -> Vec<PathBuf> {
    inputs.iter().map(|it| it.path.clone()).collect()
}

/// Refuses a run that would replace or remove one of its inputs. `emptied` is the base directory if the run may empty parts of it.
pub(super) fn check_places(
    job: &PackageJob,
    files: &PackageFiles,
    emptied: Option<&Vcap>,
) -> Result<(), OfflineError> {
    let inputs = job.dependencies.iter().map(|it| it.blob.as_path());
    let inputs = std::iter::once(job.source.as_path()).chain(inputs);
    let first = first_log(&files.log);
    let written = [Some(&files.output), Some(&files.log), Some(&first)];
    let written = written.into_iter().flatten().chain(&files.report);
    let written: Vec<PathBuf> = written.map(|it| name_of(it)).collect();
    let emptied = emptied.map_or_else(Vec::new, |vcap| {
        let data = vcap.data();
        let directories = [
            vcap.base().join("packages"),
            data.join("packages"),
            data.join("compile"),
        ];
        directories
            .map(|it| fs::canonicalize(&it).unwrap_or(it))
            .to_vec()
    });
    for input in inputs {
        let names = [name_of(input), fs::canonicalize(input).unwrap_or_default()];
        if written.contains(&names[0]) {
            let path = input.to_owned();
            return Err(OfflineError::OverInput { path });
        }
        for directory in &emptied {
            if names.iter().any(|name| name.starts_with(directory)) {
                return Err(OfflineError::InputInBase {
                    path: input.to_owned(),
                    directory: directory.clone(),
                });
            }
        }
    }
    Ok(())
}

/// The path of a file, with links in its directory resolved. This is the name that is replaced or removed.
fn name_of(path: &Path) -> PathBuf {
    match fs::canonicalize(fs::parent(path)) {
        Ok(directory) => directory.join(fs::file_name(path)),
        Err(_) => path.to_owned(),
    }
}
