//! What waits to be published. While the server is away it waits here, up to a number of bytes.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::subject;
use crate::runtime::{self, Task};

/// How much may wait: as much as the Go client keeps.
const MOST_BYTES: usize = 8 << 20;

/// What a message takes besides its text.
const OVERHEAD: usize = 256;

/// How long a reply waits for room. Nobody waits longer for it: a Director gives up after 45 s.
const PATIENCE: Duration = Duration::from_secs(45);

/// How many messages go out with one flush.
const BATCH: usize = 64;

/// Publishes. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Outbox {
    queue: mpsc::UnboundedSender<Item>,
    room: Arc<Semaphore>,
}

/// A message that cannot be published.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PublishError {
    /// The text is no subject that can be published to.
    #[error("its subject is none: {0}")]
    Subject(&'static str),
    /// It will never fit.
    #[error("it is too large: {0} bytes")]
    TooLarge(usize),
    /// The server has been away for long, or does not keep up.
    #[error("too much waits already")]
    Full,
    /// The connection was closed for good.
    #[error("the connection to the message bus was closed")]
    Closed,
}

#[derive(Debug)]
enum Item {
    Message {
        subject: String,
        payload: Bytes,
        _room: OwnedSemaphorePermit,
    },
    /// The last one: what comes after it is refused.
    Close,
}

impl Outbox {
    /// A queue, and the task that empties it into `client`.
    pub(super) fn start(client: Client) -> (Self, Task<()>) {
        let (queue, items) = mpsc::unbounded_channel();
        let outbox = Self {
            queue,
            room: Arc::new(Semaphore::new(MOST_BYTES)),
        };
        (outbox, runtime::spawn("nats outbox", send(client, items)))
    }

    /// Publishes as soon as the server can be reached; messages keep their order.
    ///
    /// # Errors
    /// When the subject is none, or more than 8 MiB would wait.
    pub fn publish(&self, subject: String, payload: Vec<u8>) -> Result<(), PublishError> {
        let bytes = cost(&subject, &payload)?;
        let room = Arc::clone(&self.room)
            .try_acquire_many_owned(bytes)
            .map_err(|_| PublishError::Full)?;
        self.push(subject, payload, room)
    }

    /// Publishes a reply: waits a while where [`publish`](Self::publish) would refuse.
    pub(super) async fn reply(
        &self,
        subject: String,
        payload: Vec<u8>,
    ) -> Result<(), PublishError> {
        let bytes = cost(&subject, &payload)?;
        let room = Arc::clone(&self.room).acquire_many_owned(bytes);
        match tokio::time::timeout(PATIENCE, room).await {
            Ok(Ok(room)) => self.push(subject, payload, room),
            Ok(Err(_)) | Err(_) => Err(PublishError::Full),
        }
    }

    /// Refuses what comes from now on. The task ends when everything before is sent.
    pub(super) fn close(&self) {
        // Where nobody listens any more it is closed already.
        let _ = self.queue.send(Item::Close);
    }

    fn push(
        &self,
        subject: String,
        payload: Vec<u8>,
        room: OwnedSemaphorePermit,
    ) -> Result<(), PublishError> {
        let item = Item::Message {
            subject,
            payload: payload.into(),
            _room: room,
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
        Ok(cost) if bytes <= MOST_BYTES => Ok(cost),
        _ => Err(PublishError::TooLarge(payload.len())),
    }
}

/// Sends what is queued. Its room is free again when it is on its way to the server, not before.
async fn send(client: Client, mut items: mpsc::UnboundedReceiver<Item>) {
    let mut batch = Vec::with_capacity(BATCH);
    while items.recv_many(&mut batch, BATCH).await > 0 {
        let mut rooms = Vec::with_capacity(batch.len());
        let mut closed = false;
        for item in batch.drain(..) {
            let Item::Message {
                subject,
                payload,
                _room: room,
            } = item
            else {
                closed = true;
                break;
            };
            let bytes = payload.len();
            if let Err(error) = client.publish(subject, payload).await {
                tracing::warn!(%error, bytes, "a message was not published");
            }
            rooms.push(room);
        }
        // Without a server this waits for one.
        let lost = !rooms.is_empty() && client.flush().await.is_err();
        drop(rooms);
        if closed || lost {
            break;
        }
    }
}
