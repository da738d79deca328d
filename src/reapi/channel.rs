//! An HTTP/2 connection that carries gRPC calls.

use std::error::Error as StdError;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Request, Response};
use tonic::body::Body;
use tower_service::Service;

use super::error::NotGrpc;
use crate::http::{Client, Error, Headers, Http2, StatusCode, Url};

type BoxError = Box<dyn StdError + Send + Sync>;

/// An open connection. Clones share the connection.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    connection: Http2<Body>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Channel {
    /// Connects to a server. `headers` are added to each request. If the server sends nothing for
    /// `ping_after`, the client sends a ping.
    pub(super) async fn open(
        client: &Client,
        url: &Url,
        headers: &Headers,
        ping_after: Option<Duration>,
    ) -> Result<Self, Error> {
        let headers = headers.iter();
        Ok(Self {
            headers: headers
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            connection: client.http2(url, ping_after).await?,
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connection.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let fields = request.headers_mut();
        fields.insert(
            header::USER_AGENT,
            HeaderValue::from_static(crate::http::USER_AGENT),
        );
        fields.extend(self.headers.iter().cloned());
        let responding = self.connection.send(request);
        Box::pin(async move {
            let response = responding.await?;
            // A gRPC response always has the HTTP status 200, because gRPC has its own statuses.
            match response.status() {
                StatusCode::OK => Ok(response),
                status => Err(NotGrpc(status).into()),
            }
        })
    }
}
