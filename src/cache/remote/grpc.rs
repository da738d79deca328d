//! A shared cache on a server of the Remote Execution API: its action cache has the descriptions of packages, its content-addressable
//! storage (CAS) their files.
//!
//! ```text
//! messages  what is stored for a package, and under which digest (pure)
//! channel   a connection
//! ```

mod channel;
mod messages;

use std::path::Path;
use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use bazel_remote_apis::google::bytestream::byte_stream_client::ByteStreamClient;
use bazel_remote_apis::google::bytestream::{ReadRequest, ReadResponse, WriteRequest};
use bytes::Bytes;
use futures_util::Stream;
use http_body_util::BodyExt as _;
use hyper::Uri;
use tokio::sync::{Mutex, OnceCell};
use tonic::{Code, Status, Streaming};

use self::channel::Channel;
use self::messages::{Blob, SHA256};
use super::credentials::Credentials;
use super::error::RemoteError;
use super::receiver::Receiver;
use crate::cache::entry::{Content, Entry};
use crate::cache::key::Key;
use crate::cache::local::LocalCache;
use crate::http::{Body, Client, Headers, Timeouts, Url};

use api::action_cache_client::ActionCacheClient;
use api::capabilities_client::CapabilitiesClient;
use api::content_addressable_storage_client::ContentAddressableStorageClient;

/// A description that is longer than this is not ours, in bytes.
const LONGEST_ENTRY: usize = 4 << 20;

/// The most bytes that one request stores. gRPC servers accept messages of 4 MiB.
const LONGEST_BATCH: usize = 2 << 20;

#[derive(Debug)]
pub(super) struct GrpcServer {
    /// The server, as an HTTP URL.
    url: Url,
    /// The path of the URL, which names an instance of the server.
    instance: String,
    /// Its scheme, host and port.
    origin: Uri,
    headers: Headers,
    fetching: Connection,
    storing: Connection,
    capabilities: OnceCell<Capabilities>,
}

/// A connection that is opened when it is needed. A server may close it when it is idle.
#[derive(Debug)]
struct Connection {
    client: Client,
    open: Mutex<Option<Channel>>,
}

impl Connection {
    fn new(client: &Client, timeouts: Timeouts) -> Self {
        Self {
            client: client.clone().with_timeouts(timeouts),
            open: Mutex::default(),
        }
    }
}

/// What a server can do.
#[derive(Debug, Clone, Copy)]
struct Capabilities {
    /// Whether it accepts descriptions.
    is_updatable: bool,
    /// The most bytes that one request stores.
    batch: usize,
}

impl GrpcServer {
    /// Reads the netrc file, if there is one.
    pub(super) fn new(
        url: &Url,
        credentials: &Credentials,
        client: &Client,
        [fetching, storing]: [Timeouts; 2],
    ) -> Self {
        Self {
            url: url.clone(),
            origin: url.server().unwrap_or_default(),
            instance: url.path().trim_matches('/').to_owned(),
            headers: credentials.headers(url),
            fetching: Connection::new(client, fetching),
            storing: Connection::new(client, storing),
            capabilities: OnceCell::new(),
        }
    }

    pub(super) async fn find(&self, name: &str, key: &Key) -> Result<Option<Entry>, RemoteError> {
        self.capabilities().await?;
        let [action, _] = messages::action(name, key);
        let request = api::GetActionResultRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(action.digest()),
            inline_stdout: true,
            digest_function: SHA256,
            ..Default::default()
        };
        let channel = self.channel(&self.fetching).await?;
        let mut client = ActionCacheClient::with_origin(channel, self.origin.clone());
        let result = match client.get_action_result(request).await {
            Ok(result) => result.into_inner(),
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(RemoteError::rpc("GetActionResult", &status)),
        };
        let text = match (result.stdout_raw, result.stdout_digest) {
            (inline, _) if !inline.is_empty() => inline,
            (_, Some(digest)) => match self.read_entry(&digest).await? {
                Some(text) => text,
                None => return Ok(None),
            },
            (_, None) => Vec::new(),
        };
        let entry = Entry::decode(&text, name, key);
        entry.map(Some).map_err(|kind| RemoteError::Wrong {
            file: format!("the result of action {}", action.sha256),
            problem: kind.to_string(),
        })
    }

    /// Receives a content; `false` if it is missing.
    pub(super) async fn fetch(
        &self,
        content: &Content,
        into: &Arc<LocalCache>,
    ) -> Result<bool, RemoteError> {
        let Some(mut parts) = self.read(&content.sha256, content.size).await? else {
            return Ok(false);
        };
        let mut receiver = Receiver::new(content, into);
        loop {
            match parts.message().await {
                Ok(Some(part)) => receiver.push(part.data.into()).await?,
                Ok(None) => break,
                Err(status) if status.code() == Code::NotFound => return Ok(false),
                Err(status) => return Err(RemoteError::rpc("Read", &status)),
            }
        }
        receiver.finish().await.map(|()| true)
    }

    /// Stores a package: its files, the action that its digest belongs to, and then its description.
    pub(super) async fn store(
        &self,
        entry: &Entry,
        files: &[(&Content, &Path)],
    ) -> Result<(), RemoteError> {
        let capabilities = *self.capabilities().await?;
        if !capabilities.is_updatable {
            return Err(RemoteError::Unsuitable("it does not accept action results"));
        }
        let text = Blob::new(entry.encode()?);
        let [action, command] = messages::action(&entry.parts.name, &entry.key());
        let result = messages::result(entry, &text);
        let action_digest = action.digest();
        let small = [text, action, command];
        let contents = files.iter().map(|(content, _)| messages::digest(content));
        let all = small.iter().map(Blob::digest).chain(contents);
        let missing = self.missing(all.collect()).await?;
        let is_missing = |sha256: &str| missing.iter().any(|it| it.hash == sha256);
        for (content, file) in files {
            if is_missing(&content.sha256) {
                let body = Body::file(file).await?;
                self.write(&content.sha256, content.size, body).await?;
            }
        }
        let small = small.into_iter().filter(|blob| is_missing(&blob.sha256));
        self.store_small(small.collect(), capabilities.batch)
            .await?;
        let request = api::UpdateActionResultRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(action_digest),
            action_result: Some(result),
            digest_function: SHA256,
            ..Default::default()
        };
        let channel = self.channel(&self.storing).await?;
        let mut client = ActionCacheClient::with_origin(channel, self.origin.clone());
        let Err(status) = client.update_action_result(request).await else {
            return Ok(());
        };
        let (name, key) = (&entry.parts.name, entry.key());
        match status.code() {
            Code::AlreadyExists => Ok(()),
            // Some servers refuse to overwrite a result.
            Code::PermissionDenied | Code::FailedPrecondition | Code::Aborted if matches!(self.find(name, &key).await, Ok(Some(found)) if found.serves(entry)) => {
                Ok(())
            }
            _ => Err(RemoteError::rpc("UpdateActionResult", &status)),
        }
    }

    async fn capabilities(&self) -> Result<&Capabilities, RemoteError> {
        let ask = || async {
            let channel = self.channel(&self.fetching).await?;
            let mut client = CapabilitiesClient::with_origin(channel, self.origin.clone());
            let request = api::GetCapabilitiesRequest {
                instance_name: self.instance.clone(),
            };
            match client.get_capabilities(request).await {
                Ok(response) => capabilities(response.into_inner().cache_capabilities),
                // Not every cache has this service.
                Err(status) if status.code() == Code::Unimplemented => Ok(Capabilities {
                    is_updatable: true,
                    batch: LONGEST_BATCH,
                }),
                Err(status) => Err(RemoteError::rpc("GetCapabilities", &status)),
            }
        };
        self.capabilities.get_or_try_init(ask).await
    }

    /// Those of some blobs that the server lacks.
    async fn missing(&self, all: Vec<api::Digest>) -> Result<Vec<api::Digest>, RemoteError> {
        let request = api::FindMissingBlobsRequest {
            instance_name: self.instance.clone(),
            blob_digests: all,
            digest_function: SHA256,
        };
        let channel = self.channel(&self.storing).await?;
        let mut client = ContentAddressableStorageClient::with_origin(channel, self.origin.clone());
        match client.find_missing_blobs(request).await {
            Ok(response) => Ok(response.into_inner().missing_blob_digests),
            Err(status) => Err(RemoteError::rpc("FindMissingBlobs", &status)),
        }
    }

    /// Stores blobs in one request, or one by one if they are too large for that.
    async fn store_small(&self, blobs: Vec<Blob>, batch: usize) -> Result<(), RemoteError> {
        if blobs.iter().map(|blob| blob.data.len()).sum::<usize>() > batch {
            for blob in blobs {
                let body = Body::bytes(blob.data.into());
                self.write(&blob.sha256, body.length(), body).await?;
            }
            return Ok(());
        }
        if blobs.is_empty() {
            return Ok(());
        }
        let requests = blobs.into_iter().map(Blob::into_request);
        let request = api::BatchUpdateBlobsRequest {
            instance_name: self.instance.clone(),
            requests: requests.collect(),
            digest_function: SHA256,
        };
        let channel = self.channel(&self.storing).await?;
        let mut client = ContentAddressableStorageClient::with_origin(channel, self.origin.clone());
        let failed = |status: &Status| RemoteError::rpc("BatchUpdateBlobs", status);
        let response = client.batch_update_blobs(request).await;
        let response = response.map_err(|status| failed(&status))?.into_inner();
        let statuses = response.responses.into_iter().filter_map(|it| it.status);
        for status in statuses {
            let code = Code::from(status.code);
            // Another run may have stored it meanwhile.
            if !matches!(code, Code::Ok | Code::AlreadyExists) {
                return Err(failed(&Status::new(code, status.message)));
            }
        }
        Ok(())
    }

    /// The parts of a blob, from a stream; `None` if it is missing.
    async fn read(
        &self,
        sha256: &str,
        size: u64,
    ) -> Result<Option<Streaming<ReadResponse>>, RemoteError> {
        let request = ReadRequest {
            resource_name: messages::download(&self.instance, sha256, size),
            ..Default::default()
        };
        let channel = self.channel(&self.fetching).await?;
        let mut client = ByteStreamClient::with_origin(channel, self.origin.clone());
        match client.read(request).await {
            Ok(response) => Ok(Some(response.into_inner())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(RemoteError::rpc("Read", &status)),
        }
    }

    /// The text of a description that is not part of the result itself.
    async fn read_entry(&self, digest: &api::Digest) -> Result<Option<Vec<u8>>, RemoteError> {
        let size = u64::try_from(digest.size_bytes).unwrap_or(0);
        let mut text = Vec::new();
        let Some(mut parts) = self.read(&digest.hash, size).await? else {
            return Ok(None);
        };
        while let Some(part) = parts
            .message()
            .await
            .map_err(|status| RemoteError::rpc("Read", &status))?
        {
            text.extend(part.data);
            if text.len() > LONGEST_ENTRY {
                return Err(RemoteError::Wrong {
                    file: digest.hash.clone(),
                    problem: format!("is longer than {LONGEST_ENTRY} bytes"),
                });
            }
        }
        Ok(Some(text))
    }

    /// Stores a blob by a stream.
    async fn write(&self, sha256: &str, size: u64, body: Body) -> Result<(), RemoteError> {
        let name = messages::upload(&self.instance, sha256, size);
        let channel = self.channel(&self.storing).await?;
        let mut client = ByteStreamClient::with_origin(channel, self.origin.clone());
        match client.write(requests(name, body)).await {
            // With -1, it was there already.
            Ok(response) => match response.into_inner().committed_size {
                -1 => Ok(()),
                stored if u64::try_from(stored) == Ok(size) => Ok(()),
                stored => Err(RemoteError::rpc(
                    "Write",
                    &Status::data_loss(format!("{stored} of {size} bytes were stored")),
                )),
            },
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(RemoteError::rpc("Write", &status)),
        }
    }

    async fn channel(&self, connection: &Connection) -> Result<Channel, RemoteError> {
        let mut open = connection.open.lock().await;
        if let Some(channel) = open.as_ref().filter(|it| !it.is_closed()) {
            return Ok(channel.clone());
        }
        let channel = Channel::open(&connection.client, &self.url, &self.headers).await?;
        *open = Some(channel.clone());
        Ok(channel)
    }
}

fn capabilities(cache: Option<api::CacheCapabilities>) -> Result<Capabilities, RemoteError> {
    let Some(cache) = cache else {
        return Err(RemoteError::Unsuitable("it has no cache"));
    };
    if !cache.digest_functions.contains(&SHA256) {
        return Err(RemoteError::Unsuitable("it does not support SHA-256"));
    }
    let batch = usize::try_from(cache.max_batch_total_size_bytes).unwrap_or(0);
    Ok(Capabilities {
        is_updatable: cache
            .action_cache_update_capabilities
            .is_some_and(|it| it.update_enabled),
        // Zero means that there is no limit of its own.
        batch: if batch == 0 {
            LONGEST_BATCH
        } else {
            batch.min(LONGEST_BATCH)
        },
    })
}

/// The requests that write a blob. If its file cannot be read, they end early, and the server refuses the blob.
fn requests(name: String, body: Body) -> impl Stream<Item = WriteRequest> {
    let start = (Some(name), 0, Some(body));
    futures_util::stream::unfold(start, |(name, offset, body)| async move {
        let mut body = body?;
        let data = match body.frame().await {
            Some(frame) => frame.ok()?.into_data().ok()?,
            // An empty blob is one empty request.
            None if offset == 0 && body.length() == 0 => Bytes::new(),
            None => return None,
        };
        let finish_write = body.length() == 0;
        let next = offset + data.len() as i64;
        let request = WriteRequest {
            // Only the first request needs the name.
            resource_name: name.unwrap_or_default(),
            write_offset: offset,
            finish_write,
            data: data.into(),
        };
        Some((request, (None, next, (!finish_write).then_some(body))))
    })
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn empty_blob_is_one_finished_request() {
        for data in [&b""[..], b"bytes"] {
            let sent = requests("name".to_owned(), Body::bytes(Bytes::from_static(data)));
            let sent: Vec<WriteRequest> = sent.collect().await;
            assert_eq!(sent.len(), 1);
            assert_eq!(sent[0].resource_name, "name");
            assert!(sent[0].finish_write);
            assert_eq!(sent[0].data, data);
        }
    }
}
