//! Counts the bytes of requests, for the guard against servers that send too much.

use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::Message;

/// The number of bytes of a request in the protocol, in addition to its subject and its payload, if the payload has three digits of length.
const FRAME: u64 = 14;

/// Counts the bytes of the requests that the agent has received.
#[derive(Debug, Default)]
pub(super) struct Requests(AtomicU64);

impl Requests {
    pub(super) fn count(&self, request: &Message) {
        let bytes = request.length as u64 + FRAME;
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
