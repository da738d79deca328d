//! The packages of all releases of a call, each with the paths of its logs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::error::OfflineError;
use super::graph::{self, PackageNode};
use super::identity::{self, Conflict, Identities};
use super::ids::ReleaseId;
use super::ledger::ReleaseJob;
use super::logs::{LogDirectories, PackageLogs};
use super::progress::Progress;
use crate::fs;
use crate::runtime;

/// Merges the packages of all releases: those that are the same in several releases are compiled once.
pub(super) async fn merge(
    jobs: &BTreeMap<ReleaseId, ReleaseJob>,
    logs: &Path,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Vec<(PackageNode, PackageLogs)>, OfflineError> {
    let releases: Arc<BTreeMap<_, _>> = Arc::new(
        jobs.iter()
            .map(|(id, job)| (*id, Arc::clone(&job.release)))
            .collect(),
    );
    let (compared, cancel) = (Arc::clone(&releases), cancel.clone());
    let comparing = runtime::spawn_blocking("compare sources", move || {
        identity::compare(&compared, &cancel)
    });
    let (identities, conflicts): (Identities, Vec<Conflict>) = comparing.await?;
    for Conflict { package, releases } in conflicts {
        progress.line(&format!(
            "Warning: package {}/{} has the same fingerprint but different contents in releases {}: it is compiled once for each",
            package.0,
            package.1,
            releases.join(", ")
        ));
    }
    let nodes = graph::merge(&releases, &identities);
    let directories = LogDirectories::new(logs, &releases);
    let mut logged = Vec::new();
    for node in nodes {
        let logs = directories.logs_of(&node)?;
        logged.push((node, logs));
    }
    remove_unused_sources(&logged)?;
    Ok(logged)
}

/// Removes the sources of packages that several releases have, except the one that is compiled.
fn remove_unused_sources(nodes: &[(PackageNode, PackageLogs)]) -> fs::Result<()> {
    let sources = nodes.iter().filter(|(node, _)| node.package().is_source());
    for unused in sources.flat_map(|(node, _)| &node.others) {
        fs::remove_file_if_there(&unused.package.blob.file)?;
    }
    Ok(())
}
