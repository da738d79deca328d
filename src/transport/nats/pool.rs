//! Decides which NATS server the client connects to next, and when. The client library asks for
//! this before each attempt.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{ReconnectToServer, Server, ServerAddr, Statistics};
use tokio_util::sync::CancellationToken;

use super::requests::Requests;
use super::texts::ServerTexts;
use crate::transport::throttle::Throttle;

/// The pause after trying all servers without success. It grows by this time with each further
/// pass, as in the Go agent.
const PAUSE: Duration = Duration::from_secs(2);

/// The maximum pause between two passes, as in the Go agent.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// The servers of the message bus.
#[derive(Debug)]
pub(super) struct Pool {
    servers: Vec<ServerAddr>,
    rotation: Mutex<Rotation>,
    last: Mutex<Option<Attempt>>,
    statistics: OnceLock<Arc<Statistics>>,
    /// Counts the requests that the servers have sent.
    pub(super) requests: Requests,
    logged: Throttle,
    texts: ServerTexts,
    stop: CancellationToken,
    /// Canceled when another connection has replaced this one. Its failures are then logged at the level `debug`.
    retired: CancellationToken,
}

/// An attempt to connect. Its result is known when the library asks for the next attempt.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    /// The index of the server.
    server: usize,
    /// The library's number of successful connections before this attempt.
    connects: u64,
    /// The library's number of failed attempts for this server before this attempt.
    failures: usize,
}

impl Pool {
    /// Starts with a random server, so that agents are distributed over all servers.
    pub(super) fn new(
        mut servers: Vec<ServerAddr>,
        texts: ServerTexts,
        stop: CancellationToken,
    ) -> Self {
        if !servers.is_empty() {
            let start = uuid::Uuid::new_v4().as_u128() % servers.len() as u128;
            servers.rotate_left(usize::try_from(start).unwrap_or(0));
        }
        Self {
            rotation: Mutex::new(Rotation::new(servers.len())),
            servers,
            last: Mutex::new(None),
            statistics: OnceLock::new(),
            requests: Requests::default(),
            logged: Throttle::default(),
            texts,
            retired: stop.child_token(),
            stop,
        }
    }

    /// All servers, as the library needs them.
    pub(super) fn servers(&self) -> Vec<ServerAddr> {
        self.servers.clone()
    }

    /// Sets the library's counters, which are created after this pool.
    pub(super) fn set_statistics(&self, statistics: Arc<Statistics>) {
        let _ = self.statistics.set(statistics);
    }

    /// The number of successful connections.
    pub(super) fn connects(&self) -> u64 {
        self.statistics
            .get()
            .map_or(0, |statistics| statistics.connects.load(Ordering::Relaxed))
    }

    /// From now on, logs failures at the level `debug`.
    pub(super) fn retire(&self) {
        self.retired.cancel();
    }

    /// Whether the connection was retired or stopped.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.is_cancelled()
    }

    /// Host and port of the current server; empty before the first attempt.
    pub(super) fn current(&self) -> String {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.map_or_else(String::new, |attempt| {
            address(&self.servers[attempt.server])
        })
    }

    /// Selects the next server, and the pause before the attempt. `known` is the library's state of
    /// the servers. After a stop, this never returns, because the library offers no other way to
    /// end the attempts.
    pub(super) async fn next(&self, known: Vec<Server>) -> Option<ReconnectToServer> {
        if self.stop.is_cancelled() {
            std::future::pending::<()>().await;
        }
        let connects = self.connects();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let connected = last.is_some_and(|attempt| attempt.connects != connects);
        if let Some(attempt) = *last
            && !connected
        {
            self.log_failure(attempt, &known);
        }
        let (server, delay) = self
            .rotation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next(connected, Instant::now());
        let addr = self.servers[server].clone();
        *last = Some(Attempt {
            server,
            connects,
            failures: find(&known, &addr).map_or(0, |server| server.failed_attempts),
        });
        Some(ReconnectToServer {
            addr,
            delay: Some(delay),
        })
    }

    fn log_failure(&self, attempt: Attempt, known: &[Server]) {
        let addr = &self.servers[attempt.server];
        let reason = find(known, addr)
            .filter(|server| server.failed_attempts != attempt.failures)
            .and_then(|server| server.last_error.as_deref())
            // The library records all other errors itself.
            .unwrap_or("failed to resolve the host name");
        let reason = self.texts.shown(&explained(reason));
        let server = address(addr);
        if self.is_retired() {
            tracing::debug!(server, reason, "failed to connect a replaced connection");
        } else if self.logged.should_log(&format!("{server} {reason}")) {
            tracing::warn!(
                server,
                reason,
                "failed to connect to the message bus; retrying"
            );
        }
    }
}

/// Adds the setting to compare if a reason of the TLS library does not suggest it.
fn explained(reason: &str) -> Cow<'_, str> {
    let errors = ["UnknownIssuer", "BadSignature"];
    match errors.iter().any(|error| reason.contains(error)) {
        true => format!("{reason}: `env.bosh.mbus.cert.ca` did not sign the server's certificate")
            .into(),
        false => reason.into(),
    }
}

fn find<'a>(known: &'a [Server], addr: &ServerAddr) -> Option<&'a Server> {
    known.iter().find(|server| server.addr == *addr)
}

fn address(server: &ServerAddr) -> String {
    format!("{}:{}", server.host(), server.port())
}

/// The order of attempts: all servers without a pause in between, then a pause before the next
/// pass.
#[derive(Debug)]
struct Rotation {
    servers: usize,
    /// The number of attempts in this pass.
    tried: usize,
    /// The number of complete passes without a connection.
    passes: u32,
    current: usize,
    started: Option<Instant>,
}

impl Rotation {
    fn new(servers: usize) -> Self {
        Self {
            servers: servers.max(1),
            tried: 0,
            passes: 0,
            current: 0,
            started: None,
        }
    }

    /// Selects the next server and the pause. `connected` means that the last attempt succeeded,
    /// and the connection was lost later.
    fn next(&mut self, connected: bool, now: Instant) -> (usize, Duration) {
        let mut delay = Duration::ZERO;
        if connected {
            self.tried = 0;
            self.passes = 0;
            // Do not reconnect at once to servers that close each new connection.
            if self
                .started
                .is_some_and(|started| now.duration_since(started) < PAUSE)
            {
                delay = PAUSE;
            }
        }
        if self.tried == self.servers {
            self.tried = 0;
            self.passes = self.passes.saturating_add(1);
            delay = PAUSE.saturating_mul(self.passes).min(MAX_PAUSE);
        }
        if self.started.is_some() {
            self.current = (self.current + 1) % self.servers;
        }
        self.tried += 1;
        self.started = Some(now + delay);
        (self.current, delay)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn delays(rotation: &mut Rotation, count: usize) -> Vec<u64> {
        (0..count)
            .map(|_| rotation.next(false, Instant::now()).1.as_secs())
            .collect()
    }

    #[test]
    fn unknown_certificates_name_the_setting_to_compare() {
        let reason = "invalid peer certificate: BadSignature";
        let setting = ": `env.bosh.mbus.cert.ca` did not sign the server's certificate";
        assert_eq!(explained(reason), format!("{reason}{setting}"));
        assert_eq!(explained("connection refused"), "connection refused");
    }

    #[test]
    fn pause_grows_to_ten_seconds() {
        assert_eq!(
            delays(&mut Rotation::new(1), 8),
            [0, 2, 4, 6, 8, 10, 10, 10]
        );
        assert_eq!(delays(&mut Rotation::new(3), 8), [0, 0, 0, 2, 0, 0, 4, 0]);
    }

    #[test]
    fn no_attempt_follows_a_stop() {
        let stop = CancellationToken::new();
        let servers = vec!["nats://a:1".parse().unwrap()];
        let pool = Pool::new(servers, ServerTexts::default(), stop.clone());
        let next = pool.next(Vec::new()).now_or_never();
        assert_eq!(next.flatten().unwrap().delay, Some(Duration::ZERO));
        assert_eq!(pool.current(), "a:1");
        stop.cancel();
        assert!(pool.next(Vec::new()).now_or_never().is_none());
    }

    #[test]
    fn servers_are_tried_in_order() {
        let mut rotation = Rotation::new(3);
        let order: Vec<_> = (0..6)
            .map(|_| rotation.next(false, Instant::now()).0)
            .collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn lost_connection_is_retried_without_a_busy_loop() {
        let mut rotation = Rotation::new(1);
        let start = Instant::now();
        delays(&mut rotation, 4);
        let later = start + Duration::from_secs(3600);
        assert_eq!(rotation.next(true, later).1, Duration::ZERO);
        let soon = later + Duration::from_millis(5);
        assert_eq!(rotation.next(true, soon).1, PAUSE);
        assert_eq!(rotation.next(true, soon + PAUSE).1, PAUSE);
    }
}
