//! The content-addressable storage (CAS) of a server, which stores blobs by their digests.

use bazel_remote_apis::google::bytestream::byte_stream_client::ByteStreamClient;
use bazel_remote_apis::google::bytestream::{ReadRequest, ReadResponse};
use bytes::Bytes;
use tonic::{Code, Status, Streaming};

use super::digest::{Blob, Digest, SHA256};
use super::error::CallError;
use super::server::{Purpose, Server};
use crate::http::Body;
use bazel_remote_apis::build::bazel::remote::execution::v2 as api;

use api::content_addressable_storage_client::ContentAddressableStorageClient;

/// A blob that is being downloaded in parts.
#[derive(Debug)]
pub(crate) struct Parts {
    stream: Streaming<ReadResponse>,
    /// The first message, until it is returned.
    first: Option<ReadResponse>,
    digest: Digest,
    /// How many bytes of the blob were received, including those before the offset.
    size: u64,
}

impl Parts {
    /// Receives the next part; `None` at the end of the blob. Checks the length of the blob, but not its digest: the caller hashes the
    /// parts.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        let part = match self.first.take() {
            Some(part) => Some(part),
            None => {
                let part = self.stream.message().await;
                part.map_err(|status| CallError::failed("Read", &status))?
            }
        };
        let (size, sha256) = (self.digest.size, &self.digest.sha256);
        let Some(part) = part else {
            // A proxy may end a stream early.
            return match self.size == size {
                true => Ok(None),
                false => Err(CallError::failed(
                    "Read",
                    &Status::unavailable(format!("{} of {size} bytes were sent", self.size)),
                )),
            };
        };
        self.size += part.data.len() as u64;
        match self.size <= size {
            true => Ok(Some(part.data.into())),
            false => Err(CallError::Damaged {
                sha256: sha256.clone(),
            }),
        }
    }
}

impl Server {
    /// Returns the SHA-256 of those blobs that the server lacks.
    pub(crate) async fn missing(
        &self,
        all: impl IntoIterator<Item = &Digest>,
    ) -> Result<Vec<String>, CallError> {
        let request = api::FindMissingBlobsRequest {
            instance_name: self.instance.clone(),
            blob_digests: all.into_iter().map(Digest::message).collect(),
            digest_function: SHA256,
        };
        let channel = self.channel(Purpose::Store).await?;
        let mut client = ContentAddressableStorageClient::with_origin(channel, self.origin.clone());
        let response = match client.find_missing_blobs(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Err(CallError::failed("FindMissingBlobs", &status)),
        };
        let missing = response.missing_blob_digests.into_iter();
        Ok(missing.map(|digest| digest.hash).collect())
    }

    /// Stores small blobs in one request or, if they are longer than `batch` bytes together, one by
    /// one.
    pub(crate) async fn store_small(
        &self,
        blobs: Vec<Blob>,
        batch: usize,
    ) -> Result<(), CallError> {
        if blobs.iter().map(|blob| blob.data.len()).sum::<usize>() > batch {
            for blob in blobs {
                let body = Body::bytes(blob.data.into());
                self.write(&blob.digest, body).await?;
            }
            return Ok(());
        }
        if blobs.is_empty() {
            return Ok(());
        }
        let requests = blobs.into_iter().map(Blob::into_request);
        let request = api::BatchUpdateBlobsRequest {
            instance_name: self.instance.clone(),
            requests: requests.collect(),
            digest_function: SHA256,
        };
        let channel = self.channel(Purpose::Store).await?;
        let mut client = ContentAddressableStorageClient::with_origin(channel, self.origin.clone());
        let failed = |status: &Status| CallError::failed("BatchUpdateBlobs", status);
        let response = client.batch_update_blobs(request).await;
        let response = response.map_err(|status| failed(&status))?.into_inner();
        let statuses = response.responses.into_iter().filter_map(|it| it.status);
        for status in statuses {
            let code = Code::from(status.code);
            // Another run may have stored the blob meanwhile.
            if !matches!(code, Code::Ok | Code::AlreadyExists) {
                return Err(failed(&Status::new(code, status.message)));
            }
        }
        Ok(())
    }

    /// Starts the download of a blob; `None` if it is missing.
    pub(crate) async fn read(&self, digest: &Digest) -> Result<Option<Parts>, CallError> {
        self.read_from(digest, 0).await
    }

    /// Starts the download of a blob without its first `offset` bytes; `None` if it is missing.
    pub(crate) async fn read_from(
        &self,
        digest: &Digest,
        offset: u64,
    ) -> Result<Option<Parts>, CallError> {
        let request = ReadRequest {
            resource_name: digest.download(&self.instance),
            read_offset: i64::try_from(offset).unwrap_or(i64::MAX),
            ..Default::default()
        };
        let channel = self.channel(Purpose::Fetch).await?;
        let mut client = ByteStreamClient::with_origin(channel, self.origin.clone());
        // Wait for the first message: some servers send headers before they search for the blob, and
        // report only then that it is missing.
        let reading = async {
            let mut stream = client.read(request).await?.into_inner();
            let first = stream.message().await?;
            Ok::<_, Status>((stream, first))
        };
        match reading.await {
            Ok((stream, first)) => Ok(Some(Parts {
                stream,
                first,
                digest: digest.clone(),
                size: offset,
            })),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(CallError::failed("Read", &status)),
        }
    }

    /// Downloads a blob of at most `limit` bytes into memory, and verifies its digest; `None` if it
    /// is missing.
    pub(crate) async fn read_small(
        &self,
        digest: &Digest,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, CallError> {
        let mut data = Vec::new();
        let Some(mut parts) = self.read(digest).await? else {
            return Ok(None);
        };
        while let Some(part) = parts.next().await? {
            data.extend(part);
            if data.len() > limit {
                return Err(CallError::TooLong {
                    sha256: digest.sha256.clone(),
                    limit,
                });
            }
        }
        match Digest::of(&data) == *digest {
            true => Ok(Some(data)),
            false => Err(CallError::Damaged {
                sha256: digest.sha256.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::reapi::testing::{Reply, TestServer};

    /// A server whose blobs have these parts.
    async fn server(parts: &[&[u8]]) -> TestServer {
        let parts = parts.iter().map(|data| ReadResponse {
            data: data.to_vec(),
        });
        let reply = Reply::messages(&parts.collect::<Vec<_>>());
        TestServer::start(move |_, _| reply.clone()).await
    }

    #[tokio::test]
    async fn blob_is_returned_only_with_its_own_bytes() {
        let read = async |parts: &[&[u8]]| {
            let client = server(parts).await.client();
            client.read_small(&Digest::of(b"bytes"), 10).await
        };
        assert_eq!(read(&[b"by", b"tes"]).await.unwrap().unwrap(), b"bytes");
        assert!(read(&[b"by"]).await.unwrap_err().is_passing());
        for wrong in [b"other", &b"bytes!"[..]] {
            let error = read(&[wrong]).await.unwrap_err();
            assert!(matches!(error, CallError::Damaged { .. }), "{error}");
        }
        let empty = server(&[]).await.client();
        let empty = empty.read_small(&Digest::of(b""), 10).await;
        assert_eq!(empty.unwrap().unwrap(), b"");
    }

    #[tokio::test]
    async fn blob_that_is_missing_after_the_headers_is_none() {
        let server = TestServer::start(|_, _| Reply::status(Code::NotFound)).await;
        let read = server.client().read(&Digest::of(b"bytes")).await;
        assert!(read.unwrap().is_none());
    }

    #[tokio::test]
    async fn blob_is_read_from_an_offset() {
        let server = server(&[b"tes"]).await;
        let client = server.client();
        let reading = client.read_from(&Digest::of(b"bytes"), 2).await.unwrap();
        let mut parts = reading.unwrap();
        assert_eq!(parts.next().await.unwrap().unwrap(), &b"tes"[..]);
        assert!(parts.next().await.unwrap().is_none());
        let request = ReadRequest::decode(server.calls_of("Read")[0][0].as_slice());
        assert_eq!(request.unwrap().read_offset, 2);
    }
}
