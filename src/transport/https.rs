//! HTTPS: the agent is the server, for `bosh create-env`. Requests come as `POST /agent`, blobs lie below `/blobs/`.
//!
//! Whoever reaches the port can open connections, so everything that a client can be slow at has a limit.

mod blobs;
mod body;
mod routes;
mod slots;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use self::blobs::Blobs;
use self::routes::{ResponseBody, Routes};
use self::slots::{Login, Slots};
use super::throttle::Throttle;
use super::url::{BusUrl, Scheme};
use super::{Bus, Handle, TransportError, audit, tls};
use crate::config::Secret;
use crate::runtime::{self, Task};

/// How many connections there are at once. For one more, one that has not logged in is closed; where all have, it waits in the
/// kernel's queue.
const MOST_CONNECTIONS: usize = 256;

/// How many more tasks of connections there are at once: those of closed connections, until they have ended.
const MOST_CLOSING: usize = 256;

/// How long a client may take for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take from one request's end to the end of the next one's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the kernel waits for a client to take what was sent, and how often it probes a silent one.
const PEER_TIMEOUT: Duration = Duration::from_secs(60);

/// The most bytes of a request's line and headers.
const HEADERS_LIMIT: usize = 64 << 10;

/// How long no connection is taken after the system refused one (most likely as there are no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long requests that are being handled may take to end when the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// The agent's HTTPS server.
#[derive(Debug)]
#[must_use = "the server ends when it is dropped"]
pub struct Https {
    address: SocketAddr,
    serving: Task<()>,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Https {
    /// Listens on the host and port of the bus's first URL and hands what comes to `handle`. Uploaded blobs are kept in
    /// `blobs_directory`, which is made where it is missing.
    ///
    /// # Errors
    /// What can never work: no such URL, certificates or a key that cannot be used or do not fit, an address that
    /// cannot be listened on, a directory that cannot be made.
    pub async fn start(
        bus: &Bus,
        blobs_directory: PathBuf,
        handle: Handle,
    ) -> Result<Self, TransportError> {
        let url = BusUrl::first(&bus.urls)?;
        if url.scheme != Scheme::Https {
            return Err(TransportError::Url {
                position: 1,
                problem: "it is not one of HTTPS",
            });
        }
        let config = tls::server(bus).map_err(TransportError::Tls)?;
        let blobs = Blobs::open(blobs_directory)
            .await
            .map_err(|error| TransportError::Blobs(error.into()))?;
        let failed = |source| TransportError::Listen {
            address: url.address(),
            source,
        };
        let listener = TcpListener::bind(url.address()).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let ends = ended.clone().drop_guard();
        let (tasks, started) = mpsc::unbounded_channel();
        let server = Arc::new(Server {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            routes: Routes::new(authorization(&url), blobs, handle, tasks),
            user: text(&url.user),
            said: Throttle::default(),
            stop: stop.clone(),
        });
        tracing::info!(%address, "listening for HTTPS requests");
        let serving = runtime::spawn("https", async move {
            // However it ends.
            let _ends = ends;
            serve(listener, server, started).await;
        });
        Ok(Self {
            address,
            serving,
            stop,
            ended,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends when the server did, which it does by itself only when there is a bug.
    pub async fn failed(&self) -> TransportError {
        self.ended.cancelled().await;
        TransportError::ListenerEnded
    }

    /// Takes no more connections, lets requests that are being handled end, for some seconds at most, and closes.
    pub async fn stop(self) {
        self.stop.cancel();
        if tokio::time::timeout(STOP_WITHIN, self.serving)
            .await
            .is_err()
        {
            tracing::warn!("HTTPS was closed before every request had its reply");
        }
    }
}

/// What the header `Authorization` must be.
fn authorization(url: &BusUrl) -> Secret {
    let login = format!("{}:{}", text(&url.user), text(&url.password));
    Secret::new(format!("Basic {}", STANDARD.encode(login)))
}

fn text(secret: &Option<Secret>) -> String {
    let text = secret.as_ref().map(Secret::expose);
    text.unwrap_or_default().to_owned()
}

/// What all connections share.
struct Server {
    acceptor: TlsAcceptor,
    routes: Routes,
    /// Who may call, for the audit.
    user: String,
    said: Throttle,
    stop: CancellationToken,
}

/// Takes connections until it is told to stop, and waits for those that are there. `started` are requests that are
/// being handled: they go on when their connection is lost.
async fn serve(
    listener: TcpListener,
    server: Arc<Server>,
    mut started: mpsc::UnboundedReceiver<Task<()>>,
) {
    let mut slots = Slots::new(MOST_CONNECTIONS);
    let mut connections = FuturesUnordered::new();
    let mut requests = FuturesUnordered::new();
    let mut listener = Some(listener);
    loop {
        tokio::select! {
            () = server.stop.cancelled(), if listener.is_some() => listener = None,
            accepted = accept(listener.as_ref()),
                if slots.has_room() && connections.len() < MOST_CONNECTIONS + MOST_CLOSING => match accepted {
                Ok((stream, peer)) => {
                    let (number, login) = slots.open(peer.ip());
                    let connection = Arc::clone(&server).connection(stream, peer, login);
                    let connection = runtime::spawn("https connection", connection);
                    connections.push(async move { (number, connection.await) });
                }
                Err(error) => {
                    if server.said.is_news("accept") {
                        tracing::warn!(%error, "a connection cannot be taken");
                    }
                    // Most likely there is no descriptor left: this frees one.
                    slots.close_one();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(task) = started.recv() => requests.push(task),
            Some((number, ended)) = connections.next(), if !connections.is_empty() => {
                slots.end(number);
                tell(ended);
            }
            Some(ended) = requests.next(), if !requests.is_empty() => tell(ended),
        }
        if listener.is_none() && connections.is_empty() && requests.is_empty() {
            break;
        }
    }
}

/// The next connection; none where nobody listens any more.
async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn tell(ended: Result<(), runtime::TaskFailed>) {
    if let Err(error) = ended {
        tracing::error!(error = %crate::diag::Chain(&error), "an HTTPS request got no reply");
    }
}

impl Server {
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, login: Arc<Login>) {
        tokio::select! {
            () = login.closed() => tracing::debug!(%peer, "a connection was closed for another one"),
            () = self.served(stream, peer, &login) => {}
        }
    }

    async fn served(&self, stream: TcpStream, peer: SocketAddr, login: &Login) {
        if let Err(error) = limit_waiting(&stream) {
            tracing::debug!(%error, "a connection's limits were not set");
        }
        let handshake = self.acceptor.accept(stream);
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a client failed at TLS");
                return;
            }
            Err(_) => return,
        };
        let service = service_fn(|request| self.audited(request, peer, login));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(HEADERS_LIMIT)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a client's connection ended early");
        }
    }

    async fn audited(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        login: &Login,
    ) -> Result<Response<ResponseBody>, Infallible> {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let response = self.routes.answer(request, login).await;
        if response.status() != StatusCode::UNAUTHORIZED {
            audit::https(&method, uri.path(), &self.user, peer, response.status());
        }
        Ok(response)
    }
}

/// A client that is gone, or does not read, is noticed by the kernel.
fn limit_waiting(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    let milliseconds = u32::try_from(PEER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    stream.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(stream, milliseconds)?;
    sockopt::set_tcp_keepidle(stream, PEER_TIMEOUT)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}
