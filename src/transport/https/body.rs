//! Reads the body of a request from a client that may be slow or malicious.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

/// The maximum pause of a client within a body.
const IDLE_LIMIT: Duration = Duration::from_secs(20);

/// The body of a request.
#[derive(Debug)]
pub(super) struct RequestBody(Incoming);

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestBodyError {
    /// The connection broke, or the body is not valid HTTP.
    #[error("failed to read the body of the request")]
    Broken(#[source] hyper::Error),
    /// The client stopped sending.
    #[error("the client sent no data for {} s", IDLE_LIMIT.as_secs())]
    Idle,
    /// The body is too large.
    #[error("the body of the request has more than {limit} bytes")]
    TooLarge {
        /// The maximum length in bytes.
        limit: usize,
    },
}

impl RequestBody {
    pub(super) fn new(body: Incoming) -> Self {
        Self(body)
    }

    /// The length that the client announced, in bytes; 0 if none.
    pub(super) fn announced(&self) -> u64 {
        self.0.size_hint().lower()
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, RequestBodyError> {
        loop {
            let frame = tokio::time::timeout(IDLE_LIMIT, self.0.frame());
            match frame.await.map_err(|_| RequestBodyError::Idle)? {
                None => return Ok(None),
                Some(Err(error)) => return Err(RequestBodyError::Broken(error)),
                // Skip trailers.
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// Reads the whole body into memory.
    pub(super) async fn whole(mut self, limit: usize) -> Result<Bytes, RequestBodyError> {
        if self.announced() > limit as u64 {
            return Err(RequestBodyError::TooLarge { limit });
        }
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            if whole.len() + bytes.len() > limit {
                return Err(RequestBodyError::TooLarge { limit });
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }
}
