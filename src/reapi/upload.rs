//! Uploads of blobs. An interrupted upload continues at the offset that the server reports.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bazel_remote_apis::google::bytestream::byte_stream_client::ByteStreamClient;
use bazel_remote_apis::google::bytestream::{QueryWriteStatusRequest, WriteRequest};
use bytes::Bytes;
use futures_util::Stream;
use http_body_util::BodyExt as _;
use tonic::{Code, Status};

use super::digest::Digest;
use super::error::CallError;
use super::server::{Purpose, Server};
use crate::http::Body;

/// An upload of a blob, which may take several attempts.
#[derive(Debug)]
pub(crate) struct Upload {
    digest: Digest,
    /// The name under which an attempt was made; the server keeps the bytes of that attempt under this name.
    name: Mutex<Option<String>>,
}

impl Upload {
    pub(crate) fn new(digest: &Digest) -> Self {
        Self {
            digest: digest.clone(),
            name: Mutex::default(),
        }
    }

    fn name(&self) -> MutexGuard<'_, Option<String>> {
        self.name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Uploads a blob.
    pub(crate) async fn write(&self, digest: &Digest, body: Body) -> Result<(), CallError> {
        self.write_from(&Upload::new(digest), 0, body).await
    }

    /// The number of bytes that the server has from earlier attempts; `None` if it has the blob.
    pub(crate) async fn written(&self, upload: &Upload) -> Result<Option<u64>, CallError> {
        let Some(resource_name) = upload.name().clone() else {
            return Ok(Some(0));
        };
        let request = QueryWriteStatusRequest { resource_name };
        let channel = self.channel(Purpose::Store).await?;
        let mut client = ByteStreamClient::with_origin(channel, self.origin.clone());
        let status = match client.query_write_status(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                let error = CallError::failed("QueryWriteStatus", &status);
                if error.is_passing() {
                    return Err(error);
                }
                // The server has nothing, or cannot continue uploads.
                *upload.name() = None;
                return Ok(Some(0));
            }
        };
        if status.complete {
            return Ok(None);
        }
        let size = u64::try_from(status.committed_size).unwrap_or(0);
        if size == 0 || size > upload.digest.size {
            *upload.name() = None;
            return Ok(Some(0));
        }
        Ok(Some(size))
    }

    /// Uploads a blob, of which the server has `offset` bytes already. The body has the other bytes.
    pub(crate) async fn write_from(
        &self,
        upload: &Upload,
        offset: u64,
        body: Body,
    ) -> Result<(), CallError> {
        let new = || upload.digest.upload(&self.instance);
        let name = upload.name().get_or_insert_with(new).clone();
        let channel = self.channel(Purpose::Store).await?;
        let mut client = ByteStreamClient::with_origin(channel, self.origin.clone());
        let size = upload.digest.size;
        let error = match client.write(requests(name, offset, body)).await {
            // A committed size of -1 means that the server had the blob already.
            Ok(response) => match response.into_inner().committed_size {
                -1 => return Ok(()),
                stored if u64::try_from(stored) == Ok(size) => return Ok(()),
                stored => Status::data_loss(format!("{stored} of {size} bytes were stored")),
            },
            Err(status) if status.code() == Code::AlreadyExists => return Ok(()),
            Err(status) => status,
        };
        let error = CallError::failed("Write", &error);
        if offset == 0 || error.is_passing() {
            return Err(error);
        }
        // The server cannot continue the upload. The next attempt starts from the beginning.
        *upload.name() = None;
        let reason = format!("the server refused to continue an upload: {error}");
        Err(CallError::failed("Write", &Status::unavailable(reason)))
    }
}

/// The requests that upload the bytes of a blob from `offset` on. If the blob's file cannot be read, the stream ends
/// early, and the server refuses the incomplete blob.
fn requests(name: String, offset: u64, body: Body) -> impl Stream<Item = WriteRequest> {
    let offset = i64::try_from(offset).unwrap_or(i64::MAX);
    let start = (Some(name), offset, Some(body));
    futures_util::stream::unfold(start, |(name, offset, body)| async move {
        let mut body = body?;
        let data = match body.frame().await {
            Some(frame) => frame.ok()?.into_data().ok()?,
            // If no bytes are left to upload, the only request is an empty one that finishes the upload.
            None if name.is_some() && body.length() == 0 => Bytes::new(),
            None => return None,
        };
        let finish_write = body.length() == 0;
        let next = offset + data.len() as i64;
        let request = WriteRequest {
            // Only the first request has the name.
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
    use bazel_remote_apis::google::bytestream::{QueryWriteStatusResponse, WriteResponse};
    use futures_util::StreamExt as _;
    use prost::Message as _;

    use super::*;
    use crate::reapi::testing::{Reply, TestServer};

    fn body(data: &'static [u8]) -> Body {
        Body::bytes(Bytes::from_static(data))
    }

    #[tokio::test]
    async fn empty_body_is_one_finished_request() {
        for (offset, data) in [(0, &b""[..]), (0, b"bytes"), (5, b""), (2, b"tes")] {
            let sent = requests("name".to_owned(), offset, body(data));
            let sent: Vec<WriteRequest> = sent.collect().await;
            assert_eq!(sent.len(), 1);
            assert_eq!(sent[0].resource_name, "name");
            assert_eq!(sent[0].write_offset, offset as i64);
            assert!(sent[0].finish_write);
            assert_eq!(sent[0].data, data);
        }
    }

    /// A server that answers `QueryWriteStatus` with this reply. The first write fails.
    async fn server(status: Reply) -> TestServer {
        let count = std::sync::atomic::AtomicUsize::new(0);
        TestServer::start(move |method, _| match method {
            "QueryWriteStatus" => status.clone(),
            _ if count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 => {
                Reply::status(Code::Unavailable)
            }
            _ => Reply::messages(&[WriteResponse { committed_size: 5 }]),
        })
        .await
    }

    /// Writes twice. Returns the offset of the second attempt, and whether it used the name of the first; `None` if the server had the
    /// whole blob after the first.
    async fn attempts(status: Reply) -> Option<(u64, bool)> {
        let server = server(status).await;
        let client = server.client();
        let upload = Upload::new(&Digest::of(b"bytes"));
        assert_eq!(client.written(&upload).await.unwrap(), Some(0));
        let lost = client.write_from(&upload, 0, body(b"bytes")).await;
        assert!(lost.unwrap_err().is_passing());
        let offset = client.written(&upload).await.unwrap()?;
        let rest = &b"bytes"[usize::try_from(offset).unwrap()..];
        let written = client.write_from(&upload, offset, body(rest)).await;
        written.unwrap();
        let writes = server.calls_of("Write").into_iter();
        let writes = writes.map(|it| WriteRequest::decode(it[0].as_slice()).unwrap());
        let writes: Vec<WriteRequest> = writes.collect();
        let is_same = writes[0].resource_name == writes[1].resource_name;
        assert_eq!(writes[1].write_offset, offset as i64);
        Some((offset, is_same))
    }

    #[tokio::test]
    async fn upload_continues_where_the_server_says() {
        let status = |committed_size, complete| {
            Reply::messages(&[QueryWriteStatusResponse {
                committed_size,
                complete,
            }])
        };
        assert_eq!(attempts(status(2, false)).await, Some((2, true)));
        assert_eq!(attempts(status(5, false)).await, Some((5, true)));
        assert_eq!(attempts(status(5, true)).await, None);
        assert_eq!(attempts(status(0, false)).await, Some((0, false)));
        assert_eq!(attempts(status(6, false)).await, Some((0, false)));
        for code in [Code::NotFound, Code::Unimplemented] {
            assert_eq!(attempts(Reply::status(code)).await, Some((0, false)));
        }
    }

    #[tokio::test]
    async fn refused_continuation_starts_from_the_beginning() {
        let server = TestServer::start(|_, _| Reply::status(Code::InvalidArgument)).await;
        let client = server.client();
        let upload = Upload::new(&Digest::of(b"bytes"));
        let refused = client.write_from(&upload, 2, body(b"tes")).await;
        assert!(refused.unwrap_err().is_passing());
        assert_eq!(client.written(&upload).await.unwrap(), Some(0));
        let refused = client.write_from(&upload, 0, body(b"bytes")).await;
        assert!(!refused.unwrap_err().is_passing());
    }
}
