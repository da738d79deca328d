//! An HTTP/2 connection, which carries several concurrent requests. gRPC needs it.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2;
use hyper::{Request, Response};
use hyper_util::rt::TokioTimer;

use super::client::Client;
use super::{Error, Url};
use crate::runtime;

/// The maximum number of unread bytes of one response.
const STREAM_WINDOW: u32 = 1 << 20;

/// The maximum number of unread bytes of all responses together.
const CONNECTION_WINDOW: u32 = 4 << 20;

/// The time limit for the answer to a ping.
const PING_LIMIT: Duration = Duration::from_secs(30);

/// An open connection, which is closed when its last clone is dropped.
#[derive(Debug)]
pub(crate) struct Http2<B> {
    sender: http2::SendRequest<B>,
    _exchange: Arc<runtime::Task<()>>,
}

impl<B> Clone for Http2<B> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            _exchange: Arc::clone(&self._exchange),
        }
    }
}

/// Starts the tasks that hyper needs for a connection. They end with the connection.
#[derive(Debug, Clone, Copy)]
struct Executor;

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        runtime::spawn("http2", future).detach();
    }
}

impl Client {
    /// Opens an HTTP/2 connection. The client's TLS configuration must offer HTTP/2, and a server
    /// without TLS must expect it. If responses are outstanding and the server sends nothing for
    /// `ping_after`, the client sends a ping.
    ///
    /// # Errors
    /// If the server cannot be reached, or only through a proxy that forwards HTTP/1.1 requests.
    pub(crate) async fn http2<B>(
        &self,
        url: &Url,
        ping_after: Option<Duration>,
    ) -> Result<Http2<B>, Error>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let io = self.connect_directly(url).await?;
        let mut builder = http2::Builder::new(Executor);
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .timer(TokioTimer::new())
            .keep_alive_interval(ping_after)
            .keep_alive_timeout(PING_LIMIT);
        let (sender, exchange) = builder.handshake(io).await.map_err(Error::Exchange)?;
        let exchange = runtime::spawn("http2", async move {
            // The requests on the connection get the same error.
            if let Err(error) = exchange.await {
                tracing::debug!(%error, "an HTTP/2 connection failed");
            }
        });
        Ok(Http2 {
            sender,
            _exchange: Arc::new(exchange),
        })
    }
}

impl<B> Http2<B>
where
    B: Body + Send + 'static,
{
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(crate) fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.sender.poll_ready(context)
    }

    pub(crate) fn send(
        &mut self,
        request: Request<B>,
    ) -> BoxFuture<'static, hyper::Result<Response<Incoming>>> {
        Box::pin(self.sender.send_request(request))
    }
}
