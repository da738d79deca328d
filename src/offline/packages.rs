//! The packages of all releases of a run, each with the paths of its logs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::error::OfflineError;
use super::graph::{self, PackageNode};
use super::identity::{self, Conflict, Identities};
use super::ids::{NodeId, ReleaseId};
use super::ledger::ReleaseJob;
use super::logs::{LogDirectories, PackageLogs};
use super::progress::Progress;
use crate::compile::SourceDates;
use crate::fs;
use crate::release::Name;
use crate::runtime;

/// Merges the packages of all releases. A package that is the same in several releases is compiled once.
pub(super) async fn merge(
    jobs: &BTreeMap<ReleaseId, ReleaseJob>,
    (logs, dates): (&Path, SourceDates),
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
        identity::compare(&compared, dates, &cancel)
    });
    let (identities, conflicts): (Identities, Vec<Conflict>) = comparing.await?;
    for Conflict { package, releases } in conflicts {
        progress.warn(&format!(
            "Warning: package {}/{} has the same fingerprint but different contents in releases {}: it is compiled once for each",
            package.0,
            package.1,
            releases.join(", ")
        ));
    }
    let nodes = graph::merge(&releases, &identities, graph::Include::Compilation);
    let directories = LogDirectories::new(logs, &releases);
    let mut logged = Vec::new();
    for node in nodes {
        let logs = directories.logs_of(&node)?;
        logged.push((node, logs));
    }
    remove_unused_sources(&logged)?;
    Ok(logged)
}

/// Keeps only a package and its dependencies, direct and indirect.
pub(super) fn needed_by(
    package: &Name,
    nodes: Vec<(PackageNode, PackageLogs)>,
) -> Vec<(PackageNode, PackageLogs)> {
    let mut needed = vec![false; nodes.len()];
    // Dependencies have smaller ids.
    for (index, (node, _)) in nodes.iter().enumerate().rev() {
        let is_it = node.package().is_source() && node.package().name() == package;
        needed[index] |= is_it;
        if needed[index] {
            for dependency in &node.dependencies {
                needed[dependency.index()] = true;
            }
        }
    }
    let mut ids = Vec::new();
    let mut count = 0;
    for is_needed in &needed {
        ids.push(NodeId::from_index(count));
        count += usize::from(*is_needed);
    }
    let kept = nodes.into_iter().zip(needed).filter(|(_, needed)| *needed);
    let renumbered = kept.map(|((mut node, logs), _)| {
        for dependency in &mut node.dependencies {
            *dependency = ids[dependency.index()];
        }
        (node, logs)
    });
    renumbered.collect()
}

/// Removes the sources of packages that several releases have, except the one that is compiled.
fn remove_unused_sources(nodes: &[(PackageNode, PackageLogs)]) -> fs::Result<()> {
    let sources = nodes.iter().filter(|(node, _)| node.package().is_source());
    for unused in sources.flat_map(|(node, _)| &node.others) {
        fs::remove_file_if_there(&unused.package.blob.file)?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::offline::checked::CheckedRelease;
    use crate::offline::graph::tests::releases;

    /// The packages of releases, without logs.
    pub(in crate::offline) fn nodes(
        releases: &BTreeMap<ReleaseId, Arc<CheckedRelease>>,
    ) -> Vec<(PackageNode, PackageLogs)> {
        let identities = Identities::default();
        let nodes = graph::merge(releases, &identities, graph::Include::Compilation);
        let no_logs = |node| {
            let (own, others) = (PathBuf::new(), Vec::new());
            (node, PackageLogs { own, others })
        };
        nodes.into_iter().map(no_logs).collect()
    }

    #[test]
    fn needed_packages_are_renumbered() {
        let releases = releases(&["a@1=a, b@1=b, c@1=c: b, d@1=d: c, e@1=e: d"]);
        let needed = needed_by(&Name::parse("d").unwrap(), nodes(&releases));
        let shown: Vec<(&str, Vec<usize>)> = needed
            .iter()
            .map(|(node, _)| {
                let dependencies = node.dependencies.iter().map(|it| it.index());
                (node.package().name().as_str(), dependencies.collect())
            })
            .collect();
        assert_eq!(shown, [("b", vec![]), ("c", vec![0]), ("d", vec![1])]);
    }
}
