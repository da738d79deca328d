//! Writes the steps of packages to the debug log (`BOSH_AGENT_LOG=debug`), each with its package and its duration.

use std::time::{Duration, Instant};

use crate::release::Name;

/// A running step of a package's compilation.
#[derive(Debug)]
pub(super) struct Step<'a> {
    package: &'a Name,
    start: Instant,
}

impl<'a> Step<'a> {
    pub(super) fn of(package: &'a Name) -> Self {
        Self {
            package,
            start: Instant::now(),
        }
    }

    /// Logs the step as done.
    pub(super) fn done(self, what: &str) {
        let Self { package, start } = self;
        let ms = milliseconds(start.elapsed());
        tracing::debug!(%package, ms, "{what}");
    }

    /// Logs the step as done, with the bytes that it read or wrote.
    pub(super) fn done_with_bytes(self, what: &str, bytes: u64) {
        let Self { package, start } = self;
        let ms = milliseconds(start.elapsed());
        tracing::debug!(%package, ms, bytes, "{what}");
    }
}

/// Whole milliseconds.
fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}
