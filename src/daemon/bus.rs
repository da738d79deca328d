//! The daemon's connection to the message bus (NATS or HTTPS) in the settings. When the settings
//! change, the connection is replaced.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, Live};
use crate::config::Secret;
use crate::diag::Chain;
use crate::machine::bootstrap::Platform;
use crate::machine::data::DataDirectory;
use crate::runtime::{self, Task};
use crate::transport::{self, BusOptions, Handle, Https, Nats, Scheme, TransportError};

/// The heartbeat interval. A health monitor reports an agent as lost if it gets no heartbeat for a
/// minute.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// The pause before a client that has ended is replaced.
const RESTART_PAUSE: Duration = Duration::from_secs(2);

/// How long an old connection continues to receive requests after the new one is established.
const OVERLAP: Duration = Duration::from_secs(1);

/// The current connection, and old ones that it replaces.
pub(super) struct BusConnection {
    current: Transport,
    /// The settings of the current connection.
    bus: BusOptions,
    /// Connections with earlier settings. They are used until the current one is established.
    old: Vec<Nats>,
    /// Tasks that close old connections.
    retiring: Vec<Task<()>>,
    changes: watch::Receiver<u64>,
    shutdowns: watch::Receiver<u64>,
    data: DataDirectory,
}

/// A change of the current connection.
enum Change {
    /// The connection is established.
    Established,
    /// The client has ended, because of what a server has sent.
    Ended,
}

enum Transport {
    Nats(Box<Nats>),
    /// `None` only while one listener is replaced by another.
    Https(Option<Https>),
}

impl BusConnection {
    /// Starts to connect (NATS), or starts to listen (HTTPS). On a stemcell, also starts to send audit lines to syslog.
    pub(super) async fn start(agent: &Agent, data: DataDirectory) -> Result<Self, TransportError> {
        if agent.platform() == Platform::Linux {
            transport::send_to_syslog();
        }
        // Subscribe before reading the settings, so that no change is missed.
        let changes = agent.bus_changes();
        let bus = bus(&agent.live());
        Ok(Self {
            current: Transport::start(agent, &bus, data.clone()).await?,
            bus,
            old: Vec::new(),
            retiring: Vec::new(),
            changes,
            shutdowns: agent.shutdowns(),
            data,
        })
    }

    /// Handles requests, concurrently, until `stop` is canceled.
    pub(super) async fn serve(
        &mut self,
        agent: &Agent,
        stop: &CancellationToken,
    ) -> Result<(), TransportError> {
        // Collect vitals in a separate task, because a disk that does not respond must not block
        // this loop.
        let (sender, mut heartbeats) = mpsc::channel(1);
        let _collecting = runtime::spawn("heartbeats", collect_heartbeats(agent.clone(), sender));
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(payload) = heartbeats.recv() => self.publish(agent, "heartbeat", payload),
                Ok(()) = self.shutdowns.changed() => {
                    self.publish(agent, "shutdown", b"null".to_vec());
                }
                Ok(()) = self.changes.changed() => self.replace(agent).await?,
                change = self.current.changed(!self.old.is_empty()) => match change? {
                    Change::Established => self.retire_old(),
                    Change::Ended => self.restart(agent).await,
                }
            }
        }
    }

    /// Replaces the connection according to the current settings.
    async fn replace(&mut self, agent: &Agent) -> Result<(), TransportError> {
        if let Transport::Https(https) = &mut self.current {
            // Two listeners cannot share an address, so no requests are accepted for a short time.
            if let Some(old) = https.take() {
                old.stop().await;
            }
        }
        let bus = bus(&agent.live());
        match Transport::start(agent, &bus, self.data.clone()).await {
            Ok(new) => {
                tracing::info!("connecting to the message bus with new settings");
                self.bus = bus;
                if let Transport::Nats(old) = std::mem::replace(&mut self.current, new) {
                    self.old.push(*old);
                }
                if let Transport::Https(_) = &self.current {
                    // The new listener accepts requests already.
                    self.retire_old();
                }
            }
            Err(error) => {
                tracing::error!(error = %Chain(&error), "the new settings of the message bus are not usable; keeping the old ones");
                if let Transport::Https(None) = &self.current {
                    self.current = Transport::start(agent, &self.bus, self.data.clone()).await?;
                }
            }
        }
        Ok(())
    }

    /// Replaces a client that has ended by one with the same settings.
    async fn restart(&mut self, agent: &Agent) {
        tracing::warn!("starting the client of the message bus again");
        match Transport::start(agent, &self.bus, self.data.clone()).await {
            Ok(new) => {
                if let Transport::Nats(ended) = std::mem::replace(&mut self.current, new) {
                    self.retiring.retain(|task| !task.is_finished());
                    self.retiring.push(runtime::spawn("old bus", ended.stop()));
                }
            }
            Err(error) => {
                tracing::error!(error = %Chain(&error), "failed to start the client of the message bus");
            }
        }
    }

    /// Closes the connections with earlier settings, because the current one is established. They close in the background and do not
    /// connect again.
    fn retire_old(&mut self) {
        for old in self.old.drain(..) {
            old.retire();
            self.retiring.push(runtime::spawn("old bus", retire(old)));
        }
    }

    /// Sends a message of this kind to the health monitor.
    fn publish(&self, agent: &Agent, kind: &'static str, payload: Vec<u8>) {
        // The health monitor is reached only over NATS.
        if let Transport::Nats(nats) = &self.current {
            let live = agent.live();
            let subject = format!("hm.agent.{kind}.{}", live.settings.agent_id);
            if let Err(error) = nats.publish(subject, payload) {
                let error = Chain(&error);
                tracing::warn!(kind, %error, "failed to send a message to the health monitor");
            }
        }
    }

    /// Sends pending replies and closes all connections.
    pub(super) async fn stop(self) {
        match self.current {
            Transport::Nats(nats) => nats.stop().await,
            Transport::Https(Some(https)) => https.stop().await,
            Transport::Https(None) => {}
        }
        for old in self.old {
            old.stop().await;
        }
        for retiring in self.retiring {
            let _ = retiring.await;
        }
    }
}

/// Closes an old connection after a pause, so that all servers of a cluster know the new subscription by
/// then. A request that arrives on both connections is handled only once.
async fn retire(old: Nats) {
    tokio::time::sleep(OVERLAP).await;
    old.stop().await;
    tracing::info!("closed the connection to the message bus with earlier settings");
}

/// Passes a heartbeat to `sender` in each interval.
async fn collect_heartbeats(agent: Agent, sender: mpsc::Sender<Vec<u8>>) {
    let mut interval = tokio::time::interval(HEARTBEAT);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if let Some(payload) = agent.heartbeat().await
            && sender.send(payload).await.is_err()
        {
            return;
        }
    }
}

impl Transport {
    async fn start(
        agent: &Agent,
        bus: &BusOptions,
        data: DataDirectory,
    ) -> Result<Self, TransportError> {
        Ok(match bus.scheme()? {
            Scheme::Nats => {
                let live = agent.live();
                let id = live.settings.agent_id.as_str();
                Self::Nats(Box::new(Nats::start(bus, id, handle(agent, true)).await?))
            }
            Scheme::Https => {
                let handle = handle(agent, false);
                Self::Https(Some(Https::start(bus, data, handle).await?))
            }
        })
    }

    /// With NATS, waits until the client has ended, and then for [`RESTART_PAUSE`]. If there are old connections to close
    /// (`has_old`), also returns when the new connection is established. With HTTPS, waits until the listener fails, and returns the error.
    async fn changed(&mut self, has_old: bool) -> Result<Change, TransportError> {
        match self {
            Self::Nats(nats) => tokio::select! {
                biased;
                () = nats.ended() => {
                    tokio::time::sleep(RESTART_PAUSE).await;
                    Ok(Change::Ended)
                }
                () = nats.connected(), if has_old => Ok(Change::Established),
            },
            Self::Https(Some(https)) => Err(https.failed().await),
            Self::Https(None) => std::future::pending().await,
        }
    }
}

/// Checks the URLs of a message bus.
pub(super) fn check_urls(urls: Vec<Secret>) -> Result<(), String> {
    let bus = BusOptions {
        urls,
        ..BusOptions::default()
    };
    bus.check_urls().map_err(|error| Chain(&error).to_string())
}

fn bus(live: &Live) -> BusOptions {
    let certificate = live.settings.bus_certificate(&live.update);
    BusOptions {
        urls: live
            .settings
            .bus_urls(&live.update)
            .into_iter()
            .cloned()
            .collect(),
        ca: certificate.ca.clone(),
        certificate: certificate.certificate.clone(),
        private_key: certificate.private_key.clone(),
    }
}

/// Creates the function that handles requests. With `once`, a request with the same reply subject
/// as an earlier one is dropped as a duplicate.
fn handle(agent: &Agent, once: bool) -> Handle {
    let agent = agent.clone();
    Arc::new(move |bytes, limit| {
        let agent = agent.clone();
        Box::pin(async move { agent.handle(&bytes, limit, once).await })
    })
}
