//! A server, its connections and what it can do.

use std::time::Duration;

use hyper::Uri;
use tokio::sync::{Mutex, OnceCell};
use tonic::Code;

use super::channel::Channel;
use super::digest::SHA256;
use super::error::CallError;
use crate::http::{Client, Headers, Timeouts, Url};
use bazel_remote_apis::build::bazel::remote::execution::v2 as api;

use api::capabilities_client::CapabilitiesClient;

/// The most bytes that one request stores. gRPC servers accept messages of 4 MiB.
const LONGEST_BATCH: usize = 2 << 20;

/// When a silent server gets a ping. By default, gRPC servers close connections whose pings come more often than every five minutes.
const PING_AFTER: Duration = Duration::from_secs(310);

/// A server of the Remote Execution API. It is contacted when it is needed.
#[derive(Debug)]
pub(crate) struct Server {
    /// As an HTTP URL.
    url: Url,
    /// The instance of the server that calls are for; may be empty.
    pub(super) instance: String,
    /// Its scheme, host and port.
    pub(super) origin: Uri,
    headers: Headers,
    fetching: Connection,
    storing: Connection,
    executing: Connection,
    capabilities: OnceCell<Capabilities>,
}

/// A connection that is opened when it is needed. A server may close it when it is idle.
#[derive(Debug)]
struct Connection {
    client: Client,
    ping_after: Option<Duration>,
    open: Mutex<Option<Channel>>,
}

/// What a call is for. Each purpose has a connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It reads.
    Fetch,
    /// It writes.
    Store,
    /// It watches an execution, and may be silent for as long as a script runs.
    Execute,
}

/// What a server can do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capabilities {
    /// Whether it accepts results of actions.
    pub is_updatable: bool,
    /// The most bytes that one request stores.
    pub batch: usize,
    /// Whether it executes actions.
    pub executes: bool,
}

impl Connection {
    fn new(client: &Client, timeouts: Timeouts) -> Self {
        Self {
            client: client.clone().with_timeouts(timeouts),
            ping_after: None,
            open: Mutex::default(),
        }
    }

    /// A connection for executions, which is kept open while the server is silent.
    fn for_executions(client: &Client, timeouts: Timeouts) -> Self {
        let timeouts = Timeouts {
            stall: 2 * PING_AFTER,
            ..timeouts
        };
        Self {
            ping_after: Some(PING_AFTER),
            ..Self::new(client, timeouts)
        }
    }
}

impl Server {
    /// The server of `url`, whose path names an instance. `headers` are part of each call.
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
            executing: Connection::for_executions(client, storing),
            capabilities: OnceCell::new(),
        }
    }

    /// The same server with another instance.
    #[must_use]
    pub(crate) fn with_instance(mut self, instance: String) -> Self {
        self.instance = instance;
        self
    }

    /// What the server can do. It is asked once.
    pub(crate) async fn capabilities(&self) -> Result<&Capabilities, CallError> {
        let ask = || async {
            let channel = self.channel(Purpose::Fetch).await?;
            let mut client = CapabilitiesClient::with_origin(channel, self.origin.clone());
            let request = api::GetCapabilitiesRequest {
                instance_name: self.instance.clone(),
            };
            match client.get_capabilities(request).await {
                Ok(response) => capabilities(response.into_inner()),
                // Not every cache has this service.
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
            Purpose::Execute => &self.executing,
        };
        let mut open = connection.open.lock().await;
        if let Some(channel) = open.as_ref().filter(|it| !it.is_closed()) {
            return Ok(channel.clone());
        }
        let (client, ping_after) = (&connection.client, connection.ping_after);
        let channel = Channel::open(client, &self.url, &self.headers, ping_after).await?;
        *open = Some(channel.clone());
        Ok(channel)
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
        // Zero means that there is no limit of its own.
        batch: if batch == 0 {
            LONGEST_BATCH
        } else {
            batch.min(LONGEST_BATCH)
        },
        executes: execution.is_some_and(|it| it.exec_enabled),
    })
}
