//! The time limits for the steps of a request.

use std::time::Duration;

/// The time limits for the steps of a request. A request as a whole has no limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// For establishing a TCP connection, including name resolution, and for a proxy to connect to
    /// the server.
    pub connect: Duration,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For waiting while no byte is transferred in either direction. A server may need a minute to
    /// confirm an upload of some GB.
    pub stall: Duration,
    /// For waiting for "100 Continue" before the body of an upload is sent. Some servers never send
    /// it; the body is then sent after this time.
    pub expect: Duration,
}

impl Default for Timeouts {
    /// The values of the Go agent, except `stall`: the Go agent has no limit for a silent peer.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            handshake: Duration::from_secs(30),
            stall: Duration::from_secs(300),
            expect: Duration::from_secs(1),
        }
    }
}
