//! A server of the Remote Execution API that keeps everything in memory and fails in defined ways.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use bazel_remote_apis::google::bytestream::{
    ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tonic::Code;

/// What the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GrpcFault {
    /// Calls of this method return this status.
    Status(&'static str, Code),
    /// Sends blobs that do not end.
    Endless,
    /// Sends one byte of a blob in each second.
    Slow,
    /// Sends blobs of the right size with other bytes.
    WrongBytes,
    /// Sends results of actions whose description has the digest of another blob.
    WrongDigest,
}

/// What it has stored.
#[derive(Debug, Default)]
struct State {
    fault: Option<GrpcFault>,
    blobs: HashMap<String, Bytes>,
    results: HashMap<String, api::ActionResult>,
}

/// Serves on a free port until the test's process ends.
pub(super) struct GrpcServer {
    url: String,
    state: Arc<Mutex<State>>,
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

impl GrpcServer {
    pub(super) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("grpc://{}", listener.local_addr().unwrap());
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(serve(listener, shared));
        });
        Self { url, state }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Lets the next calls fail in this way.
    pub(super) fn fail(&self, fault: GrpcFault) {
        self.state.lock().unwrap().fault = Some(fault);
    }

    /// Removes everything that is stored.
    pub(super) fn clear(&self) {
        *self.state.lock().unwrap() = State::default();
    }
}

async fn serve(listener: std::net::TcpListener, state: Arc<Mutex<State>>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let service = service_fn(move |request| answer(request, Arc::clone(&state)));
        let connection = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Body>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let method = path.rsplit('/').next().unwrap();
    let fault = state.lock().unwrap().fault;
    if let Some(GrpcFault::Status(failing, code)) = fault
        && failing == method
    {
        return Ok(failed(code));
    }
    let body = request.into_body().collect().await?.to_bytes();
    let state = &mut *state.lock().unwrap();
    Ok(match method {
        "FindMissingBlobs" => {
            let asked = api::FindMissingBlobsRequest::decode(messages(&body)[0]).unwrap();
            let mut missing_blob_digests = asked.blob_digests;
            missing_blob_digests.retain(|digest| !state.blobs.contains_key(&digest.hash));
            one(&api::FindMissingBlobsResponse {
                missing_blob_digests,
            })
        }
        "BatchUpdateBlobs" => {
            let stored = api::BatchUpdateBlobsRequest::decode(messages(&body)[0]).unwrap();
            for blob in stored.requests {
                let digest = blob.digest.unwrap();
                state.blobs.insert(digest.hash, blob.data.into());
            }
            one(&api::BatchUpdateBlobsResponse::default())
        }
        "Write" => {
            let parts = messages(&body).into_iter();
            let parts: Vec<WriteRequest> =
                parts.map(|it| WriteRequest::decode(it).unwrap()).collect();
            let data: Vec<u8> = parts.iter().flat_map(|it| it.data.clone()).collect();
            let committed_size = data.len() as i64;
            let digest = digest_of(&parts[0].resource_name);
            state.blobs.insert(digest, data.into());
            one(&WriteResponse { committed_size })
        }
        "UpdateActionResult" => {
            let update = api::UpdateActionResultRequest::decode(messages(&body)[0]).unwrap();
            let result = update.action_result.unwrap();
            let action = update.action_digest.unwrap().hash;
            state.results.insert(action, result.clone());
            one(&result)
        }
        "GetActionResult" => {
            let asked = api::GetActionResultRequest::decode(messages(&body)[0]).unwrap();
            match state.results.get(&asked.action_digest.unwrap().hash) {
                None => failed(Code::NotFound),
                Some(result) if fault == Some(GrpcFault::WrongDigest) => one(&api::ActionResult {
                    stdout_raw: Vec::new(),
                    stdout_digest: result.output_files[0].digest.clone(),
                    ..result.clone()
                }),
                Some(result) => one(result),
            }
        }
        "Read" => {
            let asked = ReadRequest::decode(messages(&body)[0]).unwrap();
            match state.blobs.get(&digest_of(&asked.resource_name)) {
                None => failed(Code::NotFound),
                Some(blob) => read(blob, fault),
            }
        }
        _ => failed(Code::Unimplemented),
    })
}

/// The digest in the name of a blob, before the size.
fn digest_of(resource: &str) -> String {
    resource.rsplit('/').nth(1).unwrap().to_owned()
}

/// The messages of a request.
fn messages(mut body: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((header, rest)) = body.split_first_chunk::<5>() {
        let length = u32::from_be_bytes(header[1..].try_into().unwrap());
        let (message, rest) = rest.split_at(length as usize);
        found.push(message);
        body = rest;
    }
    found
}

fn frame(message: &impl Message) -> Frame<Bytes> {
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
    message.encode(&mut framed).unwrap();
    Frame::data(framed.into())
}

/// The end of a response.
fn end(code: Code) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", (code as i32).into());
    Frame::trailers(trailers)
}

fn response(frames: impl Stream<Item = Frame<Bytes>> + Send + 'static) -> Response<Body> {
    let body = StreamBody::new(frames.map(Ok)).boxed_unsync();
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(body).unwrap()
}

fn one(message: &impl Message) -> Response<Body> {
    response(stream::iter([frame(message), end(Code::Ok)]))
}

fn failed(code: Code) -> Response<Body> {
    response(stream::iter([end(code)]))
}

fn part(data: &[u8]) -> Frame<Bytes> {
    frame(&ReadResponse {
        data: data.to_vec(),
    })
}

/// Sends a blob, with a fault.
fn read(blob: &Bytes, fault: Option<GrpcFault>) -> Response<Body> {
    match fault {
        Some(GrpcFault::Endless) => response(stream::repeat_with(|| part(&[b'x'; 1 << 16]))),
        Some(GrpcFault::Slow) => {
            let bytes = stream::iter(blob.to_vec()).then(|byte| async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                part(&[byte])
            });
            response(bytes)
        }
        Some(GrpcFault::WrongBytes) => {
            let wrong: Vec<u8> = blob.iter().map(|byte| byte ^ 1).collect();
            response(stream::iter([part(&wrong), end(Code::Ok)]))
        }
        _ => {
            let parts: Vec<_> = blob.chunks(1 << 16).map(part).collect();
            response(stream::iter(parts.into_iter().chain([end(Code::Ok)])))
        }
    }
}
