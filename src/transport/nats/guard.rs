//! Closes connections over which no requests arrive, so that the client connects again.
//!
//! The client library buffers a message until it is complete, whatever length the server has
//! announced, and answers that the server does not read. It also keeps a connection whose server
//! has denied the subscription.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, Statistics};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pool::Pool;

/// The maximum number of bytes that a server may send without completing a message. A Director's
/// server accepts messages of at most 1 MiB, and the other lines of the protocol have about a
/// hundred bytes a minute.
const LIMIT: u64 = 16 << 20;

/// The interval of the checks.
const INTERVAL: Duration = Duration::from_millis(250);

/// The pause before the agent connects again after its subscription was denied. It doubles with each denial.
const DENIED_PAUSE: Duration = Duration::from_secs(1);

/// The maximum pause after a denial.
const MAX_DENIED_PAUSE: Duration = Duration::from_secs(30);

/// Counters of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Received {
    messages: u64,
    bytes: u64,
    connects: u64,
}

impl Received {
    fn of(statistics: &Statistics) -> Self {
        Self {
            messages: statistics.in_messages.load(Ordering::Relaxed),
            bytes: statistics.in_bytes.load(Ordering::Relaxed),
            connects: statistics.connects.load(Ordering::Relaxed),
        }
    }

    /// Whether the last complete message, or the start of the connection, is too many bytes ago.
    fn is_excessive(self, last: Self) -> bool {
        self.bytes.saturating_sub(last.bytes) > LIMIT
    }
}

/// Cancels `end`, which ends the client, if the server sends too much. The library itself handles no
/// commands while it has something to read.
pub(super) async fn guard(statistics: Arc<Statistics>, pool: Arc<Pool>, end: CancellationToken) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = Received::of(&statistics);
    loop {
        interval.tick().await;
        let now = Received::of(&statistics);
        if (now.messages, now.connects) != (last.messages, last.connects) {
            last = now;
        } else if now.is_excessive(last) {
            tracing::warn!(
                server = pool.current(),
                bytes = now.bytes - last.bytes,
                "the message bus sends no complete message: closing the connection"
            );
            end.cancel();
            return;
        }
    }
}

/// Connects again, after a pause, when a server has denied the subscription. Its permissions may have been
/// repaired since. `denied` is the number of the connection.
pub(super) async fn resubscribe(client: Client, pool: Arc<Pool>, mut denied: watch::Receiver<u64>) {
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
