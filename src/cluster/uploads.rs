//! Uploads the blobs of actions that the server lacks. Remembers which blobs the server has.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::calls::repeat;
use super::error::RemoteFailure;
use crate::fs;
use crate::http::Body;
use crate::reapi::{Blob, Digest, Server, Upload};
use crate::runtime;

/// The maximum length of a file that is sent together with other blobs, in bytes. For small files, a call for each would cost more time
/// than the transfer.
const SMALL: u64 = 256 << 10;

/// The source of a blob's bytes.
#[derive(Debug, Clone)]
pub(super) enum Contents {
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// The blobs that the server has, as far as this run knows.
#[derive(Debug)]
pub(super) struct Uploads {
    server: Arc<Server>,
    /// For each blob, a cell that is set when the server has the blob. A concurrent upload of the same
    /// large file waits for the first one; a small blob may be uploaded several times.
    stored: Mutex<HashMap<Digest, Arc<OnceCell<()>>>>,
}

impl Uploads {
    pub(super) fn new(server: &Arc<Server>) -> Self {
        Self {
            server: Arc::clone(server),
            stored: Mutex::default(),
        }
    }

    /// Stores the blobs that the server lacks.
    pub(super) async fn store(
        &self,
        blobs: Vec<(Digest, Contents)>,
        stop: &CancellationToken,
    ) -> Result<(), RemoteFailure> {
        let server = &self.server;
        let new = blobs.into_iter().map(|(digest, contents)| {
            let cell = self.cell(&digest);
            (digest, contents, cell)
        });
        let new: Vec<_> = new.filter(|(.., cell)| !cell.initialized()).collect();
        if new.is_empty() {
            return Ok(());
        }
        let digests: Vec<&Digest> = new.iter().map(|(digest, ..)| digest).collect();
        let asking = repeat((server.pauses(), stop), 0, || async {
            Ok(server.missing(digests.iter().copied()).await?)
        });
        let missing = asking.await?;
        let mut small = Vec::new();
        for (digest, contents, cell) in new {
            if !missing.contains(&digest.sha256) {
                let _ = cell.set(());
                continue;
            }
            match contents {
                Contents::Bytes(data) => small.push((Blob { digest, data }, cell)),
                Contents::File(file) if digest.size <= SMALL => {
                    let reading = runtime::spawn_blocking("upload", move || fs::read(&file));
                    let data = reading.await??;
                    small.push((Blob { digest, data }, cell));
                }
                Contents::File(file) => {
                    let store = || self.store_file(&digest, &file, stop);
                    cell.get_or_try_init(store).await?;
                }
            }
        }
        self.store_small(small, stop).await
    }

    /// Stores a file. An attempt continues at the offset at which the previous one was interrupted.
    async fn store_file(
        &self,
        digest: &Digest,
        file: &Path,
        stop: &CancellationToken,
    ) -> Result<(), RemoteFailure> {
        let server = &self.server;
        let upload = Upload::new(digest);
        let storing = repeat((server.pauses(), stop), digest.size, || async {
            let Some(offset) = server.written(&upload).await? else {
                return Ok(());
            };
            let body = Body::file_from(file, offset).await?;
            Ok(server.write_from(&upload, offset, body).await?)
        });
        storing.await
    }

    async fn store_small(
        &self,
        blobs: Vec<(Blob, Arc<OnceCell<()>>)>,
        stop: &CancellationToken,
    ) -> Result<(), RemoteFailure> {
        let server = &self.server;
        let calls = (server.pauses(), stop);
        let asking = repeat(calls, 0, || async {
            Ok(server.capabilities().await?.batch)
        });
        let batch = asking.await?;
        let (blobs, cells): (Vec<Blob>, Vec<_>) = blobs.into_iter().unzip();
        let size = blobs.iter().map(|blob| blob.digest.size).sum();
        let storing = repeat(calls, size, || async {
            Ok(server.store_small(blobs.clone(), batch).await?)
        });
        storing.await?;
        for cell in cells {
            // Ignore the error: another action has set the cell meanwhile.
            let _ = cell.set(());
        }
        Ok(())
    }

    /// Records that the server has lost a blob, so that it is uploaded again.
    pub(super) fn forget(&self, digest: &Digest) {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        stored.remove(digest);
    }

    fn cell(&self, digest: &Digest) -> Arc<OnceCell<()>> {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(stored.entry(digest.clone()).or_default())
    }
}
