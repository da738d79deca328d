//! Metadata services: small web servers beside a virtual machine, always plain HTTP and never behind a proxy.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_PAD_INDIFFERENT;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::HttpSource;
use crate::runtime;

/// What one request may take in all. These servers are one hop away.
const LIMIT: Duration = Duration::from_secs(10);

/// No cloud keeps so much for a machine.
const SIZE_LIMIT: usize = 4 << 20;

/// How long a token is to be valid, in seconds, in EC2's header.
const TOKEN_LIFETIME: (&str, &str) = ("x-aws-ec2-metadata-token-ttl-seconds", "300");

/// The header that a token is sent in.
const TOKEN: &str = "x-aws-ec2-metadata-token";

/// Why a metadata service gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The configuration's URL is none, or not one of plain HTTP.
    #[error("its URL is not one that starts with `http://`")]
    Url,
    /// A header of the configuration that cannot be sent.
    #[error("the header `{name}` cannot be sent")]
    Header {
        /// Its name.
        name: String,
    },
    /// No connection.
    #[error("it cannot be reached")]
    Connect(#[source] std::io::Error),
    /// Something that is no HTTP, or a broken connection.
    #[error("the connection failed")]
    Http(#[source] hyper::Error),
    /// A body that broke, or is larger than any settings.
    #[error("the answer cannot be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It took too long.
    #[error("it did not answer within {} s", LIMIT.as_secs())]
    TimedOut,
    /// It refused.
    #[error("it answered with status {0}")]
    Status(u16),
}

/// What the service keeps for this machine.
pub(super) async fn fetch(source: &HttpSource) -> Result<Vec<u8>, MetadataError> {
    let mut headers = Vec::new();
    for (name, value) in &source.headers {
        headers.push(header(name, value.expose())?);
    }
    if let Some(path) = &source.token_path {
        let (name, lifetime) = TOKEN_LIFETIME;
        let ask = vec![header(name, lifetime)?];
        let token = send(Method::PUT, &uri(source, path)?, ask).await?;
        let token = String::from_utf8_lossy(&token);
        headers.push(header(TOKEN, token.trim())?);
    }
    send(Method::GET, &uri(source, &source.path)?, headers).await
}

/// The service as messages name it, without what may be secret.
pub(super) fn shown(source: &HttpSource) -> String {
    match uri(source, &source.path) {
        Ok(uri) => format!(
            "http://{}{}",
            host_and_port(&uri).unwrap_or_default(),
            uri.path()
        ),
        Err(_) => "(no URL)".to_owned(),
    }
}

/// Text that is the base64 of settings, perhaps in quotes.
pub(super) fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .iter()
        .filter(|byte| **byte != b'"' && !byte.is_ascii_whitespace())
        .copied()
        .collect();
    URL_SAFE_PAD_INDIFFERENT.decode(digits).ok()
}

fn uri(source: &HttpSource, path: &str) -> Result<Uri, MetadataError> {
    let uri: Uri = format!("{}{path}", source.uri.expose())
        .parse()
        .map_err(|_| MetadataError::Url)?;
    if uri.scheme_str() == Some("http") && uri.host().is_some() {
        Ok(uri)
    } else {
        Err(MetadataError::Url)
    }
}

/// The authority without userinfo.
fn host_and_port(uri: &Uri) -> Option<String> {
    let host = uri.host()?;
    Some(match uri.port_u16() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

/// A header whose value does not print.
fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), MetadataError> {
    let invalid = || MetadataError::Header {
        name: name.to_owned(),
    };
    let header: HeaderName = name.parse().map_err(|_| invalid())?;
    let mut value = HeaderValue::from_str(value).map_err(|_| invalid())?;
    value.set_sensitive(true);
    Ok((header, value))
}

async fn send(
    method: Method,
    uri: &Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
) -> Result<Vec<u8>, MetadataError> {
    timeout(LIMIT, send_unlimited(method, uri, headers))
        .await
        .unwrap_or(Err(MetadataError::TimedOut))
}

async fn send_unlimited(
    method: Method,
    uri: &Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
) -> Result<Vec<u8>, MetadataError> {
    let host = host_and_port(uri).ok_or(MetadataError::Url)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, &host)
        .body(Empty::<Bytes>::new())
        .map_err(|_| MetadataError::Url)?;
    request.headers_mut().extend(headers);

    let bare = uri.host().unwrap_or_default();
    let address = bare.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((address, uri.port_u16().unwrap_or(80)))
        .await
        .map_err(MetadataError::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(MetadataError::Http)?;
    // What it returns, the request returns, too.
    let _connection = runtime::spawn("metadata connection", connection);
    let response = sender
        .send_request(request)
        .await
        .map_err(MetadataError::Http)?;
    if response.status() != StatusCode::OK {
        return Err(MetadataError::Status(response.status().as_u16()));
    }
    let body = Limited::new(response.into_body(), SIZE_LIMIT)
        .collect()
        .await
        .map_err(MetadataError::Body)?;
    Ok(body.to_bytes().into())
}

#[cfg(test)]
mod tests;
