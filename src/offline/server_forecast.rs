//! Predicts for `--dry-run` which packages a run would find on a server of the Remote Execution API. Executes nothing.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::cache_forecast::Expectation;
use super::error::OfflineError;
use super::graph::PackageNode;
use super::options::{Options, RemoteOptions};
use super::remote;
use crate::cluster::{LookedUp, Plan, PlannedPackage, RemoteFailure, SEARCH_LIMIT, Supply};
use crate::compile::Id;
use crate::diag::{Chain, Elapsed};
use crate::release::Slug;

/// What a run would do with each package, in the order of `nodes`.
pub(super) async fn expectations(
    nodes: &[PackageNode],
    (options, server): (&Options, &RemoteOptions),
    stemcell: &Slug,
    cancel: &CancellationToken,
) -> Result<Vec<Expectation>, OfflineError> {
    let name = server.location.to_string();
    let searching = search(nodes, (options, server), stemcell, cancel);
    let can_do_without = server.cache_only || server.falls_back;
    let found = match searching.await {
        Err(OfflineError::Remote { source, .. }) if matches!(*source, RemoteFailure::Stopped) => {
            return Err(OfflineError::Stopped);
        }
        Err(OfflineError::Remote { source, .. }) if can_do_without => {
            let reason = Some(format!("the server {name} is not used: {}", Chain(&source)));
            let compile = |node: &PackageNode| match node.package().is_source() {
                true => Expectation::Compile(reason.clone()),
                false => Expectation::Nothing,
            };
            return Ok(nodes.iter().map(compile).collect());
        }
        found => found?,
    };
    let expectations = found.into_iter().map(|found| match found {
        LookedUp::Provided => Expectation::Nothing,
        LookedUp::Found(_) => Expectation::Shared(name.clone()),
        LookedUp::Unanswered => Expectation::Compile(Some(format!(
            "{name} has not said within {} whether it has a result of it",
            Elapsed(SEARCH_LIMIT)
        ))),
        LookedUp::Missing => Expectation::Compile(Some(format!("{name} has no result of it"))),
        LookedUp::Behind => Expectation::Compile(Some(
            "its dependencies would be compiled, and its action, which names their digests, is unknown until then"
                .to_owned(),
        )),
    });
    Ok(expectations.collect())
}

async fn search(
    nodes: &[PackageNode],
    (options, server): (&Options, &RemoteOptions),
    stemcell: &Slug,
    cancel: &CancellationToken,
) -> Result<Vec<LookedUp>, OfflineError> {
    let opening = remote::cluster((options, stemcell), server);
    let opened = cancel.run_until_cancelled(opening).await;
    let (cluster, capabilities) = opened.ok_or(OfflineError::Stopped)??;
    if !capabilities.executes && !server.cache_only {
        return Err(remote::failed(server, RemoteFailure::NoExecution));
    }
    let looking = plan(nodes).look_up(&cluster, cancel);
    let (found, _) = looking
        .await
        .map_err(|error| remote::failed(server, error))?;
    Ok(found)
}

fn plan(nodes: &[PackageNode]) -> Plan {
    let (mut plan, mut ids) = (Plan::default(), Vec::<Id>::new());
    for node in nodes {
        let package = node.package();
        let file = remote::known(&package.blob);
        let dependencies = node.dependencies.iter();
        ids.push(plan.add(PlannedPackage {
            name: package.name().clone(),
            version: package.version().clone(),
            supply: match package.is_source() {
                true => Supply::Source {
                    source: file,
                    // Nothing is downloaded.
                    blob: PathBuf::new(),
                    log: PathBuf::new(),
                },
                false => Supply::Compiled(file),
            },
            dependencies: dependencies.map(|it| ids[it.index()]).collect(),
            expected: std::time::Duration::ZERO,
        }));
    }
    plan
}
