//! A server of the Remote Execution API in this process. It keeps everything in memory, and its machines only wait: so a test or a
//! benchmark of the client decides how long each package takes.

mod execution;
mod state;
mod storage;

use std::sync::Arc;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use bazel_remote_apis::google::bytestream::byte_stream_server::ByteStreamServer;
use bazel_remote_apis::google::longrunning::operations_server::OperationsServer;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

use api::action_cache_server::ActionCacheServer;
use api::capabilities_server::CapabilitiesServer;
use api::content_addressable_storage_server::ContentAddressableStorageServer;
use api::execution_server::ExecutionServer;

use state::Services;
pub(crate) use state::{Counts, Gate, State};

/// The longest message that the server accepts.
const LONGEST_MESSAGE: usize = 64 << 20;

/// How long a package takes on a machine, by its name.
pub(crate) type Times = Box<dyn Fn(&str) -> Duration + Send + Sync>;

/// The properties of the server, its machines and its network.
pub(crate) struct Model {
    /// The time before each response.
    pub(crate) latency: Duration,
    /// The bandwidth of all blobs in both directions together, in bytes per second; 0 for no limit.
    pub(crate) bandwidth: u64,
    /// How many packages are compiled concurrently.
    pub(crate) machines: usize,
    /// How many calls one connection may have at a time.
    pub(crate) streams: u32,
    pub(crate) time: Times,
    /// The size of each compiled package in bytes. Other blobs have other sizes.
    pub(crate) package: usize,
    /// The packages whose scripts fail.
    pub(crate) failing: &'static [&'static str],
    /// How many bytes of blobs clients can store; 0 for no limit.
    pub(crate) capacity: usize,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            bandwidth: 0,
            machines: 16,
            streams: 100,
            time: Box::new(|_| Duration::ZERO),
            package: 100,
            failing: &[],
            capacity: 0,
        }
    }
}

/// The running server. Dropping it closes all connections.
pub(crate) struct BuildServer {
    port: u16,
    state: Arc<State>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl BuildServer {
    pub(crate) fn start(model: Model) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let streams = model.streams;
        let state = Arc::new(State::new(model));
        let services = Services(Arc::clone(&state));
        runtime.spawn(async move {
            let router = tonic::transport::Server::builder()
                .max_concurrent_streams(streams)
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(4 << 20)
                .add_service(CapabilitiesServer::new(services.clone()))
                .add_service(
                    ContentAddressableStorageServer::new(services.clone())
                        .max_decoding_message_size(LONGEST_MESSAGE),
                )
                .add_service(ByteStreamServer::new(services.clone()))
                .add_service(ActionCacheServer::new(services.clone()))
                .add_service(ExecutionServer::new(services.clone()))
                .add_service(OperationsServer::new(services));
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            router.serve_with_incoming(incoming).await.unwrap();
        });
        Self {
            port,
            state,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("grpc://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }
}

impl Drop for BuildServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
