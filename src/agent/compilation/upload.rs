//! Transfers the blobs of a compile request with the blobstore of the current settings, and uploads the result.

use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::failure::Reason;
use super::request::Destination;
use super::{CompileRun, phases::Phases};
use crate::blobs::{BlobError, BlobId, Blobs, Persistence};
use crate::compile::Compiled;
use crate::release::MultiDigest;
use crate::release::digest::Algorithm;

impl CompileRun<'_> {
    /// Transfers a blob. If the blobstore in the settings is replaced meanwhile, starts again with the new one: the credentials of the old
    /// one may be revoked, and a compiled package would be lost.
    pub(super) async fn with_current_blobs<'b, T>(
        &self,
        transfer: impl Fn(Arc<Blobs>) -> BoxFuture<'b, Result<T, BlobError>>,
    ) -> Result<T, BlobError> {
        let mut changing = self.blobs.clone();
        loop {
            let current = Arc::clone(&changing.borrow_and_update());
            tokio::select! {
                transferred = transfer(current) => return transferred,
                Ok(()) = changing.changed() => {
                    tracing::info!(package = %self.request.name, "the blobstore in the settings was replaced; starting a transfer again");
                }
            }
        }
    }

    /// Uploads the result. Returns the value for the Director: the blob's ID and digest or, after an upload to a signed URL, only the
    /// digest, because the Director knows the ID of the blob at the URL.
    pub(super) async fn upload(
        &self,
        compiled: &Compiled,
        algorithms: &[Algorithm],
    ) -> Result<Value, Reason> {
        let digest = MultiDigest::of(&compiled.digests, algorithms);
        let digest = digest.as_ref().map(MultiDigest::as_str);
        let failed = |error| Reason::Upload(Box::new(error));
        match &self.request.destination {
            Destination::Blobstore => {
                let id = self.create(&compiled.blob).await.map_err(failed)?;
                Ok(json!({ "blobstore_id": id.as_str(), "sha1": digest }))
            }
            Destination::Signed(url, headers) => {
                let report = reporter(self.phases);
                let (report, cancel) = (&report, &self.task.cancel);
                let from = compiled.blob.as_path();
                let put = self.with_current_blobs(|blobs| {
                    async move {
                        let persistence = Persistence::Minutes(report);
                        let put = blobs.put_signed(url, headers, from, persistence, cancel);
                        put.await
                    }
                    .boxed()
                });
                put.await.map_err(failed)?;
                Ok(json!({ "sha1": digest }))
            }
        }
    }

    async fn create(&self, from: &Path) -> Result<BlobId, BlobError> {
        let report = reporter(self.phases);
        let (report, cancel) = (&report, &self.task.cancel);
        self.with_current_blobs(|blobs| {
            async move {
                let persistence = Persistence::Minutes(report);
                blobs.create(from, persistence, cancel).await
            }
            .boxed()
        })
        .await
    }
}

/// Shows failed attempts of a transfer in the progress of the task.
pub(super) fn reporter(phases: &Phases) -> impl Fn(&str) + Send + Sync {
    |text| phases.report(text)
}
