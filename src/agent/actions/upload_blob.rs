//! `upload_blob`: stores a small blob, which the request contains, for later requests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::{Map, Value, json};

use super::{Action, ActionError};
use crate::agent::Agent;
use crate::agent::arguments::{ArgumentError, first, get, object, parsed};
use crate::agent::tasks::Cancellation;
use crate::blobs::BlobId;
use crate::fs;
use crate::release::digest::DigestMismatch;
use crate::release::{Digests, MultiDigest};
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
    File(#[from] fs::Error),
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

async fn upload_blob(agent: &Agent, arguments: &[Value]) -> Result<Value, UploadBlobError> {
    let [argument] = first(arguments)?;
    let nothing = Map::new();
    let argument = object(argument, "upload_blob")?.unwrap_or(&nothing);
    let id = parsed(get(argument, "blob_id"), "blob_id", BlobId::parse)?;
    let digest = parsed(get(argument, "checksum"), "checksum", MultiDigest::parse)?;
    // The text of a decoding error may contain a part of the payload.
    let payload = parsed(get(argument, "payload"), "payload", |text| {
        STANDARD.decode(text).map_err(|_| "it is not base64")
    })?;
    let directory = agent.vcap().sensitive_blobs();
    let name = id.to_string();
    let storing = runtime::spawn_blocking("upload", move || {
        let found = Digests::of(&payload, &digest.algorithms());
        let matched = digest.verify(&found);
        matched.map_err(|source| UploadBlobError::Digest {
            expected: digest.as_str().to_owned(),
            source,
        })?;
        // The directory is not created: it is missing if the data directory was replaced.
        Ok::<_, UploadBlobError>(fs::write_atomic(&directory.join(name), &payload, 0o600)?)
    });
    storing.await??;
    Ok(json!(id.to_string()))
}
