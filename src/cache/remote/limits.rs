//! The time limits of operations on shared caches.

use std::time::Duration;

use crate::http::Timeouts;

/// The lowest acceptable transfer rate in bytes per second.
const SLOWEST: u64 = 1 << 20;

/// The time limits of a shared cache.
#[derive(Debug, Clone, Copy)]
pub(in crate::cache) struct Limits {
    /// For finding one entry, and for the part of a transfer that does not depend on the size.
    pub(super) base: Duration,
    /// For all searches for entries in a run together.
    pub(super) lookups: Duration,
    /// For all failed operations together.
    pub(super) patience: Duration,
    /// For the individual steps of a download.
    pub(super) fetching: Timeouts,
    /// For the individual steps of an upload. A server may need some time to confirm a large file.
    pub(super) storing: Timeouts,
}

impl Limits {
    /// The limits that the agent uses. Tests use shorter ones.
    pub(in crate::cache) const USUAL: Self = {
        let fetching = Timeouts {
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(5),
            stall: Duration::from_secs(10),
            expect: Duration::from_secs(1),
        };
        Self {
            base: Duration::from_secs(15),
            lookups: Duration::from_secs(30),
            patience: Duration::from_secs(30),
            fetching,
            storing: Timeouts {
                stall: Duration::from_secs(30),
                ..fetching
            },
        }
    };

    /// The time limit for transferring this number of bytes.
    pub(super) fn transfer(&self, size: u64) -> Duration {
        self.base + Duration::from_secs(size / SLOWEST)
    }
}

/// The time limit for transferring this number of bytes at the lowest acceptable rate.
#[must_use]
pub fn time_limit(size: u64) -> Duration {
    Limits::USUAL.transfer(size)
}
