//! A server of the Remote Execution API that stores nothing.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use bazel_remote_apis::google::bytestream::WriteResponse;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use crate::runtime;

const UNIMPLEMENTED: &str = "12";

/// The responses of the server.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    /// The number of stored bytes in the response to an upload.
    pub committed: i64,
    /// The status of an update of a result.
    pub update: &'static str,
    /// The entry that the server has.
    pub description: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct GrpcServer {
    pub url: String,
    /// The methods that were called.
    pub calls: Arc<Mutex<Vec<String>>>,
    /// The headers of the last call.
    pub headers: Arc<Mutex<HeaderMap>>,
}

impl GrpcServer {
    pub(super) async fn start(answers: Answers) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("grpc://{}", listener.local_addr().unwrap());
        let calls = Arc::new(Mutex::new(Vec::new()));
        let headers = Arc::new(Mutex::new(HeaderMap::new()));
        let (log, last) = (Arc::clone(&calls), Arc::clone(&headers));
        // The tasks end with the test's runtime.
        runtime::spawn("server", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, log, last) = (answers.clone(), Arc::clone(&log), Arc::clone(&last));
                let service = service_fn(move |request: Request<Incoming>| {
                    *last.lock().unwrap() = request.headers().clone();
                    answer(request, answers.clone(), Arc::clone(&log))
                });
                let connection = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                runtime::spawn("connection", connection).detach();
            }
        })
        .detach();
        Self {
            url,
            calls,
            headers,
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: Answers,
    log: Arc<Mutex<Vec<String>>>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let method = path.rsplit('/').next().unwrap().to_owned();
    log.lock().unwrap().push(method.clone());
    let body = request.into_body().collect().await?.to_bytes();
    let (message, status) = match method.as_str() {
        "GetCapabilities" => (Vec::new(), UNIMPLEMENTED),
        "FindMissingBlobs" => {
            // After the header of the message.
            let asked = api::FindMissingBlobsRequest::decode(&body[5..]).unwrap();
            let missing = api::FindMissingBlobsResponse {
                missing_blob_digests: asked.blob_digests,
            };
            (missing.encode_to_vec(), "0")
        }
        "Write" => {
            let committed_size = answers.committed;
            (WriteResponse { committed_size }.encode_to_vec(), "0")
        }
        "GetActionResult" => {
            let result = api::ActionResult {
                stdout_raw: answers.description,
                ..Default::default()
            };
            (result.encode_to_vec(), "0")
        }
        "UpdateActionResult" => (Vec::new(), answers.update),
        _ => (Vec::new(), "0"),
    };
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let body = Full::new(Bytes::from(framed));
    let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response.body(body).unwrap())
}
