//! `fetch_logs`: packs logs into an archive and stores it in the blobstore that the settings name.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Action, ActionError};
use crate::agent::Agent;
use crate::agent::arguments::ArgumentError;
use crate::agent::logs_archive::{LogSelection, LogsError};
use crate::agent::logs_request::LogsRequest;
use crate::agent::tasks::{Cancellation, TaskContext};
use crate::blobs::{BlobError, Persistence};
use crate::fs::{self, Context as _, LeasedFile};
use crate::machine::bootstrap::LOGS_ARCHIVE;
use crate::machine::data::DataDirectory;
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
    task.progress.enter("packing");
    let (archive, digest) = pack(agent, &request, &[Algorithm::Sha1], &task.cancel).await?;
    task.progress.enter("uploading");
    let id = agent
        .blobs()
        .create(archive.path(), Persistence::Brief, &task.cancel)
        .await?;
    Ok(json!({ "blobstore_id": id.to_string(), "sha1": digest }))
}

/// Packs logs into a temporary file, which is removed when the returned value is dropped.
pub(super) async fn pack(
    agent: &Agent,
    request: &LogsRequest,
    algorithms: &[Algorithm],
    cancel: &CancellationToken,
) -> Result<(LeasedFile, String), FetchLogsError> {
    let selection = LogSelection::new(agent.vcap(), &request.kinds, &request.filters)?;
    let data = agent.data();
    let (own, cancel) = (algorithms.to_vec(), cancel.clone());
    let packing = runtime::spawn_blocking("logs", move || {
        let archive = temporary(&data)?;
        let digests = selection.pack(archive.file(), archive.path(), &own, &cancel)?;
        Ok::<(LeasedFile, Digests), FetchLogsError>((archive, digests))
    });
    let (archive, digests) = packing.await??;
    let digest = MultiDigest::of(&digests, algorithms).map(|digest| digest.as_str().to_owned());
    Ok((archive, digest.unwrap_or_default()))
}

/// A temporary file for the archive. If the agent is killed, its next start removes the file.
fn temporary(data: &DataDirectory) -> fs::Result<LeasedFile> {
    private(data.private_file(LOGS_ARCHIVE, ".tgz")?)
}

/// Lets only the owner read and write an archive.
pub(super) fn private(archive: LeasedFile) -> fs::Result<LeasedFile> {
    let mode = Permissions::from_mode(0o600);
    let set = archive.file().set_permissions(mode);
    set.at("set the mode of", archive.path())?;
    Ok(archive)
}
