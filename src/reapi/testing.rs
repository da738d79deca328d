//! A server of the Remote Execution API for tests. The test chooses the reply to each call.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{Pauses, Server};
use crate::config::Environment;
use crate::http::{Client, Headers, Timeouts, Url};
use crate::runtime;

/// The answer to a call.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    messages: Vec<Vec<u8>>,
    end: End,
    /// Sent when this token is canceled.
    gate: Option<CancellationToken>,
}

#[derive(Debug, Clone)]
enum End {
    /// The call ends with a code and the bytes of its details.
    Status(Code, Vec<u8>),
    /// The stream stays open.
    Silence,
}

impl Reply {
    /// A successful call with these messages.
    pub(crate) fn messages(messages: &[impl prost::Message]) -> Self {
        Self {
            messages: messages.iter().map(prost::Message::encode_to_vec).collect(),
            end: End::Status(Code::Ok, Vec::new()),
            gate: None,
        }
    }

    pub(crate) fn status(code: Code) -> Self {
        Self::details(code, Vec::new())
    }

    pub(crate) fn details(code: Code, details: Vec<u8>) -> Self {
        Self {
            messages: Vec::new(),
            end: End::Status(code, details),
            gate: None,
        }
    }

    /// The reply is sent when this token is canceled.
    pub(crate) fn held_by(mut self, gate: &CancellationToken) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// The stream fails after the messages, as when a proxy loses the server.
    pub(crate) fn lost(mut self) -> Self {
        self.end = End::Status(Code::Unavailable, Vec::new());
        self
    }

    /// The stream stays open after the messages.
    pub(crate) fn silent(mut self) -> Self {
        self.end = End::Silence;
        self
    }
}

/// A method, and the messages of its request.
pub(crate) type Call = (String, Vec<Vec<u8>>);

#[derive(Debug)]
pub(crate) struct TestServer {
    pub url: Url,
    calls: Arc<Mutex<Vec<Call>>>,
}

type Answer = dyn Fn(&str, &[Vec<u8>]) -> Reply + Send + Sync;

impl TestServer {
    /// Starts a server. `answer` gets the method and the messages of a call.
    pub(crate) async fn start(
        answer: impl Fn(&str, &[Vec<u8>]) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (
            Arc::clone(&calls),
            Arc::<Answer>::from(Box::new(answer) as Box<Answer>),
        );
        // The tasks end with the test's runtime.
        runtime::spawn("server", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                let service = service_fn(move |request: Request<Incoming>| {
                    respond(request, Arc::clone(&answer), Arc::clone(&log))
                });
                let connection = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                runtime::spawn("connection", connection).detach();
            }
        })
        .detach();
        Self {
            url: Url::parse(&url).unwrap(),
            calls,
        }
    }

    /// A client of this server.
    pub(crate) fn client(&self) -> Server {
        let tls = crate::tls::client(None, crate::tls::Profile::External);
        let client = Client::new(tls, &Environment::default());
        let timeouts = Timeouts::default();
        let server = Server::new(&self.url, Headers::new(), &client, [timeouts; 2]);
        server.with_pauses(Pauses::of(Duration::from_millis(10)))
    }

    /// The messages of each call of a method.
    pub(crate) fn calls_of(&self, method: &str) -> Vec<Vec<Vec<u8>>> {
        let calls = self.calls.lock().unwrap();
        let calls = calls.iter().filter(|(name, _)| name == method);
        calls.map(|(_, messages)| messages.clone()).collect()
    }

    /// The methods of all calls, in order.
    pub(crate) fn methods(&self) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        calls.iter().map(|(method, _)| method.clone()).collect()
    }
}

async fn respond(
    request: Request<Incoming>,
    answer: Arc<Answer>,
    log: Arc<Mutex<Vec<Call>>>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let messages = split(&body);
    let reply = answer(&method, &messages);
    log.lock().unwrap().push((method, messages));
    if let Some(gate) = &reply.gate {
        gate.cancelled().await;
    }
    let mut frames: Vec<Result<Frame<Bytes>, Infallible>> = Vec::new();
    for message in &reply.messages {
        let mut framed = vec![0];
        framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend(message);
        frames.push(Ok(Frame::data(framed.into())));
    }
    let is_silent = matches!(reply.end, End::Silence);
    match reply.end {
        End::Status(code, details) => {
            let status = tonic::Status::with_details(code, "", details.into());
            let mut trailers = HeaderMap::new();
            status.add_header(&mut trailers).unwrap();
            frames.push(Ok(Frame::trailers(trailers)));
        }
        End::Silence => {}
    }
    let silence = futures_util::stream::pending().take(usize::from(is_silent));
    let frames = futures_util::stream::iter(frames).chain(silence);
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response.body(StreamBody::new(frames)).unwrap())
}

/// The messages of a request.
fn split(mut body: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some((header, rest)) = body.split_at_checked(5) {
        let length = u32::from_be_bytes(header[1..].try_into().unwrap());
        let (message, rest) = rest.split_at(length as usize);
        messages.push(message.to_vec());
        body = rest;
    }
    messages
}
