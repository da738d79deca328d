//! Blobs at signed URLs. A signed URL grants access to one blob without other credentials.

use std::path::Path;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::receive::Download;
use super::retry::retry;
use super::{AttemptError, BlobError, Blobs, Failure, Headers, Persistence, SignedUrl};
use crate::http::Body;
use crate::release::MultiDigest;

impl Blobs {
    /// Fetches the blob at `url` into the file `to` with mode 0600, replacing an existing file. The
    /// file gets its name only if every supported digest in `digest` matches.
    ///
    /// # Errors
    /// If the blob cannot be fetched or written, or has a wrong digest, or if `cancel` is canceled.
    pub async fn get_signed(
        &self,
        url: &SignedUrl,
        headers: &Headers,
        digest: &MultiDigest,
        to: &Path,
        persistence: Persistence<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), BlobError> {
        let download = Download::new(url.file_name(), digest, to);
        let attempt = || self.get_signed_once(url, headers, &download).boxed();
        retry(self.pace.signed(persistence), cancel, attempt)
            .await
            .map_err(|failed| failure(url, failed).into_blob_error(BlobError::Download))
    }

    /// Uploads the file `from` to `url`. The body, unless it is empty, is sent after the server's
    /// "100 Continue", or after one second.
    ///
    /// The Go agent makes one attempt. This agent tries again after a temporary failure, as `persistence` allows. A
    /// repeated upload is harmless, because a signed URL belongs to one object and every attempt sends the
    /// same bytes.
    ///
    /// # Errors
    /// If the file cannot be read or sent, or if `cancel` is canceled.
    pub async fn put_signed(
        &self,
        url: &SignedUrl,
        headers: &Headers,
        from: &Path,
        persistence: Persistence<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), BlobError> {
        let attempt = || self.put_signed_once(url, headers, from).boxed();
        retry(self.pace.signed(persistence), cancel, attempt)
            .await
            .map_err(|failed| failure(url, failed).into_blob_error(BlobError::Upload))
    }

    async fn get_signed_once(
        &self,
        url: &SignedUrl,
        headers: &Headers,
        download: &Download<'_>,
    ) -> Result<(), AttemptError> {
        let response = self.client.get(url, headers).await?;
        if !response.status().is_success() {
            return Err(AttemptError::DownloadRefused {
                status: response.status(),
            });
        }
        download.receive(response).await
    }

    async fn put_signed_once(
        &self,
        url: &SignedUrl,
        headers: &Headers,
        from: &Path,
    ) -> Result<(), AttemptError> {
        let response = self
            .client
            .put(url, headers, Body::file(from).await?)
            .await?;
        if !response.status().is_success() {
            return Err(AttemptError::UploadRefused {
                file: from.to_owned(),
                status: response.status(),
            });
        }
        Ok(())
    }
}

fn failure(url: &SignedUrl, (attempts, cause): (u32, AttemptError)) -> Failure {
    Failure {
        place: url.to_string(),
        attempts,
        cause,
    }
}
