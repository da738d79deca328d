//! NATS: requests come in on `agent.<id>`, replies go to the subject that a request names.
//!
//! The connection comes up in the background and comes back for ever, whatever the server says: a Director's NATS does
//! not know a new VM in its first seconds and answers it with an authorization violation.

mod outbox;
mod pool;
mod subject;

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, Message, ServerAddr, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use outbox::{Outbox, PublishError};

use self::pool::Pool;
use super::throttle::Throttle;
use super::url::BusUrl;
use super::{Answer, Bus, Handle, TransportError, audit, tls};
use crate::config::Secret;
use crate::runtime::{self, Task};

/// The largest reply: the Director's NATS takes no larger message (`max_payload`).
const REPLY_LIMIT: usize = 1 << 20;

/// How many requests are handled at once. As many again wait; what comes then is lost, as NATS loses it.
const MOST_AT_ONCE: usize = 1000;

/// How long one attempt may take: TCP, TLS and the server's first answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a silent connection is probed; without an answer to two it is taken for lost.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long replies that are on their way may take to get out when the connection is closed.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// An agent's connection to its message bus. Several may live side by side.
#[derive(Debug)]
#[must_use = "the connection ends when it is dropped"]
pub struct Nats {
    client: Client,
    connected: watch::Receiver<bool>,
    outbox: Outbox,
    serving: Task<()>,
    sending: Task<()>,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

impl Nats {
    /// Starts to connect, and to hand what comes to `handle`. Whether a server is there does not matter.
    ///
    /// # Errors
    /// What can never work: a URL that is none, certificates or a key that cannot be used or do not fit, an id that is
    /// no part of a subject.
    pub async fn start(bus: &Bus, agent_id: &str, handle: Handle) -> Result<Self, TransportError> {
        let subject = format!("agent.{agent_id}");
        if let Some(problem) = subject::problem(&subject) {
            return Err(TransportError::AgentId { problem });
        }
        let urls = BusUrl::nats(&bus.urls)?;
        let stop = CancellationToken::new();
        let pool = Arc::new(Pool::new(addresses(&urls)?, stop.clone()));
        let (told, connected) = watch::channel(false);
        let options = options(bus, &urls, agent_id, &pool, told)?;
        let client = options
            .connect(pool.servers())
            .await
            .map_err(|error| TransportError::Client(error.into()))?;
        pool.count_with(client.statistics());
        let subscriber = client
            .subscribe(subject)
            .await
            .map_err(|error| TransportError::Client(error.into()))?;
        let (outbox, sending) = Outbox::start(client.clone());
        let answerer = Arc::new(Answerer {
            handle,
            client: client.clone(),
            pool,
            outbox: outbox.clone(),
            said: Throttle::default(),
        });
        Ok(Self {
            serving: runtime::spawn("nats", serve(subscriber, answerer, stop.clone())),
            client,
            connected,
            outbox,
            sending,
            _stop_when_dropped: stop.clone().drop_guard(),
            stop,
        })
    }

    /// Publishes, now or when the server is back; see [`Outbox::publish`].
    ///
    /// # Errors
    /// As [`Outbox::publish`].
    pub fn publish(&self, subject: String, payload: Vec<u8>) -> Result<(), PublishError> {
        self.outbox.publish(subject, payload)
    }

    /// What publishes, for those who outlive this value's owner.
    #[must_use]
    pub fn outbox(&self) -> Outbox {
        self.outbox.clone()
    }

    /// Whether a server has taken us and the connection is up.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Waits for a connection.
    pub async fn connected(&self) {
        // The sender lives as long as the client.
        let _ = self
            .connected
            .clone()
            .wait_for(|connected| *connected)
            .await;
    }

    /// Takes no more requests, lets the replies to those that are being handled go out, for some seconds at most, and
    /// closes.
    pub async fn stop(self) {
        let Self {
            client,
            outbox,
            serving,
            sending,
            stop,
            ..
        } = self;
        stop.cancel();
        let all_sent = async {
            // A task that failed has said so.
            let _ = serving.await;
            outbox.close();
            let _ = sending.await;
            let _ = client.drain().await;
        };
        if tokio::time::timeout(STOP_WITHIN, all_sent).await.is_err() {
            tracing::warn!(
                "the connection to the message bus was closed before every reply was sent"
            );
        }
    }
}

/// The servers without user and password, which the library would log.
fn addresses(urls: &[BusUrl]) -> Result<Vec<ServerAddr>, TransportError> {
    urls.iter()
        .map(|url| {
            format!("nats://{}", url.address())
                .parse::<ServerAddr>()
                .map_err(|error| TransportError::Client(error.into()))
        })
        .collect()
}

fn options(
    bus: &Bus,
    urls: &[BusUrl],
    agent_id: &str,
    pool: &Arc<Pool>,
    connected: watch::Sender<bool>,
) -> Result<ConnectOptions, TransportError> {
    let choose = Arc::clone(pool);
    let tell = Arc::new(Teller {
        pool: Arc::clone(pool),
        connected,
        said: Throttle::default(),
    });
    let mut options = ConnectOptions::new()
        .name(agent_id)
        .tls_client_config(tls::client(bus).map_err(TransportError::Tls)?)
        .require_tls(true)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(MOST_AT_ONCE)
        .retry_on_initial_connect()
        .max_reconnects(None)
        // The pool is what the settings say; certificates are for those addresses.
        .ignore_discovered_servers()
        .reconnect_to_server_callback(move |servers, _| {
            let pool = Arc::clone(&choose);
            async move { pool.next(servers).await }
        })
        .event_callback(move |event| {
            let tell = Arc::clone(&tell);
            async move { tell.event(&event) }
        });
    // The library knows one login for all servers.
    if let Some(url) = urls.iter().find(|url| url.user.is_some()) {
        let text = |secret: &Option<Secret>| {
            let text = secret.as_ref().map(Secret::expose);
            text.unwrap_or_default().to_owned()
        };
        options = match &url.password {
            Some(_) => options.user_and_password(text(&url.user), text(&url.password)),
            None => options.token(text(&url.user)),
        };
    }
    Ok(options)
}

/// Tells the log what happens to the connection.
#[derive(Debug)]
struct Teller {
    pool: Arc<Pool>,
    connected: watch::Sender<bool>,
    said: Throttle,
}

impl Teller {
    fn event(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.connected.send_replace(true);
                tracing::info!(server = self.pool.current(), "connected to the message bus");
            }
            Event::Disconnected => {
                self.connected.send_replace(false);
                let server = self.pool.current();
                if self.said.is_news(&format!("lost {server}")) {
                    tracing::warn!(server, "the connection to the message bus is lost");
                }
            }
            // Why an attempt failed is told by the pool, which knows more.
            Event::ClientError(_) => tracing::debug!(%event, "message bus"),
            Event::ServerError(_) | Event::SlowConsumer(_) => {
                if self.said.is_news(&event.to_string()) {
                    tracing::warn!(server = self.pool.current(), %event, "the message bus complains");
                }
            }
            _ => tracing::debug!(%event, "message bus"),
        }
    }
}

/// What answers requests.
struct Answerer {
    handle: Handle,
    client: Client,
    pool: Arc<Pool>,
    outbox: Outbox,
    said: Throttle,
}

impl Answerer {
    async fn answer(self: Arc<Self>, message: Message) {
        let limit = REPLY_LIMIT.min(self.client.max_payload());
        let server = self.pool.current();
        match (self.handle)(message.payload, Some(limit)).await {
            Ok(Answer {
                method,
                reply_to,
                body,
            }) => {
                let bytes = body.len();
                let sent = self.outbox.reply(reply_to.clone(), body).await;
                let problem = sent.err().map(|error| error.to_string());
                audit::nats(&method, &reply_to, &server, problem.as_deref());
                if let Some(problem) = problem {
                    let method = audit::short(&method);
                    tracing::warn!(method, bytes, problem, "a request got no reply");
                }
            }
            Err(error) => {
                let reason = error.to_string();
                audit::nats("", "", &server, Some(&reason));
                if self.said.is_news(&reason) {
                    tracing::warn!(reason, "a request got no reply");
                }
            }
        }
    }
}

/// Takes requests until it is told to stop, and waits for those that are being handled.
async fn serve(mut subscriber: Subscriber, answerer: Arc<Answerer>, stop: CancellationToken) {
    let mut running = FuturesUnordered::new();
    let (mut open, mut stopping) = (true, false);
    loop {
        tokio::select! {
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                // What has arrived already is still handled.
                if subscriber.unsubscribe().await.is_err() {
                    open = false;
                }
            }
            message = subscriber.next(), if open && running.len() < MOST_AT_ONCE => match message {
                Some(message) => {
                    running.push(runtime::spawn("request", Arc::clone(&answerer).answer(message)));
                }
                None => {
                    open = false;
                    if !stopping {
                        tracing::error!("the client of the message bus ended by itself");
                    }
                }
            },
            Some(ended) = running.next(), if !running.is_empty() => if let Err(error) = ended {
                tracing::error!(error = %crate::diag::Chain(&error), "a request got no reply");
            },
            else => break,
        }
    }
}
