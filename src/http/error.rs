//! Errors of requests without a complete response. A response with an error status is not such an
//! error.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;

use crate::tls::TlsError;

/// Why a request has no response, or an incomplete one. The texts contain no query, password or
/// header value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TCP connection could not be established.
    #[error("failed to connect to {server}")]
    Connect {
        /// Host and port.
        server: String,
        /// The error of the resolver or the system.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A proxy did not connect to the server.
    #[error("failed to connect to {server} through the proxy {proxy}")]
    Proxy {
        /// The proxy's host and port.
        proxy: String,
        /// The server's host and port.
        server: String,
        /// The proxy's response.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A step of the request exceeded its time limit.
    #[error("{step} {server} timed out after {} s", limit.as_secs_f32())]
    Timeout {
        /// The step, worded to precede the server's name: `the connection to`.
        step: &'static str,
        /// Host and port.
        server: String,
        /// The time limit.
        limit: Duration,
    },
    /// The client has no usable TLS configuration.
    #[error("HTTPS is unavailable")]
    TlsUnavailable(#[source] Arc<TlsError>),
    /// The server's certificate is not trusted, or there is no common version of TLS.
    #[error("the TLS handshake with {server} failed")]
    Handshake {
        /// Host and port.
        server: String,
        /// The reason.
        source: io::Error,
    },
    /// The URL or a header cannot be part of a request.
    #[error("failed to build the request")]
    Request(#[source] hyper::http::Error),
    /// The request could not be sent, or the response could not be read.
    #[error("no response to the request")]
    Exchange(#[source] hyper::Error),
    /// The connection ended before the end of the response.
    #[error("the response is incomplete")]
    Cut(#[source] hyper::Error),
    /// The body is longer than the caller's limit.
    #[error("the response is longer than {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A redirect cannot be followed.
    #[error("invalid redirect: {0}")]
    Redirect(&'static str),
}

impl Error {
    /// Whether a retry of the same request may succeed.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Proxy { .. } | Self::Timeout { .. } | Self::Cut(_) => true,
            // `is_user` means that the file to upload could not be read.
            Self::Exchange(error) => !error.is_user(),
            // An interrupted handshake may succeed later. An invalid certificate or host name stays
            // invalid.
            Self::Handshake { source, .. } => !matches!(
                source.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
            ),
            Self::TlsUnavailable(_)
            | Self::Request(_)
            | Self::TooLong { .. }
            | Self::Redirect(_) => false,
        }
    }
}

/// Whether a server or a proxy may accept the same request later.
pub(crate) fn is_busy(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// Whether an exceeded time limit is the cause of an error.
pub(crate) fn is_timeout(error: &(dyn StdError + 'static)) -> bool {
    let is_timed_out = |error: &(dyn StdError + 'static)| {
        error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
    };
    is_timed_out(error) || error.source().is_some_and(is_timeout)
}
