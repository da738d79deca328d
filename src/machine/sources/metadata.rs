//! Fetches settings from a metadata service, a web server that a cloud provides for its virtual
//! machines. The service is always accessed by plain HTTP and without a proxy.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_PAD_INDIFFERENT;
use tokio::time::timeout;

use crate::config::{Environment, HttpSource, Secret};
use crate::http::{self, Body, Client, Headers, InvalidHeaders, Response, StatusCode, Url};
use crate::tls::TlsError;

/// The time limit of one request. The server is at most one network hop away.
const LIMIT: Duration = Duration::from_secs(10);

/// The maximum length of a response in bytes. Clouds limit user data to less.
const SIZE_LIMIT: usize = 4 << 20;

/// The header that sets the lifetime of an EC2 token, in seconds.
const TOKEN_LIFETIME: (&str, &str) = ("x-aws-ec2-metadata-token-ttl-seconds", "300");

/// The header that contains the token.
const TOKEN: &str = "x-aws-ec2-metadata-token";

/// Why a metadata service did not provide settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetadataError {
    /// The URL in the configuration is invalid, or its scheme is not supported.
    #[error("its URL is invalid or does not start with `http://`")]
    Url,
    /// A header from the configuration, or the one with the token, is invalid.
    #[error("a header cannot be sent")]
    Header(#[from] InvalidHeaders),
    /// The request failed.
    #[error("the request failed")]
    Http(#[from] http::Error),
    /// The request took too long.
    #[error("it did not answer within {} s", LIMIT.as_secs())]
    TimedOut,
    /// The status of the response is not 200.
    #[error("it answered with status {0}")]
    Status(u16),
}

/// Fetches the settings of this machine. First fetches a token, if the service requires one.
pub(super) async fn fetch(source: &HttpSource) -> Result<Vec<u8>, MetadataError> {
    let no_tls = TlsError::SystemRoots("metadata services use plain HTTP".to_owned());
    let client = Client::new(Err(no_tls), &Environment::default());
    let mut headers = Headers::new();
    for (name, value) in &source.headers {
        headers = headers.with(name, value)?;
    }
    if let Some(path) = &source.token_path {
        let (name, lifetime) = TOKEN_LIFETIME;
        let token_headers = Headers::new().with(name, &Secret::new(lifetime))?;
        let url = url(source, path)?;
        let token = read(client.put(&url, &token_headers, Body::empty())).await?;
        let token = String::from_utf8_lossy(&token);
        headers = headers.with(TOKEN, &Secret::new(token.trim()))?;
    }
    read(client.get(&url(source, &source.path)?, &headers)).await
}

/// The URL of the service, without its secrets.
pub(super) fn shown(source: &HttpSource) -> String {
    match url(source, &source.path) {
        Ok(url) => url.to_string(),
        Err(_) => "(invalid URL)".to_owned(),
    }
}

/// Decodes settings in base64, which may be in quotes.
pub(super) fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .iter()
        .filter(|byte| **byte != b'"' && !byte.is_ascii_whitespace())
        .copied()
        .collect();
    URL_SAFE_PAD_INDIFFERENT.decode(digits).ok()
}

fn url(source: &HttpSource, path: &str) -> Result<Url, MetadataError> {
    let url = Url::parse(&format!("{}{path}", source.uri.expose()));
    url.ok()
        .filter(|url| !url.is_https())
        .ok_or(MetadataError::Url)
}

async fn read(
    request: impl Future<Output = Result<Response, http::Error>>,
) -> Result<Vec<u8>, MetadataError> {
    let reading = async {
        let response = request.await?;
        if response.status() != StatusCode::OK {
            return Err(MetadataError::Status(response.status().as_u16()));
        }
        Ok(response.bytes(SIZE_LIMIT).await?)
    };
    timeout(LIMIT, reading)
        .await
        .unwrap_or(Err(MetadataError::TimedOut))
}

#[cfg(test)]
mod tests;
