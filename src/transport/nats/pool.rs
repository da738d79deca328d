//! Which server is tried next, and when. The client library asks before each attempt.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{ReconnectToServer, Server, ServerAddr, Statistics};
use tokio_util::sync::CancellationToken;

use crate::transport::throttle::Throttle;

/// How much longer each pause between two passes over the servers is than the one before, up to the longest. Those of
/// the Go agent.
const PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The servers of the bus.
#[derive(Debug)]
pub(super) struct Pool {
    servers: Vec<ServerAddr>,
    turns: Mutex<Turns>,
    last: Mutex<Option<Attempt>>,
    statistics: OnceLock<Arc<Statistics>>,
    refusals: Throttle,
    stop: CancellationToken,
}

/// What is remembered of an attempt until the next one tells how it ended.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    server: usize,
    connects: u64,
    failures: usize,
}

impl Pool {
    /// The servers in an order of their own, so that many agents spread over them.
    pub(super) fn new(mut servers: Vec<ServerAddr>, stop: CancellationToken) -> Self {
        if !servers.is_empty() {
            let start = uuid::Uuid::new_v4().as_u128() % servers.len() as u128;
            servers.rotate_left(usize::try_from(start).unwrap_or(0));
        }
        Self {
            turns: Mutex::new(Turns::new(servers.len())),
            servers,
            last: Mutex::new(None),
            statistics: OnceLock::new(),
            refusals: Throttle::default(),
            stop,
        }
    }

    /// All servers, for the client library.
    pub(super) fn servers(&self) -> Vec<ServerAddr> {
        self.servers.clone()
    }

    /// Tells where the library counts its connections, which exists only after its start.
    pub(super) fn count_with(&self, statistics: Arc<Statistics>) {
        let _ = self.statistics.set(statistics);
    }

    /// Host and port of the server that was chosen last.
    pub(super) fn current(&self) -> String {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.map_or_else(String::new, |attempt| {
            address(&self.servers[attempt.server])
        })
    }

    /// The next server and the pause before it. `known` is what the library knows of the servers. Once the bus was
    /// stopped this never answers: the library has no other way to make it give up while no server takes it.
    pub(super) async fn next(&self, known: Vec<Server>) -> Option<ReconnectToServer> {
        if self.stop.is_cancelled() {
            std::future::pending::<()>().await;
        }
        let connects = self
            .statistics
            .get()
            .map_or(0, |statistics| statistics.connects.load(Ordering::Relaxed));
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let connected = last.is_some_and(|attempt| attempt.connects != connects);
        if let Some(attempt) = *last
            && !connected
        {
            self.tell_refusal(attempt, &known);
        }
        let (server, delay) = self
            .turns
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

    fn tell_refusal(&self, attempt: Attempt, known: &[Server]) {
        let addr = &self.servers[attempt.server];
        let reason = find(known, addr)
            .filter(|server| server.failed_attempts != attempt.failures)
            .and_then(|server| server.last_error.as_deref())
            // The library keeps no other failure to itself.
            .unwrap_or("its name cannot be resolved");
        let server = address(addr);
        if self.refusals.is_news(&format!("{server} {reason}")) {
            tracing::warn!(
                server,
                reason,
                "cannot connect to the message bus; trying on"
            );
        }
    }
}

fn find<'a>(known: &'a [Server], addr: &ServerAddr) -> Option<&'a Server> {
    known.iter().find(|server| server.addr == *addr)
}

fn address(server: &ServerAddr) -> String {
    format!("{}:{}", server.host(), server.port())
}

/// Goes through the servers in turn: at once within a pass, after a pause between two passes.
#[derive(Debug)]
struct Turns {
    servers: usize,
    /// Servers tried in this pass.
    tried: usize,
    /// Whole passes without a connection.
    passes: u32,
    current: usize,
    started: Option<Instant>,
}

impl Turns {
    fn new(servers: usize) -> Self {
        Self {
            servers: servers.max(1),
            tried: 0,
            passes: 0,
            current: 0,
            started: None,
        }
    }

    /// `connected` says whether the last attempt made a connection (which was then lost).
    fn next(&mut self, connected: bool, now: Instant) -> (usize, Duration) {
        let mut delay = Duration::ZERO;
        if connected {
            self.tried = 0;
            self.passes = 0;
            // A server that takes everybody in and throws them out at once.
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
            delay = PAUSE.saturating_mul(self.passes).min(LONGEST_PAUSE);
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

    fn delays(turns: &mut Turns, count: usize) -> Vec<u64> {
        (0..count)
            .map(|_| turns.next(false, Instant::now()).1.as_secs())
            .collect()
    }

    #[test]
    fn the_pause_after_each_pass_grows_to_ten_seconds() {
        assert_eq!(delays(&mut Turns::new(1), 8), [0, 2, 4, 6, 8, 10, 10, 10]);
        assert_eq!(delays(&mut Turns::new(3), 8), [0, 0, 0, 2, 0, 0, 4, 0]);
    }

    #[test]
    fn nothing_is_tried_any_more_after_a_stop() {
        let stop = CancellationToken::new();
        let pool = Pool::new(vec!["nats://a:1".parse().unwrap()], stop.clone());
        let next = pool.next(Vec::new()).now_or_never();
        assert_eq!(next.flatten().unwrap().delay, Some(Duration::ZERO));
        assert_eq!(pool.current(), "a:1");
        stop.cancel();
        assert!(pool.next(Vec::new()).now_or_never().is_none());
    }

    #[test]
    fn every_server_gets_its_turn() {
        let mut turns = Turns::new(3);
        let order: Vec<_> = (0..6)
            .map(|_| turns.next(false, Instant::now()).0)
            .collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_lost_connection_starts_anew_but_never_spins() {
        let mut turns = Turns::new(1);
        let start = Instant::now();
        delays(&mut turns, 4);
        let later = start + Duration::from_secs(3600);
        assert_eq!(turns.next(true, later).1, Duration::ZERO);
        let at_once = later + Duration::from_millis(5);
        assert_eq!(turns.next(true, at_once).1, PAUSE);
        assert_eq!(turns.next(true, at_once + PAUSE).1, PAUSE);
    }
}
