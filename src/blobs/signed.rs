//! Blobs behind signed URLs: whoever has the URL may fetch, or store, this one blob.

use std::path::Path;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::receive::Wanted;
use super::retry::retry;
use super::store::ATTEMPTS;
use super::{BlobError, Blobs, Cause, Failure, Headers, SignedUrl};
use crate::http::Body;
use crate::release::MultiDigest;

impl Blobs {
    /// Fetches the blob at `url` into a new file `to` with mode 0600, in place of what is there. The file is there only when
    /// every digest in `digest` that can be computed is right. Three attempts, five seconds apart.
    ///
    /// # Errors
    /// When the blob cannot be fetched, is another one, or we are stopped.
    pub async fn get_signed(
        &self,
        url: &SignedUrl,
        headers: &Headers,
        digest: &MultiDigest,
        to: &Path,
        cancel: &CancellationToken,
    ) -> Result<(), BlobError> {
        let wanted = Wanted::new(url.file_name(), digest, to);
        let attempt = || self.get_signed_once(url, headers, &wanted).boxed();
        retry(ATTEMPTS, self.pace.signed(), cancel, attempt)
            .await
            .map_err(|failed| failure(url, failed).told(BlobError::Download))
    }

    /// Stores the file `from` at `url`. It is not sent before the server has said that it wants it, or for a second has said
    /// nothing.
    ///
    /// The Go agent tries this once. Here it is tried as often as the rest: a signed URL names one object and each attempt
    /// sends the same bytes, so that a second one, should the first have arrived after all, changes nothing.
    ///
    /// # Errors
    /// When it cannot be read or stored, or we are stopped.
    pub async fn put_signed(
        &self,
        url: &SignedUrl,
        headers: &Headers,
        from: &Path,
        cancel: &CancellationToken,
    ) -> Result<(), BlobError> {
        let attempt = || self.put_signed_once(url, headers, from).boxed();
        retry(ATTEMPTS, self.pace.signed(), cancel, attempt)
            .await
            .map_err(|failed| failure(url, failed).told(BlobError::Upload))
    }

    async fn get_signed_once(
        &self,
        url: &SignedUrl,
        headers: &Headers,
        wanted: &Wanted<'_>,
    ) -> Result<(), Cause> {
        let response = self.client.get(url, headers).await?;
        if !response.status().is_success() {
            return Err(Cause::DownloadRefused {
                status: response.status(),
            });
        }
        wanted.receive(response).await
    }

    async fn put_signed_once(
        &self,
        url: &SignedUrl,
        headers: &Headers,
        from: &Path,
    ) -> Result<(), Cause> {
        let response = self.client.put(url, headers, Body::file(from)?).await?;
        if !response.status().is_success() {
            return Err(Cause::UploadRefused {
                file: from.to_owned(),
                status: response.status(),
            });
        }
        Ok(())
    }
}

fn failure(url: &SignedUrl, (attempts, cause): (u32, Cause)) -> Failure {
    Failure {
        place: url.to_string(),
        attempts,
        cause,
    }
}
