//! What goes wrong with a request, short of an answer that says no.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::tls::TlsError;

/// A request without an answer, or with half of one. None of its texts has a query, a password or a header's value in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("failed to connect to {server}")]
    Connect {
        /// Host and port.
        server: String,
        /// What the system or the resolver answered.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A proxy did not let us through.
    #[error("the proxy {proxy} does not connect us to {server}")]
    Proxy {
        /// The proxy's host and port.
        proxy: String,
        /// The server's host and port.
        server: String,
        /// What the proxy answered.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A step on the way to a connection took too long.
    #[error("{what} with {server} took longer than {} s", limit.as_secs_f32())]
    Slow {
        /// The step.
        what: &'static str,
        /// Host and port.
        server: String,
        /// How long it may take.
        limit: Duration,
    },
    /// HTTPS is impossible with what we have.
    #[error("HTTPS cannot be used")]
    NoTls(#[source] Arc<TlsError>),
    /// The server is not whom we trust, or does not speak TLS as we do.
    #[error("failed to agree on TLS with {server}")]
    Tls {
        /// Host and port.
        server: String,
        /// What is wrong.
        source: io::Error,
    },
    /// The URL or a header cannot be written into a request.
    #[error("the request cannot be written")]
    Request(#[source] hyper::http::Error),
    /// The request could not be sent, or its answer not be read.
    #[error("no answer to the request")]
    Exchange(#[source] hyper::Error),
    /// The connection ended before the answer did.
    #[error("the answer is cut short")]
    Cut(#[source] hyper::Error),
    /// An answer that should be small is not.
    #[error("the answer is longer than {limit} bytes")]
    TooLong {
        /// How long it may be.
        limit: usize,
    },
    /// The server sends us elsewhere, but not to a place that we can go to.
    #[error("a redirect leads nowhere: {0}")]
    Redirect(&'static str),
}

impl Error {
    /// Whether the same request may well succeed in a moment.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Proxy { .. } | Self::Slow { .. } | Self::Cut(_) => true,
            // An upload's file that cannot be read is our fault and stays so.
            Self::Exchange(error) => !error.is_user(),
            // A handshake that was cut may succeed; a certificate stays as it is, and so does a host's name.
            Self::Tls { source, .. } => !matches!(
                source.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
            ),
            Self::NoTls(_) | Self::Request(_) | Self::TooLong { .. } | Self::Redirect(_) => false,
        }
    }
}
