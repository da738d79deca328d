//! The time limits of shared caches.

use std::time::Duration;

use crate::http::Timeouts;

/// The lowest rate at which a content is transferred, in bytes per second. A slower server is not worth waiting for.
const SLOWEST: u64 = 1 << 20;

/// The time limits of a shared cache.
#[derive(Debug, Clone, Copy)]
pub(in crate::cache) struct Limits {
    /// For a description, and for the part of a transfer that does not depend on its size.
    pub(super) base: Duration,
    /// For all descriptions of a run.
    pub(super) lookups: Duration,
    /// For all operations that fail.
    pub(super) patience: Duration,
    /// For the steps of a download.
    pub(super) fetching: Timeouts,
    /// For the steps of an upload. A server may need a moment to confirm a large file.
    pub(super) storing: Timeouts,
}

impl Limits {
    /// The limits of the product.
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

    /// For the transfer of a content of this size, or of several.
    pub(super) fn transfer(&self, size: u64) -> Duration {
        self.base + Duration::from_secs(size / SLOWEST)
    }
}

/// How long the transfer of a content of this size may take.
#[must_use]
pub fn time_limit(size: u64) -> Duration {
    Limits::USUAL.transfer(size)
}
