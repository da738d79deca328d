//! Requests and their answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

use super::proxies::Proxies;
use super::{Body, Error, Headers, Url};
use crate::config::Environment;
use crate::runtime;
use crate::tls::TlsError;

/// How many redirects are followed, as Go's client does.
const REDIRECTS: usize = 10;

/// How long each step may take. There is no limit for a request as a whole.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a TCP connection, name resolution included, and for a proxy to make one.
    pub dial: Duration,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// Without a single byte either way while we wait for one. A store that takes an object of some GB may take a minute to
    /// say so.
    pub stall: Duration,
    /// For the server to say that it wants the body of an upload. After that the body is sent: not every server says so.
    pub expect: Duration,
}

impl Default for Limits {
    /// Dialling, TLS and the wait for "100 Continue" as in the Go agent, which has no limit for a silent peer.
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(30),
            handshake: Duration::from_secs(30),
            stall: Duration::from_secs(300),
            expect: Duration::from_secs(1),
        }
    }
}

/// Sends requests, each over a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) tls: Result<Arc<ClientConfig>, Arc<TlsError>>,
    pub(super) proxies: Arc<Proxies>,
    pub(super) limits: Limits,
}

impl Client {
    /// A client that trusts whom `tls` trusts and goes through the proxies of `environment`. A failed `tls` is told by the first
    /// request that needs it: many need none.
    #[must_use]
    pub fn new(tls: Result<ClientConfig, TlsError>, environment: &Environment) -> Self {
        Self {
            tls: tls.map(Arc::new).map_err(Arc::new),
            proxies: Arc::new(Proxies::of(environment)),
            limits: Limits::default(),
        }
    }

    /// The same client with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Fetches a page; ten redirects are followed. Another server than the first is not sent the headers.
    ///
    /// # Errors
    /// When there is no answer; one that says no is an answer.
    pub async fn get(&self, url: &Url, headers: &Headers) -> Result<Response, Error> {
        let none = Headers::new();
        let mut at = url.clone();
        for _ in 0..=REDIRECTS {
            let headers = if at.same_server(url) { headers } else { &none };
            let response = self.send(Method::GET, &at, headers, Body::empty()).await?;
            let Some(location) = response.redirect()? else {
                return Ok(response);
            };
            at = at
                .join(location)
                .map_err(|_| Error::Redirect("its location is no URL"))?;
        }
        Err(Error::Redirect("there are more than ten of them"))
    }

    /// Stores something. The body is not sent before the server says that it wants it ([`Limits::expect`]), so that a refusal
    /// comes at once; redirects are not followed.
    ///
    /// # Errors
    /// When there is no answer; one that says no is an answer.
    pub async fn put(&self, url: &Url, headers: &Headers, body: Body) -> Result<Response, Error> {
        self.send(Method::PUT, url, headers, body).await
    }

    async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: &Headers,
        body: Body,
    ) -> Result<Response, Error> {
        let connection = self.connect(url).await?;
        let expect = (body.length() > 0).then(CancellationToken::new);
        let length = (method == Method::PUT).then(|| body.length());
        let body = match &expect {
            None => body,
            Some(wanted) => {
                let (wanted, limit) = (wanted.clone(), self.limits.expect);
                body.behind(async move {
                    // Cancel-safe: both sides only wait.
                    tokio::select! {
                        () = wanted.cancelled() => {}
                        () = tokio::time::sleep(limit) => {}
                    }
                })
            }
        };
        let mut request = hyper::Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = url
            .target(connection.proxy.is_some())
            .map_err(Error::Request)?;
        let fields = request.headers_mut();
        let host = HeaderValue::try_from(url.authority());
        fields.insert(
            header::HOST,
            host.map_err(|error| Error::Request(error.into()))?,
        );
        fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
        fields.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        fields.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if let Some(length) = length {
            fields.insert(header::CONTENT_LENGTH, length.into());
        }
        if expect.is_some() {
            fields.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
        }
        if let Some(authorization) = url.authorization() {
            fields.insert(header::AUTHORIZATION, authorization);
        }
        if let Some(authorization) = connection.proxy.and_then(|proxy| proxy.authorization) {
            fields.insert(header::PROXY_AUTHORIZATION, authorization);
        }
        set(fields, headers);
        if let Some(wanted) = expect {
            hyper::ext::on_informational(&mut request, move |answer| {
                if answer.status() == StatusCode::CONTINUE {
                    wanted.cancel();
                }
            });
        }

        let (mut sender, exchange) = hyper::client::conn::http1::handshake(connection.io)
            .await
            .map_err(Error::Exchange)?;
        let exchange = runtime::spawn("http", async move {
            // What goes wrong here is told to those who wait for the answer or its body.
            if let Err(error) = exchange.await {
                tracing::debug!(%error, "an HTTP connection ended with an error");
            }
        });
        let response = sender
            .send_request(request)
            .await
            .map_err(Error::Exchange)?;
        Ok(Response {
            inner: response,
            _exchange: exchange,
        })
    }
}

const USER_AGENT: &str = concat!("bosh-agent/", env!("CARGO_PKG_VERSION"));

/// Adds the caller's headers, but for those that say how the bytes travel: these are ours, as they are Go's.
fn set(fields: &mut HeaderMap, headers: &Headers) {
    const OURS: [HeaderName; 5] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::EXPECT,
    ];
    for (name, value) in headers.iter() {
        if !OURS.contains(name) {
            fields.insert(name, value.clone());
        }
    }
}

/// An answer, whose body has not been read yet. The connection ends with it.
#[derive(Debug)]
pub struct Response {
    inner: hyper::Response<Incoming>,
    _exchange: runtime::Task<()>,
}

impl Response {
    /// What the server says to the request.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// A header's value, if it is there and text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    /// Where else the server wants us to ask.
    fn redirect(&self) -> Result<Option<&str>, Error> {
        if !matches!(self.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        self.header(header::LOCATION.as_str())
            .map(Some)
            .ok_or(Error::Redirect("it has no location"))
    }

    /// The next part of the body, `None` at its end.
    ///
    /// # Errors
    /// When the connection ends before the body does.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some(frame) = self.inner.body_mut().frame().await {
            if let Ok(data) = frame.map_err(Error::Cut)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The whole body, of `limit` bytes at most.
    ///
    /// # Errors
    /// When the connection ends before the body does, or the body is longer.
    pub async fn bytes(mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len() + chunk.len() > limit {
                return Err(Error::TooLong { limit });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}
