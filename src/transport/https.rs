//! The HTTPS server of the agent, for `bosh create-env`. Requests are sent with `POST /agent`, and
//! blobs are stored and read below `/blobs/`.
//!
//! Anyone who reaches the port can open connections, so every step that a client can delay has a
//! time limit.

mod blobs;
mod body;
mod routes;
mod slots;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

use self::blobs::{ResponseBody, UploadedBlobs};
use self::routes::Routes;
use self::slots::{Login, Slots};
use super::throttle::Throttle;
use super::url::{BusUrl, Scheme};
use super::{BusOptions, Handle, TransportError, audit, tls};
use crate::config::Secret;
use crate::machine::data::DataDirectory;
use crate::runtime::{self, Task};

/// The maximum number of connections. If another one arrives, a connection that has not sent the
/// password is closed. If all have sent the password, the new connection waits in the kernel's
/// queue.
const MAX_CONNECTIONS: usize = 256;

/// The maximum number of connections that were closed but whose tasks have not ended yet.
const MAX_CLOSING: usize = 256;

/// The time limit of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The time limit for the headers of a request, counted from the end of the previous request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the kernel waits for the acknowledgment of sent data, and how long a connection is idle
/// before the kernel probes it.
const PEER_TIMEOUT: Duration = Duration::from_secs(60);

/// The maximum length of a request's line and headers, in bytes.
const HEADERS_LIMIT: usize = 64 << 10;

/// The pause after a failed `accept`. The usual cause is a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a stopping server waits for running requests.
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
    /// Listens on the host and port of the bus's first URL, and passes requests to `handle`.
    /// Uploaded blobs are stored in the data directory.
    ///
    /// # Errors
    /// If the URL, the certificates or the key are invalid, or the address is in use.
    pub async fn start(
        bus: &BusOptions,
        data: DataDirectory,
        handle: Handle,
    ) -> Result<Self, TransportError> {
        let url = BusUrl::first(&bus.urls)?;
        if url.scheme != Scheme::Https {
            return Err(TransportError::Url {
                position: 1,
                problem: "the scheme is not https",
            });
        }
        let config = tls::server(bus).map_err(TransportError::Tls)?;
        let blobs = UploadedBlobs::open(data)
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
        let server = Arc::new(HttpsServer {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            routes: Routes::new(authorization(&url), blobs, handle, tasks),
            user: text(&url.user),
            logged: Throttle::default(),
            stop: stop.clone(),
        });
        tracing::info!(%address, "listening for HTTPS requests");
        let serving = runtime::spawn("https", async move {
            // This cancels `ended` when the task ends, also if it panics.
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

    /// The address that the server listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the server ends without a call of [`stop`](Self::stop), which is a bug.
    pub async fn failed(&self) -> TransportError {
        self.ended.cancelled().await;
        TransportError::ListenerEnded
    }

    /// Closes the listener and waits a few seconds for running requests.
    pub async fn stop(self) {
        self.stop.cancel();
        if tokio::time::timeout(STOP_WITHIN, self.serving)
            .await
            .is_err()
        {
            tracing::warn!("the HTTPS server stopped before every request had a reply");
        }
    }
}

/// The `Authorization` header that requests must have.
fn authorization(url: &BusUrl) -> Secret {
    let login = format!("{}:{}", text(&url.user), text(&url.password));
    Secret::new(format!("Basic {}", STANDARD.encode(login)))
}

fn text(secret: &Option<Secret>) -> String {
    let text = secret.as_ref().map(Secret::expose);
    text.unwrap_or_default().to_owned()
}

/// The state that all connections share.
struct HttpsServer {
    acceptor: TlsAcceptor,
    routes: Routes,
    /// The user name, for the audit log.
    user: String,
    logged: Throttle,
    stop: CancellationToken,
}

/// Accepts connections until the server is stopped, then waits for the open ones. `started`
/// receives the tasks of requests, which continue if their connection is lost.
async fn serve(
    listener: TcpListener,
    server: Arc<HttpsServer>,
    mut started: mpsc::UnboundedReceiver<Task<()>>,
) {
    let mut slots = Slots::new(MAX_CONNECTIONS);
    let mut connections = FuturesUnordered::new();
    let mut requests = FuturesUnordered::new();
    let mut listener = Some(listener);
    loop {
        tokio::select! {
            () = server.stop.cancelled(), if listener.is_some() => listener = None,
            accepted = accept(listener.as_ref()),
                if slots.has_room() && connections.len() < MAX_CONNECTIONS + MAX_CLOSING => match accepted {
                Ok((stream, peer)) => {
                    let (number, login) = slots.open(peer.ip());
                    let connection = Arc::clone(&server).connection(stream, peer, login);
                    let connection = runtime::spawn("https connection", connection);
                    connections.push(async move { (number, connection.await) });
                }
                Err(error) => {
                    if server.logged.should_log("accept") {
                        tracing::warn!(%error, "failed to accept a connection");
                    }
                    // Free a file descriptor by closing a connection.
                    slots.close_one();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(task) = started.recv() => requests.push(task),
            Some((number, ended)) = connections.next(), if !connections.is_empty() => {
                slots.end(number);
                log_failure(ended);
            }
            Some(ended) = requests.next(), if !requests.is_empty() => log_failure(ended),
        }
        if listener.is_none() && connections.is_empty() && requests.is_empty() {
            break;
        }
    }
}

/// Accepts the next connection. Waits forever if the listener was closed.
async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn log_failure(ended: Result<(), runtime::TaskFailed>) {
    if let Err(error) = ended {
        tracing::error!(error = %crate::diag::Chain(&error), "an HTTPS request got no reply");
    }
}

impl HttpsServer {
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, login: Arc<Login>) {
        tokio::select! {
            () = login.closed() => tracing::debug!(%peer, "closed a connection for a new one"),
            () = self.served(stream, peer, &login) => {}
        }
    }

    async fn served(&self, stream: TcpStream, peer: SocketAddr, login: &Login) {
        if let Err(error) = limit_waiting(&stream) {
            tracing::debug!(%error, "failed to set the limits of a connection");
        }
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream));
        let stream = match self.stop.run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => {
                tracing::debug!(%error, "TLS handshake failed");
                return;
            }
            Some(Err(_)) | None => return,
        };
        let has_request = AtomicBool::new(false);
        let service = service_fn(|request| {
            has_request.store(true, Ordering::Relaxed);
            self.audited(request, peer, login)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(HEADERS_LIMIT)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            // Close a connection without a request, whose graceful shutdown would wait for the first one.
            () = self.stop.cancelled() => if !has_request.load(Ordering::Relaxed) {
                return;
            } else {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection failed");
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

/// Makes the kernel close connections whose client is unreachable or does not read.
fn limit_waiting(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    let milliseconds = u32::try_from(PEER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    stream.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(stream, milliseconds)?;
    sockopt::set_tcp_keepidle(stream, PEER_TIMEOUT)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}
