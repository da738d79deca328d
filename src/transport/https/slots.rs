//! Limits the number of connections. Anyone who reaches the port can open connections, so a
//! connection that has not logged in (sent the password) is closed to make room for a new one. No
//! I/O.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio_util::sync::CancellationToken;

/// The open connections.
#[derive(Debug)]
pub(super) struct Slots {
    limit: usize,
    /// The connections by their numbers, in the order of arrival.
    open: BTreeMap<u64, Slot>,
    next: u64,
}

#[derive(Debug)]
struct Slot {
    network: IpAddr,
    login: Arc<Login>,
}

/// Records which came first for a connection: its login, or its closing.
#[derive(Debug, Default)]
pub(super) struct Login {
    state: AtomicU8,
    closed: CancellationToken,
}

const NEW: u8 = 0;
const LOGGED_IN: u8 = 1;
const CLOSED: u8 = 2;

impl Login {
    /// Marks the connection as logged in, so that it is not closed for another one. Returns `false`
    /// if it is already closed.
    pub(super) fn succeed(&self) -> bool {
        self.change(LOGGED_IN) != CLOSED
    }

    /// Waits until the connection must be closed to make room for another one.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    fn close(&self) -> bool {
        let is_closed = self.change(CLOSED) == NEW;
        if is_closed {
            self.closed.cancel();
        }
        is_closed
    }

    fn is_new(&self) -> bool {
        self.state.load(Ordering::Acquire) == NEW
    }

    /// Changes the state of a connection that is neither logged in nor closed. Returns the state
    /// before the change.
    fn change(&self, to: u8) -> u8 {
        let changed = self
            .state
            .compare_exchange(NEW, to, Ordering::AcqRel, Ordering::Acquire);
        changed.unwrap_or_else(|other| other)
    }
}

impl Slots {
    /// Allows at most `limit` connections.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            open: BTreeMap::new(),
            next: 0,
        }
    }

    /// Whether a connection can be accepted: there is a free slot, or a connection that can be closed for it.
    pub(super) fn has_room(&self) -> bool {
        self.open.len() < self.limit || self.open.values().any(|slot| slot.login.is_new())
    }

    /// Adds a connection. If there are too many, [closes one](Self::close_one): the new connection if
    /// all others have logged in. Returns the number and the login state of the new connection.
    pub(super) fn open(&mut self, peer: IpAddr) -> (u64, Arc<Login>) {
        let (number, login) = (self.next, Arc::new(Login::default()));
        self.next += 1;
        let slot = Slot {
            network: network(peer),
            login: Arc::clone(&login),
        };
        self.open.insert(number, slot);
        if self.open.len() > self.limit {
            self.close_one();
        }
        (number, login)
    }

    /// Of the peer with the most connections that have not logged in, closes the oldest of these.
    pub(super) fn close_one(&mut self) {
        while let Some(number) = self.oldest_of_largest_peer() {
            // If the connection has just logged in, it stays, and the next one is tried.
            let is_closed = self
                .open
                .get(&number)
                .is_some_and(|slot| slot.login.close());
            if is_closed {
                self.open.remove(&number);
                return;
            }
        }
    }

    /// Removes a connection that has ended.
    pub(super) fn end(&mut self, number: u64) {
        self.open.remove(&number);
    }

    fn oldest_of_largest_peer(&self) -> Option<u64> {
        // For each peer, `peers` has the number of connections that have not logged in, and the
        // number of the oldest one.
        let mut peers: HashMap<IpAddr, (usize, u64)> = HashMap::new();
        for (number, slot) in &self.open {
            if slot.login.is_new() {
                peers.entry(slot.network).or_insert((0, *number)).0 += 1;
            }
        }
        let largest = peers
            .into_values()
            .max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest)));
        largest.map(|(_, oldest)| oldest)
    }
}

/// The network whose connections are counted as those of one peer: the IPv4 address, or the 64-bit
/// prefix of the IPv6 address.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let bits = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(limit: usize, peers: &[&str]) -> (Slots, Vec<Arc<Login>>) {
        let mut slots = Slots::new(limit);
        let logins = peers
            .iter()
            .map(|peer| slots.open(peer.parse().unwrap()).1)
            .collect();
        (slots, logins)
    }

    fn closed(logins: &[Arc<Login>]) -> Vec<usize> {
        let closed = logins.iter().enumerate();
        closed
            .filter(|(_, login)| login.closed.is_cancelled())
            .map(|(index, _)| index)
            .collect()
    }

    #[test]
    fn oldest_connection_of_the_largest_peer_is_closed() {
        let (_, logins) = slots(
            4,
            &["10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.3", "10.0.0.4"],
        );
        assert_eq!(closed(&logins), [1]);
        let (_, logins) = slots(2, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(closed(&logins), [0]);
        let (_, logins) = slots(2, &["10.0.0.1"; 5]);
        assert_eq!(closed(&logins), [0, 1, 2]);
    }

    #[test]
    fn connection_that_logged_in_is_never_closed() {
        let (mut slots, mut logins) = slots(2, &["10.0.0.1", "10.0.0.1"]);
        assert!(logins[0].succeed() && logins[0].succeed());
        for _ in 0..3 {
            assert!(slots.has_room());
            logins.push(slots.open("10.0.0.1".parse().unwrap()).1);
        }
        assert_eq!(closed(&logins), [1, 2, 3]);
        assert!(!logins[1].succeed());
        assert!(logins[4].succeed());
        assert!(!slots.has_room());
        logins.push(slots.open("10.0.0.1".parse().unwrap()).1);
        assert_eq!(closed(&logins), [1, 2, 3, 5]);
        slots.close_one();
        slots.end(0);
        assert!(slots.has_room());
    }

    #[test]
    fn addresses_of_one_network_are_one_peer() {
        for (one, other, is_same) in [
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("fd00::1", "fd00::ffff:2", true),
            ("fd00::1", "fd00:0:0:1::1", false),
        ] {
            let [one, other] = [one, other].map(|peer| network(peer.parse().unwrap()));
            assert_eq!(one == other, is_same, "{one} {other}");
        }
    }
}
