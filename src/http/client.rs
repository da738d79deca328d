//! The HTTP client: sends requests, follows redirects, and reads responses.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

use super::connect::{Connector, ForwardingProxy, Io};
use super::proxies::Proxies;
use super::{Body, Error, Headers, Timeouts, Url};
use crate::config::Environment;
use crate::runtime;
use crate::tls::TlsError;

/// The maximum number of redirects, as in Go's client.
const MAX_REDIRECTS: usize = 10;

/// The name of this program in the `User-Agent` header.
pub(crate) const USER_AGENT: &str = concat!("bosh-agent/", env!("CARGO_PKG_VERSION"));

/// Sends requests, each over its own connection.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    connector: Connector,
}

impl Client {
    /// Creates a client that uses the proxies of `environment`. An error in `tls` is reported by
    /// the first HTTPS request, because plain HTTP works without TLS.
    #[must_use]
    pub(crate) fn new(tls: Result<ClientConfig, TlsError>, environment: &Environment) -> Self {
        let proxies = Proxies::of(environment);
        Self {
            connector: Connector::new(tls, proxies),
        }
    }

    /// Changes the time limits of the client.
    #[must_use]
    pub(crate) fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
        self.connector.timeouts = timeouts;
        self
    }

    /// Sends a GET request and follows up to ten redirects. `headers` are sent only to the server of `url`.
    ///
    /// # Errors
    /// If there is no response. An error status is not an error here.
    pub(crate) async fn get(&self, url: &Url, headers: &Headers) -> Result<Response, Error> {
        let no_headers = Headers::new();
        let mut target = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let headers = match target.same_server(url) {
                true => headers,
                false => &no_headers,
            };
            let body = Body::empty();
            let response = self.send(Method::GET, &target, headers, body).await?;
            let Some(location) = response.redirect()? else {
                return Ok(response);
            };
            target = target
                .join(location)
                .map_err(|_| Error::Redirect("the Location header is not an HTTP URL"))?;
        }
        Err(Error::Redirect("more than 10 in a row"))
    }

    /// Sends a HEAD request. Redirects are not followed.
    ///
    /// # Errors
    /// If there is no response. An error status is not an error here.
    pub(crate) async fn head(&self, url: &Url, headers: &Headers) -> Result<Response, Error> {
        self.send(Method::HEAD, url, headers, Body::empty()).await
    }

    /// Sends a PUT request without following redirects. The body is sent after the server's "100
    /// Continue" or after [`Timeouts::expect`], so that the server can refuse the request before
    /// the upload.
    ///
    /// # Errors
    /// If there is no response. An error status is not an error here.
    pub(crate) async fn put(
        &self,
        url: &Url,
        headers: &Headers,
        body: Body,
    ) -> Result<Response, Error> {
        self.send(Method::PUT, url, headers, body).await
    }

    /// Connects to the server, directly or through a proxy that only passes bytes through. Fails if
    /// the environment requires a proxy that forwards requests.
    pub(super) async fn connect_directly(&self, url: &Url) -> Result<Io, Error> {
        let connection = self.connector.connect(url).await?;
        match connection.proxy {
            None => Ok(connection.io),
            Some(_) => Err(Error::Proxy {
                proxy: "in http_proxy".to_owned(),
                server: url.authority(),
                source: "it cannot forward HTTP/2; use no_proxy or TLS".into(),
            }),
        }
    }

    async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: &Headers,
        body: Body,
    ) -> Result<Response, Error> {
        let connection = self.connector.connect(url).await?;
        let mut request = request(method, url, headers, body)?;
        if let Some(proxy) = connection.proxy {
            address_to_proxy(&mut request, url, proxy)?;
        }
        if request.body().length() > 0 {
            request = expect_continue(request, self.connector.timeouts.expect);
        }
        let (mut sender, exchange) = hyper::client::conn::http1::handshake(connection.io)
            .await
            .map_err(Error::Exchange)?;
        let exchange = runtime::spawn("http", async move {
            // The reader of the response or of its body gets the same error.
            if let Err(error) = exchange.await {
                tracing::debug!(%error, "an HTTP connection failed");
            }
        });
        let response = sender.send_request(request).await;
        Ok(Response {
            inner: response.map_err(Error::Exchange)?,
            _exchange: exchange,
        })
    }
}

/// Builds a request in the form for a server; see [`address_to_proxy`] for a proxy.
fn request(
    method: Method,
    url: &Url,
    headers: &Headers,
    body: Body,
) -> Result<Request<Body>, Error> {
    /// Headers that the caller cannot replace.
    const FIXED: [HeaderName; 5] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::EXPECT,
    ];
    let host = HeaderValue::try_from(url.authority());
    let length = (method == Method::PUT).then(|| body.length());
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = url.target(false).map_err(Error::Request)?;
    let fields = request.headers_mut();
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
    if let Some(authorization) = url.authorization() {
        fields.insert(header::AUTHORIZATION, authorization);
    }
    for (name, value) in headers.iter() {
        if !FIXED.contains(name) {
            fields.insert(name, value.clone());
        }
    }
    Ok(request)
}

/// Changes a request to the form in which a proxy can forward it.
fn address_to_proxy(
    request: &mut Request<Body>,
    url: &Url,
    proxy: ForwardingProxy,
) -> Result<(), Error> {
    *request.uri_mut() = url.target(true).map_err(Error::Request)?;
    if let Some(authorization) = proxy.authorization {
        let fields = request.headers_mut();
        fields
            .entry(header::PROXY_AUTHORIZATION)
            .or_insert(authorization);
    }
    Ok(())
}

/// Delays the body until the server sends "100 Continue", at most `limit`.
fn expect_continue(request: Request<Body>, limit: Duration) -> Request<Body> {
    let continued = CancellationToken::new();
    let signal = continued.clone();
    let mut request = request.map(|body| {
        body.delayed_until(async move {
            // Send the body also if the limit is exceeded.
            let _ = tokio::time::timeout(limit, continued.cancelled_owned()).await;
        })
    });
    let fields = request.headers_mut();
    fields.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
    hyper::ext::on_informational(&mut request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            signal.cancel();
        }
    });
    request
}

/// A response whose body has not been read yet. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Response {
    inner: hyper::Response<Incoming>,
    _exchange: runtime::Task<()>,
}

impl Response {
    /// The status code.
    #[must_use]
    pub(crate) fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// The value of a header; `None` if the header is missing or is not text.
    #[must_use]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    /// The target of a redirect; `None` if the response is not a redirect.
    fn redirect(&self) -> Result<Option<&str>, Error> {
        if !matches!(self.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        self.header(header::LOCATION.as_str())
            .map(Some)
            .ok_or(Error::Redirect("no Location header"))
    }

    /// The next part of the body; `None` at its end.
    ///
    /// # Errors
    /// If the connection ends before the body.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some(frame) = self.inner.body_mut().frame().await {
            if let Ok(data) = frame.map_err(Error::Cut)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Reads the whole body, which may have at most `limit` bytes.
    ///
    /// # Errors
    /// If the connection ends before the body, or the body is longer than `limit`.
    pub(crate) async fn bytes(mut self, limit: usize) -> Result<Vec<u8>, Error> {
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
