//! A shared cache on an HTTP server that accepts GET, HEAD and PUT. The paths below the base URL
//! are the same as in a local cache, so a server can also serve the directory of a local cache.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::credentials::Credentials;
use super::error::RemoteError;
use super::receiver::Receiver;
use crate::cache::damage::DamageKind;
use crate::cache::entry::{Content, Entry};
use crate::cache::key::Key;
use crate::cache::local::{JSON, LocalCache, VERSION};
use crate::http::{Body, Client, Headers, Response, StatusCode, Timeouts, Url};

/// The maximum length of an entry in bytes. The entries that the agent writes are shorter.
pub(super) const LONGEST_ENTRY: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct HttpServer {
    base: Url,
    headers: Headers,
    fetching: Client,
    storing: Client,
}

impl HttpServer {
    /// Creates a client. Reads the netrc file, if there is one.
    pub(super) fn new(
        base: &Url,
        credentials: &Credentials,
        client: &Client,
        [fetching, storing]: [Timeouts; 2],
    ) -> Self {
        Self {
            base: base.clone(),
            headers: credentials.headers(base),
            fetching: client.clone().with_timeouts(fetching),
            storing: client.clone().with_timeouts(storing),
        }
    }

    pub(super) async fn find(&self, name: &str, key: &Key) -> Result<Option<Entry>, RemoteError> {
        let file = entry_path(name, key);
        let Some(response) = self.get(&file).await? else {
            return Ok(None);
        };
        let wrong = |problem: String| RemoteError::Wrong {
            file: file.join("/"),
            problem,
        };
        let text = match response.bytes(LONGEST_ENTRY).await {
            Err(crate::http::Error::TooLong { .. }) => {
                return Err(wrong(format!("is longer than {LONGEST_ENTRY} bytes")));
            }
            other => other?,
        };
        let entry = Entry::decode(&text, name, key);
        entry
            .map(Some)
            .map_err(|kind: DamageKind| wrong(kind.to_string()))
    }

    /// Fetches a content into a local cache; `false` if the server does not have the content.
    pub(super) async fn fetch(
        &self,
        content: &Content,
        into: &Arc<LocalCache>,
    ) -> Result<bool, RemoteError> {
        let Some(mut response) = self.get(&content_path(content)).await? else {
            return Ok(false);
        };
        let mut receiver = Receiver::new(content, into);
        while let Some(chunk) = response.chunk().await? {
            receiver.push(chunk).await?;
        }
        receiver.finish().await.map(|()| true)
    }

    async fn get(&self, file: &[String; PARTS]) -> Result<Option<Response>, RemoteError> {
        let response = self.fetching.get(&self.url(file), &self.headers).await?;
        match response.status() {
            StatusCode::OK => Ok(Some(response)),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            status => Err(refused("GET", file, status)),
        }
    }

    /// Stores a package, unless the server has it. Sends the files that the server lacks or that are
    /// in `damaged`, and then the entry.
    pub(super) async fn store(
        &self,
        entry: &Entry,
        files: &[(&Content, &Path)],
        damaged: &HashSet<String>,
    ) -> Result<(), RemoteError> {
        if damaged.is_empty() && self.has_package(entry).await? {
            return Ok(());
        }
        for (content, file) in files {
            let path = content_path(content);
            let is_damaged = damaged.contains(&content.sha256);
            if !is_damaged && self.has(&path, Some(content.size)).await? {
                continue;
            }
            let body = Body::file(file).await?;
            if let Err(refusal) = self.put(&path, body).await? {
                let exists = || self.has(&path, Some(content.size));
                refusal.check_existing(exists, !is_damaged).await?;
            }
        }
        let path = entry_path(&entry.parts.name, &entry.key());
        let body = Body::bytes(entry.encode()?.into());
        if let Err(refusal) = self.put(&path, body).await? {
            // Another run may have stored the package meanwhile.
            let is_usable = self.has_package(entry).await?;
            refusal
                .check_existing(|| self.has(&path, None), is_usable)
                .await?;
        }
        Ok(())
    }

    /// Whether the server has a package with all its files.
    async fn has_package(&self, wanted: &Entry) -> Result<bool, RemoteError> {
        let (name, key) = (&wanted.parts.name, wanted.key());
        let url = self.url(&entry_path(name, &key));
        let response = self.fetching.get(&url, &self.headers).await?;
        if response.status() != StatusCode::OK {
            return Ok(false);
        }
        let text = match response.bytes(LONGEST_ENTRY).await {
            Err(crate::http::Error::TooLong { .. }) => return Ok(false),
            other => other?,
        };
        let entry = Entry::decode(&text, name, &key).ok();
        let Some(entry) = entry.filter(|entry| entry.can_replace(wanted)) else {
            return Ok(false);
        };
        for content in entry.contents() {
            if !self.has(&content_path(content), Some(content.size)).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the server has a file. The size is compared if it is known.
    async fn has(&self, file: &[String; PARTS], size: Option<u64>) -> Result<bool, RemoteError> {
        let url = self.url(file);
        let mut response = self.fetching.head(&url, &self.headers).await?;
        // The server may not support HEAD, so send GET, and do not read the body.
        if matches!(response.status().as_u16(), 403 | 405 | 501) {
            response = self.fetching.get(&url, &self.headers).await?;
        }
        let length = response.header("content-length");
        let length = length.and_then(|it| it.parse::<u64>().ok());
        let is_right = length.zip(size).is_none_or(|(length, size)| length == size);
        Ok(response.status() == StatusCode::OK && is_right)
    }

    /// Sends a file. The inner error means that the server may already have the file, and refuses
    /// to overwrite it.
    async fn put(
        &self,
        file: &[String; PARTS],
        body: Body,
    ) -> Result<Result<(), Refusal>, RemoteError> {
        let url = self.url(file);
        let response = self.storing.put(&url, &self.headers, body).await?;
        match response.status() {
            status if status.is_success() => Ok(Ok(())),
            status if refuses_overwrites(status) => Ok(Err(Refusal {
                file: file.clone(),
                status,
            })),
            status => Err(refused("PUT", file, status)),
        }
    }

    fn url(&self, file: &[String; PARTS]) -> Url {
        self.base
            .with_segments(&file.each_ref().map(String::as_str))
    }
}

/// A file that a server refused to store.
struct Refusal {
    file: [String; PARTS],
    status: StatusCode,
}

impl Refusal {
    /// Ignores the refusal if the server has the file and it is usable. If the file is not usable,
    /// fails with an error that does not stop the use of the cache: the file is only a cache miss
    /// for later runs.
    async fn check_existing<F>(
        self,
        exists: impl FnOnce() -> F,
        is_usable: bool,
    ) -> Result<(), RemoteError>
    where
        F: Future<Output = Result<bool, RemoteError>>,
    {
        match (exists().await?, is_usable) {
            (false, _) => Err(refused("PUT", &self.file, self.status)),
            (true, true) => Ok(()),
            (true, false) => Err(RemoteError::Wrong {
                file: self.file.join("/"),
                problem: format!(
                    "cannot be used, and the server refuses to replace it: PUT returned {}",
                    self.status
                ),
            }),
        }
    }
}

/// Whether a server may use this status to refuse to overwrite a file. Servers use different ones.
fn refuses_overwrites(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 403 | 405 | 409 | 412 | 423)
}

/// The number of segments of a file's path below the base URL.
const PARTS: usize = 4;

fn entry_path(name: &str, key: &Key) -> [String; PARTS] {
    let file = format!("{key}.{JSON}");
    [VERSION, "entries", name, &file].map(str::to_owned)
}

fn content_path(content: &Content) -> [String; PARTS] {
    let sha256 = content.sha256.as_str();
    // The digest was checked when the entry was decoded, so it has 64 hex digits.
    let first = sha256.get(..2).unwrap_or_default();
    [VERSION, "content", first, sha256].map(str::to_owned)
}

fn refused(method: &'static str, file: &[String; PARTS], status: StatusCode) -> RemoteError {
    RemoteError::Status {
        method,
        file: file.join("/"),
        status,
    }
}
