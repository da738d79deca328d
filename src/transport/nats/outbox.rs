//! A queue of messages to be published over NATS. Its size is limited, and messages wait in it
//! while the server is unavailable.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::subject;
use crate::runtime::{self, Task};

/// The maximum size of the queue in bytes, as in the Go client.
const MAX_BYTES: usize = 8 << 20;

/// The memory that a message takes in addition to its subject and payload, in bytes.
const OVERHEAD: usize = 256;

/// How long a reply waits for space in the queue. A Director waits 45 s for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(45);

/// The maximum number of messages that are sent before a flush.
const BATCH: usize = 64;

/// Publishes messages. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Outbox {
    queue: mpsc::UnboundedSender<QueueItem>,
    space: Arc<Semaphore>,
}

/// Why a message cannot be published.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PublishError {
    /// The subject is invalid.
    #[error("invalid subject: {0}")]
    Subject(&'static str),
    /// The message is larger than the queue.
    #[error("the message is too large: {0} bytes")]
    TooLarge(usize),
    /// The queue is full, because the server is unavailable or slow.
    #[error("the queue of messages is full")]
    Full,
    /// The connection was closed by [`Nats::stop`](super::Nats::stop).
    #[error("the connection to the message bus was closed")]
    Closed,
}

#[derive(Debug)]
enum QueueItem {
    Message {
        subject: String,
        payload: Bytes,
        _space: OwnedSemaphorePermit,
    },
    /// Ends the queue. Later messages are rejected.
    Close,
}

impl Outbox {
    /// Creates a queue and the task that sends its messages.
    pub(super) fn start(client: Client) -> (Self, Task<()>) {
        let (queue, items) = mpsc::unbounded_channel();
        let outbox = Self {
            queue,
            space: Arc::new(Semaphore::new(MAX_BYTES)),
        };
        (outbox, runtime::spawn("nats outbox", send(client, items)))
    }

    /// Queues a message, which is sent when the server is available. The order of messages is kept.
    ///
    /// # Errors
    /// If the subject is invalid, the queue would exceed 8 MiB, or the connection was closed.
    pub fn publish(&self, subject: String, payload: Vec<u8>) -> Result<(), PublishError> {
        let bytes = cost(&subject, &payload)?;
        let space = Arc::clone(&self.space)
            .try_acquire_many_owned(bytes)
            .map_err(|_| PublishError::Full)?;
        self.push(subject, payload, space)
    }

    /// Publishes a reply. Waits for space if the queue is full.
    pub(super) async fn reply(
        &self,
        subject: String,
        payload: Vec<u8>,
    ) -> Result<(), PublishError> {
        let bytes = cost(&subject, &payload)?;
        let space = Arc::clone(&self.space).acquire_many_owned(bytes);
        match tokio::time::timeout(REPLY_TIMEOUT, space).await {
            Ok(Ok(space)) => self.push(subject, payload, space),
            Ok(Err(_)) | Err(_) => Err(PublishError::Full),
        }
    }

    /// Rejects further messages. The task ends after it has sent the earlier ones.
    pub(super) fn close(&self) {
        // This fails if the task has already ended.
        let _ = self.queue.send(QueueItem::Close);
    }

    fn push(
        &self,
        subject: String,
        payload: Vec<u8>,
        space: OwnedSemaphorePermit,
    ) -> Result<(), PublishError> {
        let item = QueueItem::Message {
            subject,
            payload: payload.into(),
            _space: space,
        };
        self.queue.send(item).map_err(|_| PublishError::Closed)
    }
}

fn cost(subject: &str, payload: &[u8]) -> Result<u32, PublishError> {
    if let Some(problem) = subject::problem(subject) {
        return Err(PublishError::Subject(problem));
    }
    let bytes = payload.len() + subject.len() + OVERHEAD;
    match u32::try_from(bytes) {
        Ok(cost) if bytes <= MAX_BYTES => Ok(cost),
        _ => Err(PublishError::TooLarge(payload.len())),
    }
}

/// Sends the queued messages. A message takes up space in the queue until it is flushed.
async fn send(client: Client, mut items: mpsc::UnboundedReceiver<QueueItem>) {
    let mut batch = Vec::with_capacity(BATCH);
    while items.recv_many(&mut batch, BATCH).await > 0 {
        let mut spaces = Vec::with_capacity(batch.len());
        let mut closed = false;
        for item in batch.drain(..) {
            let QueueItem::Message {
                subject,
                payload,
                _space: space,
            } = item
            else {
                closed = true;
                break;
            };
            let bytes = payload.len();
            if let Err(error) = client.publish(subject, payload).await {
                tracing::warn!(%error, bytes, "failed to publish a message");
            }
            spaces.push(space);
        }
        // If no server is connected, this waits for one.
        let lost = !spaces.is_empty() && client.flush().await.is_err();
        drop(spaces);
        if closed || lost {
            break;
        }
    }
}
