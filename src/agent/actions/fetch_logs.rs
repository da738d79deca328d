//! `fetch_logs` and `fetch_logs_with_signed_url`.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempPath;

use crate::agent::Agent;
use crate::agent::logs_archive::Selection;
use crate::agent::logs_order::LogsOrder;
use crate::agent::tasks::{Outcome, TaskContext};
use crate::diag::Chain;
use crate::fs::Context as _;
use crate::release::MultiDigest;
use crate::release::digest::Algorithm;
use crate::runtime;

/// Into the blobstore of the settings.
pub(in crate::agent) async fn fetch_logs(
    agent: &Agent,
    arguments: &[Value],
    task: &TaskContext,
) -> Outcome {
    let order = LogsOrder::of_blobs(arguments).map_err(|error| error.to_string())?;
    let (archive, digest) = pack(agent, &order, &[Algorithm::Sha1], task).await?;
    task.progress.enter("uploading");
    let id = agent.blobs().create(&archive, &task.cancel).await;
    let id = id.map_err(|error| format!("Create file on blobstore: {}", Chain(&error)))?;
    Ok(json!({ "blobstore_id": id.to_string(), "sha1": digest }))
}

/// To a URL.
pub(in crate::agent) async fn fetch_logs_with_signed_url(
    agent: &Agent,
    arguments: &[Value],
    task: &TaskContext,
) -> Outcome {
    let (order, (url, headers)) =
        LogsOrder::of_signed_url(arguments).map_err(|error| error.to_string())?;
    let algorithms = [Algorithm::Sha1, Algorithm::Sha512];
    let (archive, digest) = pack(agent, &order, &algorithms, task).await?;
    task.progress.enter("uploading");
    let put = agent
        .blobs()
        .put_signed(&url, &headers, &archive, &task.cancel)
        .await;
    put.map_err(|error| format!("Create file on blobstore: {}", Chain(&error)))?;
    Ok(json!({ "sha1": digest }))
}

/// Packs logs into a file that is gone when nobody holds its path any more.
async fn pack(
    agent: &Agent,
    order: &LogsOrder,
    algorithms: &[Algorithm],
    task: &TaskContext,
) -> Result<(TempPath, String), String> {
    task.progress.enter("packing");
    let selection = Selection::new(agent.vcap(), &order.kinds, &order.filters)
        .map_err(|error| Chain(&error).to_string())?;
    let archive = temporary(&agent.vcap().temporary())?;
    let (to, own) = (archive.to_path_buf(), algorithms.to_vec());
    let cancel = task.cancel.clone();
    let packing = runtime::spawn_blocking("logs", move || selection.pack(&to, &own, &cancel));
    let digests = match packing.await {
        Ok(packed) => packed.map_err(|error| Chain(&error).to_string())?,
        Err(error) => return Err(Chain(&error).to_string()),
    };
    let digest = MultiDigest::of(&digests, algorithms).map(|digest| digest.as_str().to_owned());
    Ok((archive, digest.unwrap_or_default()))
}

fn temporary(directory: &Path) -> Result<TempPath, String> {
    let file = tempfile::Builder::new()
        .prefix("logs-")
        .tempfile_in(directory)
        .at("make a file in", directory)
        .map_err(|error| Chain(&error).to_string())?;
    Ok(file.into_temp_path())
}
