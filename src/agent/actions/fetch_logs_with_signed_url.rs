//! `fetch_logs_with_signed_url`: packs logs into an archive and uploads it to a signed URL.

use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::{Value, json};

use super::fetch_logs::{FetchLogsError, pack};
use super::{Action, ActionError};
use crate::agent::Agent;
use crate::agent::logs_request::LogsRequest;
use crate::agent::tasks::{Cancellation, TaskContext};
use crate::blobs::Persistence;
use crate::release::digest::Algorithm;

pub(in crate::agent) const ACTION: Action = Action::Task {
    run: |agent, arguments, task| {
        fetch_logs(agent, arguments, task)
            .map_err(ActionError::new)
            .boxed()
    },
    cancellation: Cancellation::Supported,
    resumes: false,
};

async fn fetch_logs(
    agent: &Agent,
    arguments: &[Value],
    task: &TaskContext,
) -> Result<Value, FetchLogsError> {
    let (request, (url, headers)) = LogsRequest::of_signed_url(arguments)?;
    let algorithms = [Algorithm::Sha1, Algorithm::Sha512];
    task.progress.enter("packing");
    let (archive, digest) = pack(agent, &request, &algorithms, &task.cancel).await?;
    task.progress.enter("uploading");
    let blobs = agent.blobs();
    blobs
        .put_signed(
            &url,
            &headers,
            archive.path(),
            Persistence::Brief,
            &task.cancel,
        )
        .await?;
    Ok(json!({ "sha1": digest }))
}
