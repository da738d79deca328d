//! Installs the dependencies of a package from their compiled blobs.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::inputs::Input;
use crate::compile::{self, CompileError, Context, Dependency};
use crate::package_job::PackageJob;
use crate::runtime::TaskSet;

/// Installs all dependencies concurrently. Returns them in the order of the job.
pub(super) async fn all(
    context: &Arc<Context>,
    job: &PackageJob,
    blobs: &[Input],
    cancel: &CancellationToken,
) -> Result<Vec<Dependency>, CompileError> {
    let mut tasks = TaskSet::new("dependencies");
    for (number, (dependency, blob)) in job.dependencies.iter().zip(blobs).enumerate() {
        let (name, version) = (dependency.name.clone(), dependency.version.clone());
        let from = (blob.path.clone(), blob.digests.clone());
        let (context, cancel) = (Arc::clone(context), cancel.clone());
        tasks.spawn(number, async move {
            let installing = compile::install_compiled(context, name.clone(), from, cancel);
            let installed = installing.await?;
            Ok(Dependency {
                name,
                version,
                installed,
            })
        });
    }
    let mut installed = Vec::new();
    let mut failure = None;
    while let Some((number, result)) = tasks.next().await {
        let result = result.unwrap_or_else(|source| {
            let package = job.name.clone();
            Err(CompileError::Task { package, source })
        });
        match result {
            Ok(dependency) => installed.push((number, dependency)),
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    installed.sort_by_key(|(number, _)| *number);
    let installed = installed.into_iter();
    Ok(installed.map(|(_, dependency)| dependency).collect())
}
