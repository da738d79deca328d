//! `fetch_logs`: packs logs into an archive and stores it in the blobstore that the settings name.

use std::path::Path;

use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::{Value, json};
use tempfile::TempPath;

use super::{Action, ActionError};
use crate::agent::Agent;
use crate::agent::arguments::ArgumentError;
use crate::agent::logs_archive::{LogSelection, LogsError};
use crate::agent::logs_request::LogsRequest;
use crate::agent::tasks::{Cancellation, TaskContext};
use crate::blobs::BlobError;
use crate::fs::{self, Context as _};
use crate::release::digest::Algorithm;
use crate::release::{Digests, MultiDigest};
use crate::runtime::{self, TaskFailed};

pub(in crate::agent) const ACTION: Action = Action::Task {
    run: |agent, arguments, task| {
        fetch_logs(agent, arguments, task)
            .map_err(ActionError::new)
            .boxed()
    },
    cancellation: Cancellation::Supported,
    resumes: false,
};

#[derive(Debug, thiserror::Error)]
pub(super) enum FetchLogsError {
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    #[error(transparent)]
    Pack(#[from] LogsError),
    #[error(transparent)]
    File(#[from] fs::Error),
    #[error(transparent)]
    Task(#[from] TaskFailed),
    #[error("Create file on blobstore")]
    Upload(#[from] BlobError),
}

async fn fetch_logs(
    agent: &Agent,
    arguments: &[Value],
    task: &TaskContext,
) -> Result<Value, FetchLogsError> {
    let request = LogsRequest::of_blobs(arguments)?;
    let (archive, digest) = pack(agent, &request, &[Algorithm::Sha1], task).await?;
    task.progress.enter("uploading");
    let id = agent.blobs().create(&archive, &task.cancel).await?;
    Ok(json!({ "blobstore_id": id.to_string(), "sha1": digest }))
}

/// Packs logs into a temporary file, which is removed when the returned path is dropped.
pub(super) async fn pack(
    agent: &Agent,
    request: &LogsRequest,
    algorithms: &[Algorithm],
    task: &TaskContext,
) -> Result<(TempPath, String), FetchLogsError> {
    task.progress.enter("packing");
    let selection = LogSelection::new(agent.vcap(), &request.kinds, &request.filters)?;
    let directory = agent.vcap().temporary();
    let (own, cancel) = (algorithms.to_vec(), task.cancel.clone());
    let packing = runtime::spawn_blocking("logs", move || {
        let archive = temporary(&directory)?;
        let digests = selection.pack(&archive, &own, &cancel)?;
        Ok::<(TempPath, Digests), FetchLogsError>((archive, digests))
    });
    let (archive, digests) = packing.await??;
    let digest = MultiDigest::of(&digests, algorithms).map(|digest| digest.as_str().to_owned());
    Ok((archive, digest.unwrap_or_default()))
}

fn temporary(directory: &Path) -> fs::Result<TempPath> {
    let file = tempfile::Builder::new()
        .prefix("logs-")
        .tempfile_in(directory)
        .at("make a file in", directory)?;
    Ok(file.into_temp_path())
}
