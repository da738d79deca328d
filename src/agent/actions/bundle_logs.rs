//! `bundle_logs`: packs logs into an archive on this machine, from which a client copies it, for
//! example with `scp`. The client removes it with `remove_file`.

use std::io::{ErrorKind, Seek as _};
use std::os::unix::fs::fchown;
use std::path::{Path, PathBuf};

use futures_util::{FutureExt as _, TryFutureExt as _};
use nix::unistd::User;
use serde_json::{Value, json};

use super::fetch_logs::{FetchLogsError, pack, private};
use super::{Action, ActionError};
use crate::agent::Agent;
use crate::agent::arguments::ArgumentError;
use crate::agent::logs_request::LogsRequest;
use crate::fs::{self, Context as _, LeasedFile};
use crate::machine::bootstrap::{LOGS_ARCHIVE, LOGS_BUNDLE};
use crate::machine::data::ReplacedData;
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
    #[error("failed to look up the user {name:?}")]
    Lookup {
        name: String,
        source: nix::errno::Errno,
    },
    #[error(transparent)]
    Data(#[from] ReplacedData),
    #[error(transparent)]
    File(#[from] fs::Error),
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

async fn bundle_logs(agent: &Agent, arguments: &[Value]) -> Result<Value, BundleLogsError> {
    let (request, owner) = LogsRequest::of_bundle(arguments)?;
    let data = agent.data();
    let finding = runtime::spawn_blocking("user", move || {
        Ok::<_, BundleLogsError>((user(&owner)?, data.temporary()?))
    });
    let (owner, directory) = finding.await??;
    let stopping = agent.tasks().stopping();
    let (archive, digest) = pack(agent, &request, &[Algorithm::Sha512], stopping).await?;
    let keeping = runtime::spawn_blocking("logs", move || {
        let path = directory.join(format!("{LOGS_BUNDLE}{}.tgz", uuid::Uuid::new_v4()));
        match give(archive, owner)?.persist_or_return(&path) {
            Ok(()) => {}
            Err((Some(archive), error)) if error.source.kind() == ErrorKind::CrossesDevices => {
                give(copied(&archive, &directory)?, owner)?.persist(&path)?;
            }
            Err((_, error)) => return Err(error.into()),
        }
        Ok::<PathBuf, BundleLogsError>(path)
    });
    let path = keeping.await??;
    Ok(json!({ "logs_tar_path": path, "sha512": digest }))
}

/// Makes a user the owner of an archive.
fn give(archive: LeasedFile, owner: Option<u32>) -> fs::Result<LeasedFile> {
    // Use the descriptor, because another file may have replaced the archive at its path.
    fchown(archive.file(), owner, None).at("set the owner of", archive.path())?;
    Ok(archive)
}

/// A copy of an archive in a directory on another file system, such as a disk of an operator. A file cannot be renamed to there.
fn copied(archive: &LeasedFile, directory: &Path) -> fs::Result<LeasedFile> {
    let copy = private(LeasedFile::create(directory, LOGS_ARCHIVE, ".tgz")?)?;
    let mut from = archive.file();
    from.rewind().at("read", archive.path())?;
    std::io::copy(&mut from, &mut copy.file()).at("write", copy.path())?;
    Ok(copy)
}

/// The ID of the user who will own the archive, and who alone can read it. `None` for the user of this process.
fn user(name: &str) -> Result<Option<u32>, BundleLogsError> {
    if name.is_empty() {
        return Ok(None);
    }
    let found = User::from_name(name).map_err(|source| BundleLogsError::Lookup {
        name: name.to_owned(),
        source,
    })?;
    let user = found.ok_or_else(|| BundleLogsError::NoUser {
        name: name.to_owned(),
    })?;
    Ok(Some(user.uid.as_raw()))
}
