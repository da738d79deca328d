//! Time limits of a request's steps.

use std::time::Duration;

/// How long each step of a request may take. There is no limit for a request as a whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// For a TCP connection including name resolution, and for a proxy to connect to the server.
    pub connect: Duration,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// Without a byte in either direction while the client waits for one. A server may need a minute to confirm an upload of some GB.
    pub stall: Duration,
    /// For "100 Continue" before the body of an upload is sent. Some servers never send it: the body is sent when the time is over.
    pub expect: Duration,
}

impl Default for Timeouts {
    /// The Go agent's values; it has no limit for a silent peer.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            handshake: Duration::from_secs(30),
            stall: Duration::from_secs(300),
            expect: Duration::from_secs(1),
        }
    }
}
