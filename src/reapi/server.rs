//! A server of the Remote Execution API: its address, its connections, and its capabilities.

use hyper::Uri;
use tokio::sync::OnceCell;
use tonic::Code;

use super::channel::Channel;
use super::connection::{Connection, Connections, StreamSlot};
use super::digest::SHA256;
use super::error::CallError;
use super::pauses::Pauses;
use crate::http::{Client, Headers, Timeouts, Url};
use bazel_remote_apis::build::bazel::remote::execution::v2 as api;

use api::capabilities_client::CapabilitiesClient;

/// The maximum number of bytes of blobs in one request. By default, gRPC servers accept messages of
/// at most 4 MiB.
const LONGEST_BATCH: usize = 2 << 20;

/// A server of the Remote Execution API. The client connects at the first call.
#[derive(Debug)]
pub(crate) struct Server {
    /// The address as an HTTP URL.
    url: Url,
    /// The name of the server's instance that calls are for. It may be empty.
    pub(super) instance: String,
    /// The scheme, host and port of the server.
    pub(super) origin: Uri,
    headers: Headers,
    fetching: Connection,
    storing: Connection,
    executing: Connections,
    pauses: Pauses,
    capabilities: OnceCell<Capabilities>,
}

/// The purpose of a call that ends soon. Each purpose has its own connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The call reads.
    Fetch,
    /// The call writes.
    Store,
}

/// The capabilities of a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capabilities {
    /// Whether the server's action cache accepts results.
    pub is_updatable: bool,
    /// The maximum number of bytes of blobs in one request.
    pub batch: usize,
    /// Whether the server executes actions.
    pub executes: bool,
}

impl Server {
    /// The server at `url`, whose path is the name of an instance. `headers` are added to each
    /// call. The time limits are those for calls that read, and those for all others.
    pub(crate) fn new(
        url: &Url,
        headers: Headers,
        client: &Client,
        [fetching, storing]: [Timeouts; 2],
    ) -> Self {
        Self {
            url: url.clone(),
            origin: url.server().unwrap_or_default(),
            instance: url.path().trim_matches('/').to_owned(),
            headers,
            fetching: Connection::new(client, fetching),
            storing: Connection::new(client, storing),
            executing: Connections::new(client, storing),
            pauses: Pauses::default(),
            capabilities: OnceCell::new(),
        }
    }

    /// The same server with another instance.
    #[must_use]
    pub(crate) fn with_instance(mut self, instance: String) -> Self {
        self.instance = instance;
        self
    }

    /// The server's capabilities. They are requested once.
    pub(crate) async fn capabilities(&self) -> Result<&Capabilities, CallError> {
        let ask = || async {
            let channel = self.channel(Purpose::Fetch).await?;
            let mut client = CapabilitiesClient::with_origin(channel, self.origin.clone());
            let request = api::GetCapabilitiesRequest {
                instance_name: self.instance.clone(),
            };
            match client.get_capabilities(request).await {
                Ok(response) => capabilities(response.into_inner()),
                // Some caches lack the service for capabilities. Assume that they can do everything.
                Err(status) if status.code() == Code::Unimplemented => Ok(Capabilities {
                    is_updatable: true,
                    batch: LONGEST_BATCH,
                    executes: true,
                }),
                Err(status) => Err(CallError::failed("GetCapabilities", &status)),
            }
        };
        self.capabilities.get_or_try_init(ask).await
    }

    pub(super) async fn channel(&self, purpose: Purpose) -> Result<Channel, CallError> {
        let connection = match purpose {
            Purpose::Fetch => &self.fetching,
            Purpose::Store => &self.storing,
        };
        connection.channel(&self.url, &self.headers).await
    }

    /// A connection for an execution. The slot on it must be kept until the stream of updates ends.
    pub(super) async fn execution_channel(&self) -> Result<(Channel, StreamSlot), CallError> {
        let (connection, slot) = self.executing.take_slot();
        let channel = connection.channel(&self.url, &self.headers).await?;
        Ok((channel, slot))
    }

    /// The pauses before a call is retried.
    pub(crate) fn pauses(&self) -> Pauses {
        self.pauses
    }

    /// The same server with other pauses.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn with_pauses(mut self, pauses: Pauses) -> Self {
        self.pauses = pauses;
        self
    }
}

fn capabilities(server: api::ServerCapabilities) -> Result<Capabilities, CallError> {
    let Some(cache) = server.cache_capabilities else {
        return Err(CallError::Unsuitable("it has no cache"));
    };
    if !cache.digest_functions.contains(&SHA256) {
        return Err(CallError::Unsuitable("it does not support SHA-256"));
    }
    let batch = usize::try_from(cache.max_batch_total_size_bytes).unwrap_or(0);
    let execution = server.execution_capabilities;
    Ok(Capabilities {
        is_updatable: cache
            .action_cache_update_capabilities
            .is_some_and(|it| it.update_enabled),
        // Zero means that the server has no limit.
        batch: if batch == 0 {
            LONGEST_BATCH
        } else {
            batch.min(LONGEST_BATCH)
        },
        executes: execution.is_some_and(|it| it.exec_enabled),
    })
}
