//! Receives a content (compiled blob or log) from a server into a local cache. A blocking thread
//! writes and hashes the received parts.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::error::RemoteError;
use crate::cache::entry::Content;
use crate::cache::local::LocalCache;
use crate::runtime;

/// The maximum number of received parts that wait to be written.
const AHEAD: usize = 4;

/// A content that is being received. It is discarded if the receiver is dropped or the bytes are
/// wrong.
pub(super) struct Receiver {
    content: Content,
    /// The number of bytes that have not arrived yet.
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

    /// Adds the next part. Fails if the server sends more bytes than the content has.
    pub(super) async fn push(&mut self, chunk: Bytes) -> Result<(), RemoteError> {
        let left = self.missing.checked_sub(chunk.len() as u64);
        self.missing = left.ok_or_else(|| RemoteError::wrong(&self.content))?;
        if self.chunks.send(chunk).await.is_err() {
            // The writing thread has ended early, so its result is an error.
            (&mut self.writing).await??;
        }
        Ok(())
    }

    /// Adds the content to the local cache, if it is complete and its digest is right.
    pub(super) async fn finish(self) -> Result<(), RemoteError> {
        drop(self.chunks);
        self.writing.await?
    }
}
