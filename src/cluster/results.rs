//! Downloads files of results and verifies their digests.

use std::io::Write as _;
use std::path::Path;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::calls::{Failed, repeat};
use super::error::RemoteFailure;
use crate::fs::{self, Context as _};
use crate::reapi::{CallError, Code, Digest, Parts, Server};
use crate::release::digest::Hasher;
use crate::release::{Algorithm, Digests};
use crate::runtime;

/// The maximum number of received parts that wait to be written.
const AHEAD: usize = 4;

/// Downloads a blob to a new file. Returns its digests; `None` if the server has lost it. A failure leaves no file.
pub(super) async fn download(
    server: &Server,
    digest: &Digest,
    into: &Path,
    stop: &CancellationToken,
) -> Result<Option<Digests>, RemoteFailure> {
    let calls = (server.pauses(), stop);
    let downloading = repeat(calls, digest.size, || download_once(server, digest, into));
    let downloaded = downloading.await;
    if !matches!(downloaded, Ok(Some(_))) {
        // The failure itself matters more.
        let _ = fs::remove_file_if_there(into);
    }
    downloaded
}

async fn download_once(
    server: &Server,
    digest: &Digest,
    into: &Path,
) -> Result<Option<Digests>, Failed> {
    let Some(parts) = server.read(digest).await? else {
        return Ok(None);
    };
    let (sender, receiver) = mpsc::channel(AHEAD);
    let path = into.to_owned();
    let writing = runtime::spawn_blocking("download", move || write(&path, receiver));
    let received = receive(parts, sender).await;
    let written = writing.await.map_err(RemoteFailure::from)?;
    match received {
        Err(error) if error.code() == Some(Code::NotFound) => return Ok(None),
        received => received?,
    }
    let (digests, size) = written?;
    let is_right = size == digest.size && digests.sha256() == Some(digest.sha256.as_str());
    match is_right {
        true => Ok(Some(digests)),
        false => Err(RemoteFailure::Damaged.into()),
    }
}

/// Passes parts on until their end, or until writing fails.
async fn receive(mut parts: Parts, to: mpsc::Sender<Bytes>) -> Result<(), CallError> {
    while let Some(part) = parts.next().await? {
        if to.send(part).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Writes parts to a new file. An older file may be a hard link, and is removed first.
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

#[cfg(test)]
mod tests {
    use bazel_remote_apis::google::bytestream::ReadResponse;

    use super::*;
    use crate::reapi::testing::{Reply, TestServer};

    #[tokio::test]
    async fn other_bytes_leave_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("package");
        let parts = vec![b"by".to_vec(), b"te?".to_vec()];
        let parts: Vec<_> = parts
            .into_iter()
            .map(|data| ReadResponse { data })
            .collect();
        let server = TestServer::start(move |_, _| Reply::messages(&parts)).await;
        let stop = CancellationToken::new();
        let client = server.client();
        for expected in [&b"bytes"[..], b"byt"] {
            let digest = Digest::of(expected);
            let downloaded = download(&client, &digest, &path, &stop).await;
            assert!(matches!(downloaded, Err(RemoteFailure::Damaged)));
            assert!(!path.exists());
        }
    }
}
