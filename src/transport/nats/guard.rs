//! Ends the agent's NATS client if the server sends too much data besides the requests of Directors; the daemon then starts a new client.
//! Connects again after a server has denied the subscription.
//!
//! The client library does not limit its buffers: a message may have any length that the server announces, and answers stay in memory if
//! the server does not read them. The library also keeps a connection on which the subscription was denied.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, Statistics};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pool::Pool;
use super::requests::Requests;

/// The maximum number of bytes that a server may send in addition to requests. A Director's server accepts messages of at most 1 MiB.
const LIMIT: u64 = 16 << 20;

/// In each interval, this many bytes besides requests are ignored: 3,840 bytes a minute. Lines that carry no request, such as pings, need
/// about 100 bytes a minute.
const FORGIVEN: u64 = 16;

/// The interval of the checks.
const INTERVAL: Duration = Duration::from_millis(250);

/// The pause before the agent connects again after its subscription was denied. It doubles with each denial, up to [`MAX_DENIED_PAUSE`], and
/// is reset after a minute without a denial.
const DENIED_PAUSE: Duration = Duration::from_secs(1);

/// The maximum pause after a denial.
const MAX_DENIED_PAUSE: Duration = Duration::from_secs(30);

/// Counters of all connections.
#[derive(Debug, Clone, Copy, Default)]
struct Received {
    /// The bytes of requests.
    requests: u64,
    /// All bytes.
    bytes: u64,
    connects: u64,
}

impl Received {
    fn of(requests: &Requests, statistics: &Statistics) -> Self {
        Self {
            // This counter is read before `in_bytes`, so that `in_bytes` includes all requests that are counted here.
            requests: requests.bytes(),
            bytes: statistics.in_bytes.load(Ordering::Relaxed),
            connects: statistics.connects.load(Ordering::Relaxed),
        }
    }
}

/// The excess bytes of the current connection.
#[derive(Debug, Default)]
struct Excess {
    last: Received,
    bytes: u64,
}

impl Excess {
    /// Adds what was received in an interval. Returns whether it is too much.
    fn add(&mut self, now: Received) -> bool {
        let last = std::mem::replace(&mut self.last, now);
        if now.connects != last.connects {
            self.bytes = 0;
            return false;
        }
        let received = now.bytes.saturating_sub(last.bytes);
        let requests = now.requests.saturating_sub(last.requests);
        self.bytes = (self.bytes.saturating_add(received)).saturating_sub(requests + FORGIVEN);
        self.bytes > LIMIT
    }
}

/// Ends the client, by canceling the token `end`, if the server sends too much data besides requests. Calling `force_reconnect` would not
/// help: while data arrives, the library does not process such calls.
pub(super) async fn guard(statistics: Arc<Statistics>, pool: Arc<Pool>, end: CancellationToken) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut excess = Excess::default();
    loop {
        interval.tick().await;
        if excess.add(Received::of(&pool.requests, &statistics)) {
            tracing::warn!(
                server = pool.current(),
                bytes = excess.bytes,
                "the message bus sends too much data that is not part of requests: closing the connection"
            );
            end.cancel();
            return;
        }
    }
}

/// Connects again, after a pause, when a server has denied the subscription: an operator may have corrected the permissions meanwhile.
/// `denied` has the number of the last connection on which this happened.
pub(super) async fn reconnect_after_denials(
    client: Client,
    pool: Arc<Pool>,
    mut denied: watch::Receiver<u64>,
) {
    let mut pause = DENIED_PAUSE;
    loop {
        let since = Instant::now();
        if denied.changed().await.is_err() {
            return;
        }
        let connection = *denied.borrow_and_update();
        if since.elapsed() > 2 * MAX_DENIED_PAUSE {
            pause = DENIED_PAUSE;
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(MAX_DENIED_PAUSE);
        // Another connection may have been established meanwhile.
        if pool.connects() == connection && client.force_reconnect().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the client is ended after at most this many intervals. In each of them, it receives `requests` bytes that belong to requests
    /// and `others` other bytes.
    fn is_ended(intervals: u64, requests: u64, others: u64) -> bool {
        let mut excess = Excess::default();
        (0..=intervals).any(|number| {
            excess.add(Received {
                requests: number * requests,
                bytes: number * (requests + others),
                connects: 1,
            })
        })
    }

    #[test]
    fn small_requests_between_floods_do_not_keep_a_connection() {
        let flood = 8 << 20;
        for request in [0, 100, 10_000] {
            assert!(!is_ended(2, request, flood));
            assert!(is_ended(3, request, flood));
        }
    }

    #[test]
    fn requests_and_the_lines_of_the_protocol_never_end_a_connection() {
        let year = 365 * 24 * 3600 * 4;
        assert!(!is_ended(100_000, 100 << 20, 10));
        assert!(!is_ended(year, 0, 10));
    }

    #[test]
    fn large_request_may_arrive_in_parts() {
        let mut excess = Excess::default();
        for number in 1..=100 {
            for part in [5, 10] {
                let bytes = (number * 10 + part) << 20;
                let requests = (number * 10) << 20;
                assert!(!excess.add(Received {
                    requests,
                    bytes,
                    connects: 1
                }));
            }
        }
    }

    #[test]
    fn new_connection_begins_without_excess() {
        let mut excess = Excess::default();
        for connects in 1..100 {
            for bytes in [connects * 2, connects * 2 + 1] {
                assert!(!excess.add(Received {
                    requests: 0,
                    bytes: bytes * LIMIT,
                    connects
                }));
            }
        }
    }
}
