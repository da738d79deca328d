//! Blobs, results of actions, and capabilities.

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use bazel_remote_apis::google::bytestream as bytes_api;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tonic::{Request, Response, Status, Streaming};

use super::state::{Services, unneeded};

/// The size of the messages in which blobs are sent.
const PART: usize = 64 << 10;

type Reply<T> = Result<Response<T>, Status>;
type Parts<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl api::capabilities_server::Capabilities for Services {
    async fn get_capabilities(
        &self,
        _: Request<api::GetCapabilitiesRequest>,
    ) -> Reply<api::ServerCapabilities> {
        self.called("GetCapabilities").await;
        Ok(Response::new(api::ServerCapabilities {
            cache_capabilities: Some(api::CacheCapabilities {
                digest_functions: vec![api::digest_function::Value::Sha256 as i32],
                action_cache_update_capabilities: Some(api::ActionCacheUpdateCapabilities {
                    update_enabled: true,
                }),
                ..Default::default()
            }),
            execution_capabilities: Some(api::ExecutionCapabilities {
                exec_enabled: true,
                ..Default::default()
            }),
            ..Default::default()
        }))
    }
}

#[tonic::async_trait]
impl api::content_addressable_storage_server::ContentAddressableStorage for Services {
    async fn find_missing_blobs(
        &self,
        request: Request<api::FindMissingBlobsRequest>,
    ) -> Reply<api::FindMissingBlobsResponse> {
        self.called("FindMissingBlobs").await;
        let mut missing = request.into_inner().blob_digests;
        missing.retain(|digest| self.blob(digest).is_none());
        Ok(Response::new(api::FindMissingBlobsResponse {
            missing_blob_digests: missing,
        }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<api::BatchUpdateBlobsRequest>,
    ) -> Reply<api::BatchUpdateBlobsResponse> {
        self.called("BatchUpdateBlobs").await;
        let blobs = request.into_inner().requests;
        let size = blobs.iter().map(|blob| blob.data.len()).sum();
        self.transfer("BatchUpdateBlobs", size).await;
        for blob in blobs {
            self.store_from_client(blob.digest.unwrap_or_default().hash, blob.data.into())?;
        }
        Ok(Response::new(api::BatchUpdateBlobsResponse::default()))
    }

    async fn batch_read_blobs(
        &self,
        _: Request<api::BatchReadBlobsRequest>,
    ) -> Reply<api::BatchReadBlobsResponse> {
        unneeded()
    }

    type GetTreeStream = Parts<api::GetTreeResponse>;

    async fn get_tree(&self, _: Request<api::GetTreeRequest>) -> Reply<Self::GetTreeStream> {
        unneeded()
    }

    async fn split_blob(&self, _: Request<api::SplitBlobRequest>) -> Reply<api::SplitBlobResponse> {
        unneeded()
    }

    type GetChunkMappingStream = Parts<api::GetChunkMappingResponse>;

    async fn get_chunk_mapping(
        &self,
        _: Request<api::GetChunkMappingRequest>,
    ) -> Reply<Self::GetChunkMappingStream> {
        unneeded()
    }

    async fn splice_blob(
        &self,
        _: Request<api::SpliceBlobRequest>,
    ) -> Reply<api::SpliceBlobResponse> {
        unneeded()
    }

    async fn register_chunk_mapping(
        &self,
        _: Request<Streaming<api::RegisterChunkMappingRequest>>,
    ) -> Reply<api::RegisterChunkMappingResponse> {
        unneeded()
    }
}

#[tonic::async_trait]
impl bytes_api::byte_stream_server::ByteStream for Services {
    type ReadStream = Parts<bytes_api::ReadResponse>;

    async fn read(&self, request: Request<bytes_api::ReadRequest>) -> Reply<Self::ReadStream> {
        self.called("Read").await;
        let request = request.into_inner();
        let blob = self
            .blobs
            .lock()
            .unwrap()
            .get(hash_in(&request.resource_name))
            .cloned();
        let blob = blob.ok_or_else(|| Status::not_found("no such blob"))?;
        if blob.len() == self.model.package {
            self.downloads.pass().await;
        }
        let start = usize::try_from(request.read_offset).unwrap_or(usize::MAX);
        if start > blob.len() {
            return Err(Status::out_of_range("the offset is behind the end"));
        }
        let parts = stream::unfold(
            (self.clone(), blob.slice(start..)),
            async |(state, mut rest)| {
                if rest.is_empty() {
                    return None;
                }
                let part = rest.split_to(rest.len().min(PART));
                state.transfer("Read", part.len()).await;
                let response = bytes_api::ReadResponse { data: part.into() };
                Some((Ok(response), (state, rest)))
            },
        );
        Ok(Response::new(parts.boxed()))
    }

    async fn write(
        &self,
        request: Request<Streaming<bytes_api::WriteRequest>>,
    ) -> Reply<bytes_api::WriteResponse> {
        self.called("Write").await;
        let mut parts = request.into_inner();
        let mut name = String::new();
        while let Some(part) = parts.message().await? {
            if name.is_empty() {
                name.clone_from(&part.resource_name);
            }
            self.transfer("Write", part.data.len()).await;
            let mut uploads = self.uploads.lock().unwrap();
            let upload = uploads.entry(name.clone()).or_default();
            if usize::try_from(part.write_offset) != Ok(upload.len()) {
                return Err(Status::out_of_range("the offset is not the stored size"));
            }
            upload.extend(part.data);
            if part.finish_write {
                let data = Bytes::from(uploads.remove(&name).unwrap_or_default());
                let committed_size = data.len() as i64;
                self.store_from_client(hash_in(&name).to_owned(), data)?;
                return Ok(Response::new(bytes_api::WriteResponse { committed_size }));
            }
        }
        Err(Status::invalid_argument("the upload is not complete"))
    }

    async fn query_write_status(
        &self,
        request: Request<bytes_api::QueryWriteStatusRequest>,
    ) -> Reply<bytes_api::QueryWriteStatusResponse> {
        self.called("QueryWriteStatus").await;
        let name = request.into_inner().resource_name;
        let stored = self.uploads.lock().unwrap().get(&name).map(Vec::len);
        let stored = stored.ok_or_else(|| Status::not_found("no such upload"))?;
        Ok(Response::new(bytes_api::QueryWriteStatusResponse {
            committed_size: stored as i64,
            complete: false,
        }))
    }
}

/// The digest in the name of a blob, before the size.
fn hash_in(resource: &str) -> &str {
    resource.rsplit('/').nth(1).unwrap_or_default()
}

#[tonic::async_trait]
impl api::action_cache_server::ActionCache for Services {
    async fn get_action_result(
        &self,
        request: Request<api::GetActionResultRequest>,
    ) -> Reply<api::ActionResult> {
        self.called("GetActionResult").await;
        let action = request.into_inner().action_digest.unwrap_or_default();
        let result = self.results.lock().unwrap().get(&action.hash).cloned();
        let result = result.ok_or_else(|| Status::not_found("no such result"))?;
        Ok(Response::new(result))
    }

    async fn update_action_result(
        &self,
        request: Request<api::UpdateActionResultRequest>,
    ) -> Reply<api::ActionResult> {
        self.called("UpdateActionResult").await;
        let request = request.into_inner();
        let result = request.action_result.unwrap_or_default();
        let action = request.action_digest.unwrap_or_default().hash;
        self.results.lock().unwrap().insert(action, result.clone());
        Ok(Response::new(result))
    }
}
