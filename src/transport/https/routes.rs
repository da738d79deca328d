//! Answers HTTPS requests according to their path and method.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use subtle::ConstantTimeEq;
use tokio::sync::{mpsc, oneshot};

use super::blobs::{ResponseBody, UploadedBlobError, UploadedBlobs};
use super::body::{RequestBody, RequestBodyError};
use super::slots::Login;
use crate::config::Secret;
use crate::diag::Chain;
use crate::runtime::{self, Task};
use crate::transport::{Answer, Handle, InvalidRequest};

/// The maximum length of a request, which is kept in memory. The largest requests are
/// `upload_blob`, which contain a file of some MiB in base64. NATS allows only 1 MiB.
const REQUEST_LIMIT: usize = 64 << 20;

/// The paths of the server, `/agent` and `/blobs/`, which are those of the Go agent.
pub(super) struct Routes {
    authorization: Secret,
    blobs: UploadedBlobs,
    handle: Handle,
    tasks: mpsc::UnboundedSender<Task<()>>,
}

impl Routes {
    /// `tasks` receives the tasks of running requests, which must outlive their connections.
    pub(super) fn new(
        authorization: Secret,
        blobs: UploadedBlobs,
        handle: Handle,
        tasks: mpsc::UnboundedSender<Task<()>>,
    ) -> Self {
        Self {
            authorization,
            blobs,
            handle,
            tasks,
        }
    }

    /// Answers one request. The right password marks the connection as logged in.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        login: &Login,
    ) -> Response<ResponseBody> {
        let path = request.uri().path();
        let blob = path.strip_prefix("/blobs/").map(str::to_owned);
        if path != "/agent" && blob.is_none() {
            return status(StatusCode::NOT_FOUND);
        }
        if !self.is_authorized(&request) {
            return unauthorized();
        }
        if !login.succeed() {
            // Do not handle the request: the connection is being closed, so the client would get no reply.
            return closing(status(StatusCode::SERVICE_UNAVAILABLE));
        }
        match (blob, request.method()) {
            (None, &Method::POST) => self.request(request.into_body()).await,
            (Some(path), &Method::GET) => self.download(&path).await,
            (Some(path), &Method::PUT) => self.upload(&path, request.into_body()).await,
            _ => status(StatusCode::NOT_FOUND),
        }
    }

    /// Compares the `Authorization` header in constant time.
    fn is_authorized(&self, request: &Request<Incoming>) -> bool {
        let given = request.headers().get(AUTHORIZATION);
        let given = given.map_or(&b""[..], HeaderValue::as_bytes);
        self.authorization.expose().as_bytes().ct_eq(given).into()
    }

    async fn request(&self, body: Incoming) -> Response<ResponseBody> {
        let bytes = match RequestBody::new(body).whole(REQUEST_LIMIT).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "refused an HTTPS request");
                return closing(status(match error {
                    RequestBodyError::Broken(_) => StatusCode::BAD_REQUEST,
                    RequestBodyError::Idle => StatusCode::REQUEST_TIMEOUT,
                    RequestBodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                }));
            }
        };
        match self.handled(bytes).await {
            Some(Ok(answer)) => with_body(StatusCode::OK, "text/plain; charset=utf-8", answer.body),
            Some(Err(error)) => {
                tracing::debug!(%error, "refused an HTTPS request");
                status(StatusCode::INTERNAL_SERVER_ERROR)
            }
            None => status(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// Handles a request in a separate task, which continues if the client disconnects. `None` if
    /// the task panicked.
    async fn handled(&self, bytes: Bytes) -> Option<Result<Answer, InvalidRequest>> {
        let (done, result) = oneshot::channel();
        let handling = (self.handle)(bytes, None);
        let task = runtime::spawn("request", async move {
            // Sending fails if the client has disconnected.
            let _ = done.send(handling.await);
        });
        self.tasks.send(task).ok()?;
        result.await.ok()
    }

    async fn download(&self, path: &str) -> Response<ResponseBody> {
        let Some(name) = file_name(path) else {
            return status(StatusCode::NOT_FOUND);
        };
        let blob = match self.blobs.read(&name).await {
            Ok(Some(blob)) => blob,
            Ok(None) => return status(StatusCode::NOT_FOUND),
            Err(error) => return failed(&error),
        };
        let length = HeaderValue::from(blob.length());
        let mut response = Response::new(blob.into_body());
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, length);
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        response
    }

    async fn upload(&self, path: &str, body: Incoming) -> Response<ResponseBody> {
        let Some(name) = file_name(path) else {
            return failed(&UploadedBlobError::Name);
        };
        match self.blobs.write(name, RequestBody::new(body)).await {
            Ok(()) => status(StatusCode::CREATED),
            Err(error) => closing(failed(&error)),
        }
    }
}

/// The name of a blob: the last segment of the path, if it is a valid file name.
fn file_name(path: &str) -> Option<String> {
    let path = percent_decode_str(path).decode_utf8().ok()?;
    let name = path.rsplit('/').next()?;
    let is_plain =
        !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains(char::is_control);
    is_plain.then(|| name.to_owned())
}

fn status(code: StatusCode) -> Response<ResponseBody> {
    let mut response = Response::new(body(Vec::new()));
    *response.status_mut() = code;
    response
}

fn unauthorized() -> Response<ResponseBody> {
    let mut response = status(StatusCode::UNAUTHORIZED);
    response.headers_mut().insert(
        WWW_AUTHENTICATE,
        HeaderValue::from_static("Basic realm=\"\""),
    );
    response
}

/// Makes a response close the connection, because the rest of the request is not read.
fn closing(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A response with status 500 and the error's text.
fn failed(error: &(dyn std::error::Error + 'static)) -> Response<ResponseBody> {
    let error = Chain(error).to_string();
    tracing::warn!(error, "failed to serve a blob");
    with_body(
        StatusCode::INTERNAL_SERVER_ERROR,
        "text/plain; charset=utf-8",
        error.into_bytes(),
    )
}

fn with_body(
    code: StatusCode,
    content_type: &'static str,
    bytes: Vec<u8>,
) -> Response<ResponseBody> {
    let mut response = Response::new(body(bytes));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn body(bytes: Vec<u8>) -> ResponseBody {
    Full::from(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blob_name_is_the_last_path_segment() {
        for (path, name) in [
            ("a", Some("a")),
            ("x/y/3a5e6c5e-8f0b", Some("3a5e6c5e-8f0b")),
            ("a%2Fb", Some("b")),
            ("a%20b", Some("a b")),
            ("", None),
            ("a/", None),
            (".", None),
            ("..", None),
            ("%2e%2e", None),
            ("x/..%2f..", None),
            ("a%00b", None),
            ("a%ff", None),
        ] {
            assert_eq!(file_name(path).as_deref(), name, "{path}");
        }
        assert_eq!(file_name(&"a".repeat(256)), None);
    }

    proptest! {
        #[test]
        fn blob_path_stays_in_the_directory(path in "\\PC{0,20}|[./%0-9a-f]{0,20}") {
            if let Some(name) = file_name(&path) {
                let path = std::path::Path::new("/blobs").join(&name);
                prop_assert_eq!(path.parent(), Some("/blobs".as_ref()));
                prop_assert_eq!(path.file_name(), Some(name.as_ref()));
            }
        }
    }
}
