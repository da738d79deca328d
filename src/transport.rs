//! The two message buses over which a Director or the CLI reaches the agent: NATS and HTTPS. A
//! transport receives requests as bytes, passes them to a handler and sends the handler's replies.
//! It does not know the methods of requests.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use crate::agent::Answer;
pub use crate::agent::protocol::InvalidRequest;

use crate::config::Secret;
use crate::tls::TlsError;

mod audit;
pub mod https;
pub mod nats;
mod syslog;
mod throttle;
mod tls;
mod url;

pub(crate) use self::audit::send_to_syslog;
pub use self::https::Https;
pub use self::nats::Nats;
pub use self::url::Scheme;

/// A function that handles one request. Its arguments are the bytes of the request and the maximum
/// length of the reply. For an invalid request, NATS sends no reply, and HTTPS responds with status
/// 500.
pub type Handle = Arc<
    dyn Fn(Bytes, Option<usize>) -> BoxFuture<'static, Result<Answer, InvalidRequest>>
        + Send
        + Sync,
>;

/// The message bus in the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BusOptions {
    /// The URLs. The scheme of the first one selects NATS or HTTPS. Several URLs are servers of one NATS cluster.
    pub urls: Vec<Secret>,
    /// The CA certificates (PEM) that verify the server's certificate. If empty, the system's CA
    /// certificates are used.
    pub ca: String,
    /// The agent's certificate in PEM: the client certificate for NATS, the server certificate for HTTPS.
    pub certificate: String,
    /// The private key of the certificate in PEM: PKCS#1, PKCS#8 or SEC1.
    pub private_key: Secret,
}

impl BusOptions {
    /// The scheme of the first URL.
    ///
    /// # Errors
    /// If the first URL is missing or invalid, or has another scheme.
    pub fn scheme(&self) -> Result<Scheme, TransportError> {
        Ok(url::BusUrl::first(&self.urls)?.scheme)
    }

    /// Checks all URLs.
    ///
    /// # Errors
    /// If a URL is missing, invalid, or has another scheme than the first one.
    pub(crate) fn check_urls(&self) -> Result<(), TransportError> {
        match self.scheme()? {
            Scheme::Nats => url::BusUrl::nats(&self.urls).map(drop),
            Scheme::Https => Ok(()),
        }
    }
}

/// Why a message bus cannot be used. None of these errors is temporary.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The scheme of the first URL is neither `nats` nor `https`. The message is the Go agent's.
    #[error("Message Bus Handler with scheme {scheme} could not be found")]
    Scheme {
        /// The scheme; empty if it may be a secret.
        scheme: String,
    },
    /// A URL is invalid or lacks a part.
    #[error("URL {position} of the message bus is invalid: {problem}")]
    Url {
        /// The position in the list of URLs, from 1.
        position: usize,
        /// The problem.
        problem: &'static str,
    },
    /// The agent's ID cannot be part of a NATS subject.
    #[error("the agent's ID cannot be part of a NATS subject: {problem}")]
    AgentId {
        /// The problem.
        problem: &'static str,
    },
    /// The certificates or the key are invalid.
    #[error("the certificates of the message bus are unusable")]
    Tls(#[source] TlsError),
    /// The client library reported an error.
    #[error("failed to start the NATS client")]
    Client(#[source] async_nats::Error),
    /// The server cannot listen on its address.
    #[error("failed to listen on {address}")]
    Listen {
        /// Host and port.
        address: String,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The task that examines the directory of uploaded blobs panicked.
    #[error("the directory of uploaded blobs is unusable")]
    Blobs(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The task that accepts connections has ended, which is a bug.
    #[error("the listener ended")]
    ListenerEnded,
}
