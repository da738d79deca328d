//! Connects to servers, directly or through proxies, with TCP and TLS.

use std::error::Error as StdError;
use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::TryFutureExt as _;
use futures_util::future::BoxFuture;
use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::proxies::Proxies;
use super::stall::StallTimeout;
use super::{Error, Timeouts, Url};
use crate::tls::TlsError;

/// A connection of any kind: plain or TLS, direct or through a proxy.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

type BoxError = Box<dyn StdError + Send + Sync>;

pub(super) type Io = TokioIo<Box<dyn Stream>>;

/// A connection that is ready for a request.
pub(super) struct Connection {
    pub(super) io: Io,
    /// The proxy that reads and forwards the request; `None` if the server reads the request
    /// itself.
    pub(super) proxy: Option<ForwardingProxy>,
}

/// An HTTP proxy that reads and forwards requests. Other proxies only pass bytes through.
pub(super) struct ForwardingProxy {
    pub(super) authorization: Option<HeaderValue>,
}

/// Connects to servers.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub(super) timeouts: Timeouts,
    tls: Result<Arc<ClientConfig>, Arc<TlsError>>,
    proxies: Arc<Proxies>,
}

impl Connector {
    pub(super) fn new(tls: Result<ClientConfig, TlsError>, proxies: Proxies) -> Self {
        Self {
            timeouts: Timeouts::default(),
            tls: tls.map(Arc::new).map_err(Arc::new),
            proxies: Arc::new(proxies),
        }
    }

    pub(super) async fn connect(&self, url: &Url) -> Result<Connection, Error> {
        let server = url.server().map_err(Error::Request)?;
        let io = match self.proxies.for_server(url) {
            None => self.dial(&server).await?,
            Some(proxy) => {
                let address = with_port(proxy.uri())?;
                let io = self.dial(&address).await?;
                if is_socks(&proxy) {
                    self.socks(io, &proxy, &server).await?
                } else {
                    let is_encrypted = address.scheme_str() == Some("https");
                    let io = self.encrypt_if(is_encrypted, io, &address).await?;
                    if !url.is_https() {
                        let authorization = proxy.basic_auth().cloned();
                        let proxy = Some(ForwardingProxy { authorization });
                        return Ok(Connection { io, proxy });
                    }
                    self.tunnel(io, address, &proxy, &server).await?
                }
            }
        };
        let io = self.encrypt_if(url.is_https(), io, &server).await?;
        Ok(Connection { io, proxy: None })
    }

    /// Opens a connection to a server, or to its proxy in `HTTP_PROXY` or `HTTPS_PROXY`: through the SOCKS proxy in `BOSH_ALL_PROXY`, unless
    /// `NO_PROXY` excludes the address.
    async fn dial(&self, address: &Uri) -> Result<Io, Error> {
        match self.proxies.socks_for(address) {
            None => self.tcp(address).await,
            Some(proxy) => {
                let io = self.tcp(&with_port(proxy.uri())?).await?;
                self.socks(io, &proxy, address).await
            }
        }
    }

    async fn tcp(&self, address: &Uri) -> Result<Io, Error> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        let connecting = connector.call(address.clone());
        let limit = self.timeouts.connect;
        let stream = in_time(limit, "the connection to", address, connecting)
            .await?
            .map_err(|source| Error::Connect {
                server: host_and_port(address),
                source: source.into(),
            })?;
        let stream = StallTimeout::new(stream.into_inner(), self.timeouts.stall);
        Ok(TokioIo::new(Box::new(stream)))
    }

    /// Makes a SOCKS proxy connect to a server.
    async fn socks(&self, io: Io, proxy: &Intercept, server: &Uri) -> Result<Io, Error> {
        let mut socks = SocksV5::new(with_port(proxy.uri())?, Connected(Some(io)));
        if let Some((user, password)) = proxy.raw_auth() {
            socks = socks.with_auth(user.to_owned(), password.to_owned());
        }
        let connecting = socks.call(server.clone()).err_into();
        self.through_proxy(proxy, server, Box::pin(connecting))
            .await
    }

    /// Makes an HTTP proxy connect to a server, with the method `CONNECT`.
    async fn tunnel(
        &self,
        io: Io,
        address: Uri,
        proxy: &Intercept,
        server: &Uri,
    ) -> Result<Io, Error> {
        let mut tunnel = Tunnel::new(address, Connected(Some(io)));
        if let Some(authorization) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        let connecting = tunnel.call(server.clone()).err_into();
        self.through_proxy(proxy, server, Box::pin(connecting))
            .await
    }

    async fn through_proxy(
        &self,
        proxy: &Intercept,
        server: &Uri,
        connecting: BoxFuture<'static, Result<Io, BoxError>>,
    ) -> Result<Io, Error> {
        let limit = self.timeouts.connect;
        in_time(
            limit,
            "the connection through a proxy to",
            server,
            connecting,
        )
        .await?
        .map_err(|source| Error::Proxy {
            proxy: host_and_port(proxy.uri()),
            server: host_and_port(server),
            source,
        })
    }

    async fn encrypt_if(&self, condition: bool, io: Io, server: &Uri) -> Result<Io, Error> {
        if !condition {
            return Ok(io);
        }
        let config = self
            .tls
            .as_ref()
            .map_err(|error| Error::TlsUnavailable(Arc::clone(error)))?;
        let handshake_error = |source| Error::Handshake {
            server: host_and_port(server),
            source,
        };
        let host = server.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| handshake_error(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let connector = TlsConnector::from(Arc::clone(config));
        let handshake = connector.connect(name, io.into_inner());
        let limit = self.timeouts.handshake;
        let stream = in_time(limit, "the TLS handshake with", server, handshake)
            .await?
            .map_err(handshake_error)?;
        Ok(TokioIo::new(Box::new(stream)))
    }
}

async fn in_time<F: Future>(
    limit: Duration,
    step: &'static str,
    server: &Uri,
    future: F,
) -> Result<F::Output, Error> {
    tokio::time::timeout(limit, future)
        .await
        .map_err(|_| Error::Timeout {
            step,
            server: host_and_port(server),
            limit,
        })
}

fn is_socks(proxy: &Intercept) -> bool {
    proxy
        .uri()
        .scheme_str()
        .is_some_and(|scheme| scheme.starts_with("socks"))
}

/// The address of a proxy. The default port depends on the scheme.
fn with_port(proxy: &Uri) -> Result<Uri, Error> {
    if proxy.port().is_some() {
        return Ok(proxy.clone());
    }
    let scheme = proxy.scheme_str().unwrap_or("http");
    let port = match scheme {
        "https" => 443,
        "http" => 80,
        _ => 1080,
    };
    Uri::builder()
        .scheme(scheme)
        .authority(format!("{}:{port}", proxy.host().unwrap_or_default()))
        .path_and_query("/")
        .build()
        .map_err(Error::Request)
}

/// Host and port for messages. User name and password are left out.
fn host_and_port(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    match uri.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// A connector for hyper-util that returns a connection that is already open.
#[derive(Debug)]
struct Connected<T>(Option<T>);

impl<T> Service<Uri> for Connected<T> {
    type Response = T;
    type Error = io::Error;
    type Future = Ready<Result<T, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(
            self.0
                .take()
                .ok_or_else(|| io::Error::other("the connection is already in use")),
        )
    }
}
