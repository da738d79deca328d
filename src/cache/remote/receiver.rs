//! Receives a content from a server into a local cache, while a blocking thread writes and hashes it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::error::RemoteError;
use crate::cache::entry::Content;
use crate::cache::local::LocalCache;
use crate::runtime;

/// How many chunks are received ahead of the disk.
const AHEAD: usize = 4;

/// A content that is received. Nothing remains of it if it is dropped or has wrong bytes.
pub(super) struct Receiver {
    content: Content,
    /// How many bytes are missing.
    missing: u64,
    chunks: mpsc::Sender<Bytes>,
    writing: runtime::Task<Result<(), RemoteError>>,
}

impl Receiver {
    pub(super) fn new(content: &Content, into: &Arc<LocalCache>) -> Self {
        let (sender, mut chunks) = mpsc::channel::<Bytes>(AHEAD);
        let (own, into) = (content.clone(), Arc::clone(into));
        let writing = runtime::spawn_blocking("receive", move || {
            let mut incoming = into.incoming(&own).map_err(RemoteError::Local)?;
            while let Some(chunk) = chunks.blocking_recv() {
                if !incoming.write(&chunk).map_err(RemoteError::Local)? {
                    return Err(RemoteError::wrong(&own));
                }
            }
            match incoming.finish().map_err(RemoteError::Local)? {
                true => Ok(()),
                false => Err(RemoteError::wrong(&own)),
            }
        });
        Self {
            content: content.clone(),
            missing: content.size,
            chunks: sender,
            writing,
        }
    }

    /// Takes the next part. Fails if the server sends more than it announced.
    pub(super) async fn push(&mut self, chunk: Bytes) -> Result<(), RemoteError> {
        let left = self.missing.checked_sub(chunk.len() as u64);
        self.missing = left.ok_or_else(|| RemoteError::wrong(&self.content))?;
        if self.chunks.send(chunk).await.is_err() {
            // Writing failed.
            (&mut self.writing).await??;
        }
        Ok(())
    }

    /// Adds the content to the cache, if it is complete and right.
    pub(super) async fn finish(self) -> Result<(), RemoteError> {
        drop(self.chunks);
        self.writing.await?
    }
}
