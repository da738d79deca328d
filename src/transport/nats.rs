//! The connection to a NATS server, over which a Director sends requests. Requests arrive on the
//! subject `agent.ID`, and each request names the subject for its reply.
//!
//! The client connects in the background. After every error it connects again, however often this
//! happens. For example, in the first seconds of a new VM, the Director's NATS server does not know the VM and
//! responds with an authorization violation.

mod events;
mod guard;
mod outbox;
mod pool;
mod requests;
mod subject;
mod texts;

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Message, ServerAddr, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use outbox::{Outbox, PublishError};

use self::events::EventLog;
use self::guard::{guard, reconnect_after_denials};
use self::pool::Pool;
use self::texts::ServerTexts;
use super::throttle::Throttle;
use super::url::BusUrl;
use super::{Answer, BusOptions, Handle, InvalidRequest, TransportError, audit, tls};
use crate::config::Secret;
use crate::runtime::{self, IsolatedTasks, Task};

/// The maximum size of a reply in bytes. The Director's NATS server accepts no larger message
/// (`max_payload`).
const REPLY_LIMIT: usize = 1 << 20;

/// The maximum number of concurrent requests. The same number of requests can wait; further ones
/// are dropped by the client.
const MAX_REQUESTS: usize = 1000;

/// The time limit of one connection attempt, which includes TCP, TLS and the server's first
/// message.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The interval of pings. If two pings are not answered, the connection is considered lost.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long the client waits for pending replies before it closes the connection.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A connection of the agent to its message bus. A process can have several.
#[derive(Debug)]
#[must_use = "the connection ends when it is dropped"]
pub struct Nats {
    client: Client,
    connected: watch::Receiver<bool>,
    pool: Arc<Pool>,
    outbox: Outbox,
    serving: Task<()>,
    sending: Task<()>,
    _guarding: [Task<()>; 2],
    /// The tasks of the client library.
    _library: IsolatedTasks,
    stop: CancellationToken,
    /// Canceled when the client has ended although it was not stopped.
    ended: CancellationToken,
    _stop_when_dropped: DropGuard,
}

impl Nats {
    /// Starts to connect in the background, and passes requests to `handle`. The server may be
    /// unavailable.
    ///
    /// # Errors
    /// If retrying does not help: a URL, a certificate or the key is invalid, the key does not
    /// match the certificate, or the ID cannot be part of a subject.
    pub async fn start(
        bus: &BusOptions,
        agent_id: &str,
        handle: Handle,
    ) -> Result<Self, TransportError> {
        let subject = format!("agent.{agent_id}");
        if let Some(problem) = subject::problem(&subject) {
            return Err(TransportError::AgentId { problem });
        }
        let urls = BusUrl::nats(&bus.urls)?;
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let texts = server_texts(&urls);
        let pool = Pool::new(addresses(&urls)?, texts.clone(), stop.clone());
        let pool = Arc::new(pool);
        let (denied_sender, denied) = watch::channel(0);
        let (connected_sender, connected) = watch::channel(false);
        let events = EventLog {
            pool: Arc::clone(&pool),
            connected: connected_sender,
            logged: Throttle::default(),
            logged_states: Throttle::default(),
            texts,
            subject: subject.clone(),
            denied: denied_sender,
        };
        let options = options(bus, &urls, agent_id, events)?;
        let (library, client) = connect(options, pool.servers()).await?;
        pool.set_statistics(client.statistics());
        let subscriber = client
            .subscribe(subject)
            .await
            .map_err(|error| TransportError::Client(error.into()))?;
        let (outbox, sending) = Outbox::start(client.clone());
        let responder = Arc::new(Responder {
            handle,
            client: client.clone(),
            pool: Arc::clone(&pool),
            outbox: outbox.clone(),
            logged: Throttle::default(),
        });
        let serving = serve(subscriber, responder, stop.clone(), ended.clone());
        let resubscribing = reconnect_after_denials(client.clone(), Arc::clone(&pool), denied);
        let guarding = guard(client.statistics(), Arc::clone(&pool), library.end());
        Ok(Self {
            serving: runtime::spawn("nats", serving),
            _library: library,
            _guarding: [
                runtime::spawn("nats guard", guarding),
                runtime::spawn("nats denials", resubscribing),
            ],
            client,
            connected,
            pool,
            outbox,
            sending,
            _stop_when_dropped: stop.clone().drop_guard(),
            stop,
            ended,
        })
    }

    /// Publishes a message; see [`Outbox::publish`].
    ///
    /// # Errors
    /// See [`Outbox::publish`].
    pub fn publish(&self, subject: String, payload: Vec<u8>) -> Result<(), PublishError> {
        self.outbox.publish(subject, payload)
    }

    /// A handle for publishing, which can be used independently of this value.
    #[must_use]
    pub fn outbox(&self) -> Outbox {
        self.outbox.clone()
    }

    /// Whether the client is connected to a server.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Waits until the client is connected.
    pub async fn connected(&self) {
        let mut connected = self.connected.clone();
        let found = connected.wait_for(|connected| *connected).await.is_ok();
        if !found || connected.has_changed().is_err() {
            // The client has ended, and will never be connected.
            std::future::pending().await
        }
    }

    /// Waits until the client ends although it was not stopped, and receives no requests any more.
    /// This happens if a server sends too much data that is not part of requests, or a message at which the client library panics.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Marks the connection as replaced by another one. Its requests are still answered, but its failures are
    /// logged at the level `debug`.
    pub fn retire(&self) {
        self.pool.retire();
    }

    /// Stops receiving requests, waits a few seconds for the replies to those that have arrived, and closes the connection. Requests that
    /// are still running then are canceled; without a connection, all are canceled at once.
    pub async fn stop(self) {
        let Self {
            client,
            outbox,
            serving,
            sending,
            stop,
            connected,
            ended,
            ..
        } = self;
        stop.cancel();
        if ended.is_cancelled() {
            // Running requests may still end, but their replies are lost.
            let _ = tokio::time::timeout(STOP_WITHIN, serving).await;
            return;
        }
        if !*connected.borrow() {
            // Nothing can be sent, and the client would wait for a connection.
            tracing::debug!("closed a connection to the message bus that was not established");
            return;
        }
        let all_sent = async {
            // Ignore a failure, because the task itself has logged it.
            let _ = serving.await;
            outbox.close();
            let _ = sending.await;
            let _ = client.drain().await;
        };
        if tokio::time::timeout(STOP_WITHIN, all_sent).await.is_err() {
            tracing::warn!(
                "the connection to the message bus was closed before all replies were sent"
            );
        }
    }
}

/// Starts the client library, which connects in the background.
async fn connect(
    options: ConnectOptions,
    servers: Vec<ServerAddr>,
) -> Result<(IsolatedTasks, Client), TransportError> {
    let failed = |error: async_nats::Error| TransportError::Client(error);
    let library = IsolatedTasks::start("nats client").map_err(|error| failed(error.into()))?;
    let connecting = library.run(async move { options.connect(servers).await });
    let connected = connecting.await.map_err(|error| failed(error.into()))?;
    let client = connected.map_err(|error| failed(error.into()))?;
    Ok((library, client))
}

/// Creates the filter that hides the passwords and tokens of these URLs in texts of servers.
fn server_texts(urls: &[BusUrl]) -> ServerTexts {
    // A user without a password is a token.
    let credential = |url: &BusUrl| url.password.clone().or_else(|| url.user.clone());
    ServerTexts::new(urls.iter().filter_map(credential))
}

/// The addresses of the servers without user and password, because the library logs the addresses.
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
    bus: &BusOptions,
    urls: &[BusUrl],
    agent_id: &str,
    events: EventLog,
) -> Result<ConnectOptions, TransportError> {
    let selector = Arc::clone(&events.pool);
    let events = Arc::new(events);
    let mut options = ConnectOptions::new()
        .name(agent_id)
        .tls_client_config(tls::client(bus).map_err(TransportError::Tls)?)
        .require_tls(true)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(MAX_REQUESTS)
        .retry_on_initial_connect()
        .max_reconnects(None)
        // Connect only to the addresses in the settings, because only they match the certificates.
        .ignore_discovered_servers()
        .reconnect_to_server_callback(move |servers, _| {
            let pool = Arc::clone(&selector);
            async move { pool.next(servers).await }
        })
        .event_callback(move |event| {
            let events = Arc::clone(&events);
            async move { events.log(&event) }
        });
    // The library supports only one login for all servers.
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

/// Handles requests and sends the replies.
struct Responder {
    handle: Handle,
    client: Client,
    pool: Arc<Pool>,
    outbox: Outbox,
    logged: Throttle,
}

impl Responder {
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
                let problem = match self.outbox.reply(reply_to.clone(), body).await {
                    Err(_) if reply_to.is_empty() => Some("reply_to is missing".to_owned()),
                    sent => sent.err().map(|error| error.to_string()),
                };
                audit::nats(&method, &reply_to, &server, problem.as_deref());
                if let Some(problem) = problem.filter(|problem| self.logged.should_log(problem)) {
                    let method = audit::short(&method);
                    tracing::warn!(method, bytes, problem, "a request got no reply");
                }
            }
            // The first copy gets the reply.
            Err(InvalidRequest::Duplicate) => {
                tracing::debug!("ignoring the copy of a request that came over another connection");
            }
            Err(error) => {
                let reason = error.to_string();
                audit::nats("", "", &server, Some(&reason));
                if self.logged.should_log(&reason) {
                    tracing::warn!(reason, "a request got no reply");
                }
            }
        }
    }
}

/// Receives requests until `stop` is canceled, then waits for the running ones. Cancels `ended` if the client
/// ends without a stop.
async fn serve(
    mut subscriber: Subscriber,
    responder: Arc<Responder>,
    stop: CancellationToken,
    ended: CancellationToken,
) {
    let mut running = FuturesUnordered::new();
    let (mut open, mut stopping) = (true, false);
    loop {
        tokio::select! {
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                // Requests that have already arrived are still handled.
                if subscriber.unsubscribe().await.is_err() {
                    open = false;
                }
            }
            message = subscriber.next(), if open && running.len() < MAX_REQUESTS => match message {
                Some(message) => {
                    responder.pool.requests.count(&message);
                    running.push(runtime::spawn("request", Arc::clone(&responder).answer(message)));
                }
                None => {
                    open = false;
                    if !stopping {
                        tracing::error!("the client of the message bus ended unexpectedly");
                        ended.cancel();
                    }
                }
            },
            Some(handled) = running.next(), if !running.is_empty() => if let Err(error) = handled {
                tracing::error!(error = %crate::diag::Chain(&error), "a request got no reply");
            },
            else => break,
        }
    }
}
