//! Connections to a server.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::channel::Channel;
use super::error::CallError;
use crate::http::{Client, Headers, Timeouts, Url};

/// The client sends a ping after this time without data from the server. By default, gRPC servers
/// close connections with more than one ping in five minutes.
const PING_AFTER: Duration = Duration::from_secs(310);

/// The maximum number of executions on one connection. Servers limit the concurrent calls on a
/// connection, often to 100; further calls wait.
const SHARING: usize = 64;

/// A connection that is opened at the first call, and again if the server has closed it.
#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    ping_after: Option<Duration>,
    open: tokio::sync::Mutex<Option<Channel>>,
}

/// The connections for executions. A server may send nothing for as long as a script runs, so these
/// connections are checked by pings.
#[derive(Debug)]
pub(super) struct Connections {
    client: Client,
    all: Mutex<Vec<(Arc<Connection>, StreamSlot)>>,
}

/// A slot on a connection for one execution, until it is dropped.
#[derive(Debug)]
pub(super) struct StreamSlot(Arc<()>);

impl Connection {
    pub(super) fn new(client: &Client, timeouts: Timeouts) -> Self {
        Self {
            client: client.clone().with_timeouts(timeouts),
            ping_after: None,
            open: tokio::sync::Mutex::default(),
        }
    }

    /// Returns the open connection. Connects first, if there is none or the server has closed it.
    pub(super) async fn channel(&self, url: &Url, headers: &Headers) -> Result<Channel, CallError> {
        let mut open = self.open.lock().await;
        if let Some(channel) = open.as_ref().filter(|it| !it.is_closed()) {
            return Ok(channel.clone());
        }
        let channel = Channel::open(&self.client, url, headers, self.ping_after).await?;
        *open = Some(channel.clone());
        Ok(channel)
    }
}

impl Connections {
    pub(super) fn new(client: &Client, timeouts: Timeouts) -> Self {
        let timeouts = Timeouts {
            stall: 2 * PING_AFTER,
            ..timeouts
        };
        Self {
            client: client.clone().with_timeouts(timeouts),
            all: Mutex::default(),
        }
    }

    /// Takes a slot on a connection that has a free one, or on a new connection.
    pub(super) fn take_slot(&self) -> (Arc<Connection>, StreamSlot) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        // `users` also counts the slot in the list, which no execution uses.
        let found = all.iter().find(|(_, slot)| slot.users() <= SHARING);
        if let Some((connection, slot)) = found {
            return (Arc::clone(connection), slot.another());
        }
        let connection = Arc::new(Connection {
            client: self.client.clone(),
            ping_after: Some(PING_AFTER),
            open: tokio::sync::Mutex::default(),
        });
        let slot = StreamSlot(Arc::default());
        let taken = slot.another();
        all.push((Arc::clone(&connection), slot));
        (connection, taken)
    }
}

impl StreamSlot {
    fn another(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    fn users(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;
    use crate::tls::{self, Profile};

    #[test]
    fn connections_are_shared_by_a_limited_number_of_executions() {
        let tls = tls::client(None, Profile::External);
        let client = Client::new(tls, &Environment::default());
        let connections = Connections::new(&client, Timeouts::default());
        let mut taken: Vec<_> = (0..SHARING + 1).map(|_| connections.take_slot()).collect();
        let is_first = |it: &Arc<Connection>| Arc::ptr_eq(it, &taken[0].0);
        assert_eq!(taken.iter().filter(|(it, _)| is_first(it)).count(), SHARING);
        assert_eq!(connections.all.lock().unwrap().len(), 2);
        // A slot that becomes free is used again.
        let (first, slot) = taken.swap_remove(0);
        drop(slot);
        assert!(Arc::ptr_eq(&connections.take_slot().0, &first));
    }
}
