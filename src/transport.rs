//! The ways in: NATS and HTTPS. They carry bytes to whoever handles requests and know no action.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// What came of a request.
#[derive(Debug)]
pub struct Answer {
    /// The request's method, for the audit.
    pub method: String,
    /// The subject that the reply goes to; over HTTPS nobody looks at it.
    pub reply_to: String,
    /// The reply, serialised, within the limit that was given.
    pub body: Vec<u8>,
}

/// A request that cannot be understood: no reply is due over NATS, status 500 over HTTPS.
#[derive(Debug, thiserror::Error)]
#[error("the request cannot be understood: {reason}")]
pub struct Malformed {
    /// What is wrong with it, without any of its contents.
    pub reason: String,
}

/// Handles one request: its bytes, and the most bytes that the reply may have.
pub type Handle = Arc<
    dyn Fn(Bytes, Option<usize>) -> BoxFuture<'static, Result<Answer, Malformed>> + Send + Sync,
>;
