//! Uploads the blobs of actions to a server, each blob once per run.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::calls::repeat;
use super::error::RemoteFailure;
use crate::http::Body;
use crate::reapi::{Blob, Digest, Server, Upload};

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
    /// For each blob, a cell that is set when the server has the blob. Concurrent uploads of one
    /// blob wait for the first.
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
        let calls = (server.pauses(), stop);
        let new = blobs.into_iter().map(|(digest, contents)| {
            let cell = self.cell(&digest);
            (digest, contents, cell)
        });
        let new: Vec<_> = new.filter(|(.., cell)| !cell.initialized()).collect();
        if new.is_empty() {
            return Ok(());
        }
        let digests: Vec<&Digest> = new.iter().map(|(digest, ..)| digest).collect();
        let asking = repeat(calls, 0, || async {
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
                Contents::File(file) => {
                    let upload = Upload::new(&digest);
                    let store = || async {
                        let Some(offset) = server.written(&upload).await? else {
                            return Ok(());
                        };
                        let body = Body::file_from(&file, offset).await?;
                        Ok(server.write_from(&upload, offset, body).await?)
                    };
                    let store = || repeat(calls, digest.size, store);
                    cell.get_or_try_init(store).await?;
                }
            }
        }
        let asking = repeat(calls, 0, || async {
            Ok(server.capabilities().await?.batch)
        });
        let batch = asking.await?;
        let (small, cells): (Vec<Blob>, Vec<_>) = small.into_iter().unzip();
        let size = small.iter().map(|blob| blob.digest.size).sum();
        let storing = repeat(calls, size, || async {
            Ok(server.store_small(small.clone(), batch).await?)
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
