//! The ways in: NATS and HTTPS. They carry bytes to whoever handles requests and know no action.

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

/// The message bus as the settings describe it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bus {
    /// Where it is. The first one's scheme says what it is; several are servers of one cluster.
    pub urls: Vec<Secret>,
    /// The authorities that may have issued the server's certificate, PEM; the system's where this is empty.
    pub ca: String,
    /// The certificate that the agent shows, PEM: as a client to NATS, as the server over HTTPS.
    pub certificate: String,
    /// Its key, PEM: PKCS#1, PKCS#8 or SEC1.
    pub private_key: Secret,
}

impl Bus {
    /// Which of the two ways in this bus is.
    ///
    /// # Errors
    /// When the first URL is missing, has another scheme, or is none.
    pub fn scheme(&self) -> Result<Scheme, TransportError> {
        Ok(url::BusUrl::first(&self.urls)?.scheme)
    }
}

/// What is wrong with a message bus that can never work as it was described.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The first URL is neither `nats` nor `https`. The Go agent's words.
    #[error("Message Bus Handler with scheme {scheme} could not be found")]
    Scheme {
        /// What it is instead.
        scheme: String,
    },
    /// Something that is no URL, or lacks a part.
    #[error("URL {position} of the message bus cannot be used: {problem}")]
    Url {
        /// Which of the URLs, from 1.
        position: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The agent's id cannot be part of a subject.
    #[error("the agent's id cannot be part of a NATS subject: {problem}")]
    AgentId {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The certificates or the key.
    #[error("the message bus's certificates cannot be used")]
    Tls(#[source] TlsError),
    /// The client library refused what it was given.
    #[error("the NATS client cannot start")]
    Client(#[source] async_nats::Error),
    /// The address cannot be listened on.
    #[error("{address} cannot be listened on")]
    Listen {
        /// Host and port.
        address: String,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The place for blobs cannot be used.
    #[error("the directory of uploaded blobs cannot be used")]
    Blobs(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The part that takes connections ended by itself, which is a bug.
    #[error("the listener ended")]
    ListenerEnded,
}
