//! Downloads files of results and verifies their digests.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::error::RemoteFailure;
use crate::fs::{self, Context as _};
use crate::reapi::{CallError, Digest, Server};
use crate::release::digest::Hasher;
use crate::release::{Algorithm, Digests};
use crate::runtime;

/// The maximum number of received parts that wait to be written.
const AHEAD: usize = 4;

/// The pauses before a download is repeated after a lost connection.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
];

/// Downloads a blob to a new file. Returns the file's digests; `None` if the server no longer has
/// the blob.
pub(super) async fn download(
    server: &Server,
    digest: &Digest,
    into: &Path,
) -> Result<Option<Digests>, RemoteFailure> {
    let mut pauses = PAUSES.into_iter();
    loop {
        let error = match download_once(server, digest, into).await {
            Ok(done) => return Ok(done),
            Err(Failed::Call(error)) if error.is_passing() => error,
            Err(Failed::Call(error)) => return Err(error.into()),
            Err(Failed::Other(failure)) => return Err(failure),
        };
        let Some(pause) = pauses.next() else {
            return Err(error.into());
        };
        tracing::debug!(%error, sha256 = digest.sha256, "downloading a file again");
        tokio::time::sleep(pause).await;
    }
}

enum Failed {
    Call(CallError),
    Other(RemoteFailure),
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

async fn download_once(
    server: &Server,
    digest: &Digest,
    into: &Path,
) -> Result<Option<Digests>, Failed> {
    let Some(mut parts) = server.read(digest).await? else {
        return Ok(None);
    };
    let (sender, receiver) = mpsc::channel(AHEAD);
    let path = into.to_owned();
    let writing = runtime::spawn_blocking("download", move || write(&path, receiver));
    while let Some(part) = parts.next().await? {
        if sender.send(part).await.is_err() {
            // The writer has failed. Its error is returned below.
            break;
        }
    }
    drop(sender);
    let written = writing.await.map_err(|error| Failed::Other(error.into()))?;
    let (digests, size) = written.map_err(|error| Failed::Other(error.into()))?;
    let is_right = size == digest.size && digests.sha256() == Some(digest.sha256.as_str());
    match is_right {
        true => Ok(Some(digests)),
        false => Err(Failed::Other(RemoteFailure::Damaged)),
    }
}

/// Writes parts to a new file. An existing file is removed first, because it may be a hard link.
fn write(path: &Path, mut parts: mpsc::Receiver<Bytes>) -> fs::Result<(Digests, u64)> {
    fs::remove_file_if_there(path)?;
    let mut file = fs::create_file(path)?;
    let mut hasher = Hasher::new(&[Algorithm::Sha1, Algorithm::Sha256]);
    let mut size = 0;
    while let Some(part) = parts.blocking_recv() {
        hasher.update(&part);
        size += part.len() as u64;
        file.write_all(&part).at("write", path)?;
    }
    Ok((hasher.finish(), size))
}
