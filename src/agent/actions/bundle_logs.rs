//! `bundle_logs`: packs logs into an archive on this machine, from which a client copies it, for
//! example with `scp`. The client removes it with `remove_file`.

use std::path::{Path, PathBuf};

use futures_util::{FutureExt as _, TryFutureExt as _};
use nix::unistd::{User, chown};
use serde_json::{Value, json};

use super::fetch_logs::{FetchLogsError, pack};
use super::{Action, ActionError};
use crate::agent::Agent;
use crate::agent::arguments::ArgumentError;
use crate::agent::logs_request::LogsRequest;
use crate::fs::{self, Context as _};
use crate::release::digest::Algorithm;
use crate::runtime::{self, TaskFailed};

pub(in crate::agent) const ACTION: Action = Action::Immediate(|agent, arguments| {
    bundle_logs(agent, arguments)
        .map_err(ActionError::new)
        .boxed()
});

#[derive(Debug, thiserror::Error)]
enum BundleLogsError {
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    #[error(transparent)]
    Pack(#[from] FetchLogsError),
    #[error("there is no user {name:?} on this machine")]
    NoUser { name: String },
    #[error(transparent)]
    File(#[from] fs::Error),
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

async fn bundle_logs(agent: &Agent, arguments: &[Value]) -> Result<Value, BundleLogsError> {
    let (request, owner) = LogsRequest::of_bundle(arguments)?;
    let stopping = agent.tasks().stopping();
    let (archive, digest) = pack(agent, &request, &[Algorithm::Sha512], stopping).await?;
    let keeping = runtime::spawn_blocking("logs", move || {
        give_to(archive.path(), &owner)?;
        let name = format!("logs-{}.tgz", uuid::Uuid::new_v4());
        let path = fs::parent(archive.path()).join(name);
        archive.persist(&path)?;
        Ok::<PathBuf, BundleLogsError>(path)
    });
    let path = keeping.await??;
    Ok(json!({ "logs_tar_path": path, "sha512": digest }))
}

/// Makes a user the owner of the archive, who alone can read it.
fn give_to(archive: &Path, owner: &str) -> Result<(), BundleLogsError> {
    if owner.is_empty() {
        return Ok(());
    }
    let user = User::from_name(owner).ok().flatten();
    let user = user.ok_or_else(|| BundleLogsError::NoUser {
        name: owner.to_owned(),
    })?;
    chown(archive, Some(user.uid), None).at("set the owner of", archive)?;
    Ok(())
}
