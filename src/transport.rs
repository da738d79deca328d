//! NATS and HTTPS. They receive requests as bytes, pass them to a handler and send its replies; they do not know any action.

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
mod throttle;
mod tls;
mod url;

pub use self::https::Https;
pub use self::nats::Nats;
pub use self::url::Scheme;

/// Handles one request, given its bytes and the maximum length of the reply. An invalid request gets no reply over NATS, and status
/// 500 over HTTPS.
pub type Handle = Arc<
    dyn Fn(Bytes, Option<usize>) -> BoxFuture<'static, Result<Answer, InvalidRequest>>
        + Send
        + Sync,
>;

/// The message bus of the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BusOptions {
    /// The URLs. The scheme of the first one selects NATS or HTTPS. Several URLs are servers of one NATS cluster.
    pub urls: Vec<Secret>,
    /// The CA certificates for the server's certificate, in PEM. If empty, the system's are used.
    pub ca: String,
    /// The agent's certificate in PEM: the client certificate for NATS, the server certificate for HTTPS.
    pub certificate: String,
    /// The key of the certificate in PEM: PKCS#1, PKCS#8 or SEC1.
    pub private_key: Secret,
}

impl BusOptions {
    /// The scheme of the first URL.
    ///
    /// # Errors
    /// The first URL is missing, is invalid or has another scheme.
    pub fn scheme(&self) -> Result<Scheme, TransportError> {
        Ok(url::BusUrl::first(&self.urls)?.scheme)
    }
}

/// Why a message bus is unusable. Retrying does not help.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The scheme of the first URL is neither `nats` nor `https`. The message is the Go agent's.
    #[error("Message Bus Handler with scheme {scheme} could not be found")]
    Scheme {
        /// The actual scheme; empty if it may be a secret.
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
    /// The agent's ID cannot be part of a subject.
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
    /// The directory of uploaded blobs cannot be created or read.
    #[error("the directory of uploaded blobs is unusable")]
    Blobs(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The task that accepts connections ended, which is a bug.
    #[error("the listener ended")]
    ListenerEnded,
}
