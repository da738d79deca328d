//! Downloads files of results and verifies their digests.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use bytes::Bytes;
use tokio::sync::{Mutex, mpsc};
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

/// The part of a file that was downloaded.
struct Partial {
    file: File,
    hasher: Hasher,
    size: u64,
}

/// Downloads a blob to a new file. Returns its digests; `None` if the server has lost it. If the download fails, no
/// file is left at `into`. If the future is dropped, a partial file may be left there.
pub(super) async fn download(
    server: &Server,
    digest: &Digest,
    into: &Path,
    stop: &CancellationToken,
) -> Result<Option<Digests>, RemoteFailure> {
    let calls = (server.pauses(), stop);
    // What a failed attempt has received, so that the next one can continue. Empty if the attempt exceeded its time limit.
    let partial = Mutex::new(None);
    let downloading = repeat(calls, digest.size, || {
        continue_download(server, digest, into, &partial)
    });
    let downloaded = downloading.await;
    if !matches!(downloaded, Ok(Some(_))) {
        // Ignore an error: the failure of the download is returned.
        let _ = fs::remove_file_if_there(into);
    }
    downloaded
}

async fn continue_download(
    server: &Server,
    digest: &Digest,
    into: &Path,
    partial: &Mutex<Option<Partial>>,
) -> Result<Option<Digests>, Failed> {
    let mut partial = partial.lock().await;
    let offset = partial.as_ref().map_or(0, |it| it.size);
    // If the connection was lost between the last byte and the end of the stream, nothing is left to receive.
    let received = match offset > 0 && offset == digest.size {
        true => Ok(Some(())),
        false => receive(server, digest, into, &mut partial).await,
    };
    let error = match received {
        Ok(None) => return Ok(None),
        Ok(Some(())) => match partial.take() {
            Some(partial) if partial.size == digest.size => {
                let digests = partial.hasher.finish();
                if digests.sha256() == Some(digest.sha256.as_str()) {
                    return Ok(Some(digests));
                }
                Failed::Other(RemoteFailure::Damaged)
            }
            _ => Failed::Other(RemoteFailure::Damaged),
        },
        Err(error) => error,
    };
    let may_be_due_to_continuing = match &error {
        Failed::Call(error) => !error.is_passing(),
        Failed::Other(failure) => matches!(failure, RemoteFailure::Damaged),
    };
    if offset > 0 && may_be_due_to_continuing {
        // The server may not be able to continue, or the continued file is damaged. The next attempt starts from the beginning.
        *partial = None;
        return Err(CallError::not_continued().into());
    }
    Err(error)
}

/// Receives the bytes of a blob that follow the partial file, or all of them; `None` if the server has lost the blob.
async fn receive(
    server: &Server,
    digest: &Digest,
    into: &Path,
    partial: &mut Option<Partial>,
) -> Result<Option<()>, Failed> {
    let offset = partial.as_ref().map_or(0, |it| it.size);
    let Some(parts) = server.read_from(digest, offset).await? else {
        return Ok(None);
    };
    let (sender, receiver) = mpsc::channel(AHEAD);
    let (path, earlier) = (into.to_owned(), partial.take());
    let writing = runtime::spawn_blocking("download", move || write(&path, earlier, receiver));
    let received = pass_on(parts, sender).await;
    *partial = Some(writing.await.map_err(RemoteFailure::from)??);
    match received {
        Ok(()) => Ok(Some(())),
        Err(error) if error.code() == Some(Code::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Passes parts to the writer until the end of the blob, or until writing fails.
async fn pass_on(mut parts: Parts, to: mpsc::Sender<Bytes>) -> Result<(), CallError> {
    while let Some(part) = parts.next().await? {
        if to.send(part).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Appends parts to the partial file, or writes them to a new file. Before a new file is created, an existing file at its path is removed,
/// because the existing file may be a hard link to another file.
fn write(
    path: &Path,
    partial: Option<Partial>,
    mut parts: mpsc::Receiver<Bytes>,
) -> fs::Result<Partial> {
    let mut partial = match partial {
        Some(partial) => partial,
        None => {
            fs::remove_file_if_there(path)?;
            Partial {
                file: fs::create_file(path)?,
                hasher: Hasher::new(&[Algorithm::Sha1, Algorithm::Sha256]),
                size: 0,
            }
        }
    };
    while let Some(part) = parts.blocking_recv() {
        partial.hasher.update(&part);
        partial.size += part.len() as u64;
        partial.file.write_all(&part).at("write", path)?;
    }
    Ok(partial)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bazel_remote_apis::google::bytestream::{ReadRequest, ReadResponse};
    use prost::Message as _;

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

    /// A server that has the blob `bytes`. The first responses fail at the offsets in `ends`; later ones are complete. Without `continues`,
    /// the server ignores the offset of a request.
    async fn lossy(ends: &'static [usize], continues: bool) -> TestServer {
        let count = AtomicUsize::new(0);
        TestServer::start(move |_, request| {
            let request = ReadRequest::decode(request[0].as_slice()).unwrap();
            let start = usize::try_from(request.read_offset).unwrap();
            let start = if continues { start } else { 0 };
            let end = ends.get(count.fetch_add(1, Ordering::Relaxed));
            let end = end.copied().unwrap_or(5);
            let data = b"bytes"[start..end.max(start)].to_vec();
            let reply = Reply::messages(&[ReadResponse { data }]);
            match end {
                5 => reply,
                _ => reply.lost(),
            }
        })
        .await
    }

    /// Downloads the blob, and returns the offsets of all requests.
    async fn offsets(server: &TestServer) -> Vec<i64> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("package");
        let stop = CancellationToken::new();
        let digest = Digest::of(b"bytes");
        let downloaded = download(&server.client(), &digest, &path, &stop).await;
        let digests = downloaded.unwrap().unwrap();
        assert_eq!(digests.sha256(), Some(digest.sha256.as_str()));
        assert_eq!(fs::read(&path).unwrap(), b"bytes");
        let requests = server.calls_of("Read").into_iter();
        let requests = requests.map(|it| ReadRequest::decode(it[0].as_slice()).unwrap());
        requests.map(|it| it.read_offset).collect()
    }

    #[tokio::test]
    async fn download_continues_after_the_received_bytes() {
        let server = lossy(&[2, 2, 4], true).await;
        assert_eq!(offsets(&server).await, [0, 2, 2, 4]);
    }

    #[tokio::test]
    async fn download_starts_again_if_the_server_cannot_continue() {
        let server = lossy(&[2], false).await;
        assert_eq!(offsets(&server).await, [0, 2, 0]);
    }
}
