//! The way to a server: dialling, proxies, TLS.

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
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::stall::Stalling;
use super::{Client, Error, Url};

/// A connection of any kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

type BoxError = Box<dyn StdError + Send + Sync>;

pub(super) type Io = TokioIo<Box<dyn Stream>>;

/// A way to a server.
pub(super) struct Connection {
    pub(super) io: Io,
    /// Set where a proxy reads the requests themselves and not only passes bytes on.
    pub(super) proxy: Option<ReadingProxy>,
}

/// What a proxy that reads requests wants to see in them.
pub(super) struct ReadingProxy {
    pub(super) authorization: Option<HeaderValue>,
}

impl Client {
    pub(super) async fn connect(&self, url: &Url) -> Result<Connection, Error> {
        let server = url.server().map_err(Error::Request)?;
        let Some(proxy) = self.proxies.for_server(url) else {
            let io = self.dial(&server).await?;
            let io = self.encrypt_if(url.is_https(), io, &server).await?;
            return Ok(Connection { io, proxy: None });
        };
        let address = with_port(proxy.uri())?;
        let io = self.dial(&address).await?;
        let io = if is_socks(&proxy) {
            self.socks(io, &proxy, &server).await?
        } else {
            let io = self
                .encrypt_if(address.scheme_str() == Some("https"), io, &address)
                .await?;
            if !url.is_https() {
                return Ok(Connection {
                    io,
                    proxy: Some(ReadingProxy {
                        authorization: proxy.basic_auth().cloned(),
                    }),
                });
            }
            let mut tunnel = Tunnel::new(address, Dialled(Some(io)));
            if let Some(authorization) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(authorization.clone());
            }
            let connecting = tunnel.call(server.clone()).err_into();
            self.through(&proxy, &server, Box::pin(connecting)).await?
        };
        let io = self.encrypt_if(url.is_https(), io, &server).await?;
        Ok(Connection { io, proxy: None })
    }

    /// A connection to this address, by way of the SOCKS proxy for everything where there is one.
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
        let dialling = connector.call(address.clone());
        let stream = in_time(self.limits.dial, "connecting", address, dialling)
            .await?
            .map_err(|source| Error::Connect {
                server: shown(address),
                source: source.into(),
            })?;
        let stream = Stalling::new(stream.into_inner(), self.limits.stall);
        Ok(TokioIo::new(Box::new(stream)))
    }

    async fn socks(&self, io: Io, proxy: &Intercept, server: &Uri) -> Result<Io, Error> {
        let mut socks = SocksV5::new(with_port(proxy.uri())?, Dialled(Some(io)));
        if let Some((user, password)) = proxy.raw_auth() {
            socks = socks.with_auth(user.to_owned(), password.to_owned());
        }
        let connecting = socks.call(server.clone()).err_into();
        self.through(proxy, server, Box::pin(connecting)).await
    }

    /// Waits until a proxy has connected us to a server.
    async fn through(
        &self,
        proxy: &Intercept,
        server: &Uri,
        connecting: BoxFuture<'static, Result<Io, BoxError>>,
    ) -> Result<Io, Error> {
        in_time(
            self.limits.dial,
            "connecting by a proxy",
            server,
            connecting,
        )
        .await?
        .map_err(|source| Error::Proxy {
            proxy: shown(proxy.uri()),
            server: shown(server),
            source,
        })
    }

    async fn encrypt_if(&self, wanted: bool, io: Io, server: &Uri) -> Result<Io, Error> {
        if !wanted {
            return Ok(io);
        }
        let config = self
            .tls
            .as_ref()
            .map_err(|error| Error::NoTls(Arc::clone(error)))?;
        let tls_error = |source| Error::Tls {
            server: shown(server),
            source,
        };
        let host = server.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| tls_error(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let connector = TlsConnector::from(Arc::clone(config));
        let shaking_hands = connector.connect(name, io.into_inner());
        let limit = self.limits.handshake;
        let stream = in_time(limit, "the TLS handshake", server, shaking_hands)
            .await?
            .map_err(tls_error)?;
        Ok(TokioIo::new(Box::new(stream)))
    }
}

async fn in_time<F: Future>(
    limit: Duration,
    what: &'static str,
    server: &Uri,
    step: F,
) -> Result<F::Output, Error> {
    tokio::time::timeout(limit, step)
        .await
        .map_err(|_| Error::Slow {
            what,
            server: shown(server),
            limit,
        })
}

fn is_socks(proxy: &Intercept) -> bool {
    proxy
        .uri()
        .scheme_str()
        .is_some_and(|scheme| scheme.starts_with("socks"))
}

/// A proxy's address with the port that its scheme stands for, where none is written.
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

/// Host and port, and nothing that was written before them.
fn shown(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    match uri.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// A connection that was made already, for those who would make one.
#[derive(Debug)]
struct Dialled<T>(Option<T>);

impl<T> Service<Uri> for Dialled<T> {
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
                .ok_or_else(|| io::Error::other("the connection is in use")),
        )
    }
}
