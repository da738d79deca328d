//! `upload_blob`: stores a small blob, which the request contains, for later requests.

use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::{Value, json};

use super::{Action, ActionError};
use crate::agent::Agent;
use crate::agent::arguments::ArgumentError;
use crate::agent::short_requests::UploadedBlob;
use crate::agent::tasks::Cancellation;
use crate::fs;
use crate::machine::data::ReplacedData;
use crate::release::Digests;
use crate::release::digest::DigestMismatch;
use crate::runtime::{self, TaskFailed};

pub(in crate::agent) const ACTION: Action = Action::Task {
    run: |agent, arguments, _| {
        upload_blob(agent, arguments)
            .map_err(ActionError::new)
            .boxed()
    },
    cancellation: Cancellation::Unsupported,
    resumes: false,
};

#[derive(Debug, thiserror::Error)]
enum UploadBlobError {
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    #[error("Payload corrupted. Checksum mismatch. Expected '{expected}'")]
    Digest {
        expected: String,
        source: DigestMismatch,
    },
    #[error(transparent)]
    Data(#[from] ReplacedData),
    #[error(transparent)]
    File(#[from] fs::Error),
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

async fn upload_blob(agent: &Agent, arguments: &[Value]) -> Result<Value, UploadBlobError> {
    let UploadedBlob {
        id,
        digest,
        contents,
    } = UploadedBlob::parse(arguments)?;
    let data = agent.data();
    let name = id.to_string();
    let storing = runtime::spawn_blocking("upload", move || {
        let found = Digests::of(&contents, &digest.algorithms());
        let matched = digest.verify(&found);
        matched.map_err(|source| UploadBlobError::Digest {
            expected: digest.as_str().to_owned(),
            source,
        })?;
        let path = data.sensitive_blobs()?.join(name);
        Ok::<_, UploadBlobError>(fs::write_atomic(&path, &contents, 0o600)?)
    });
    storing.await??;
    Ok(json!(id.to_string()))
}
