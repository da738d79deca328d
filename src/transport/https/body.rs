//! A request's body, piece by piece, from a client that may be slow or lie.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

/// How long a client may send nothing in the middle of a body.
const IDLE_LIMIT: Duration = Duration::from_secs(20);

/// The body of a request.
#[derive(Debug)]
pub(super) struct Body(Incoming);

/// A body that did not arrive whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// The connection broke, or what came is no HTTP.
    #[error("the request's body cannot be read")]
    Broken(#[source] hyper::Error),
    /// The client stopped sending.
    #[error("the client sent nothing more for {} s", IDLE_LIMIT.as_secs())]
    Idle,
    /// It is larger than it may be.
    #[error("the request's body has more than {limit} bytes")]
    TooLarge {
        /// The most that it may have.
        limit: usize,
    },
}

impl Body {
    pub(super) fn new(body: Incoming) -> Self {
        Self(body)
    }

    /// How many bytes the client has said that it will send, 0 when it has not.
    pub(super) fn announced(&self) -> u64 {
        self.0.size_hint().lower()
    }

    /// The next bytes, `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let frame = tokio::time::timeout(IDLE_LIMIT, self.0.frame());
            match frame.await.map_err(|_| BodyError::Idle)? {
                None => return Ok(None),
                Some(Err(error)) => return Err(BodyError::Broken(error)),
                // What is no data are trailers.
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// All of it, in memory.
    pub(super) async fn whole(mut self, limit: usize) -> Result<Bytes, BodyError> {
        if self.announced() > limit as u64 {
            return Err(BodyError::TooLarge { limit });
        }
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            if whole.len() + bytes.len() > limit {
                return Err(BodyError::TooLarge { limit });
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }
}
