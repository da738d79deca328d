//! Reads the source and the dependencies of a package: their sizes and digests.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::fs::{self, Context as _};
use crate::offline::error::OfflineError;
use crate::package_job::PackageJob;
use crate::process;
use crate::release::{Algorithm, Digests, Name};
use crate::runtime::{self, Cancellable};

/// The algorithms with which blobs are hashed.
pub(super) const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha1, Algorithm::Sha256];

/// The absolute paths of the files of a run of one package, without the blobs that it reads.
#[derive(Debug, Clone)]
pub struct PackageFiles {
    /// The job file, from which the description of the package was read, if there is one.
    pub job: Option<PathBuf>,
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
