//! Where blobs come from and go to.
//!
//! A Director tells the agent of a blob in one of two ways: by an id in the blobstore of the settings, or by a signed URL. Both
//! end here. What arrives is hashed while it is written, and has its name only when its digests are right.
//!
//! ```text
//! Blobs ─┬─ get ──▶ BASE/data/sensitive_blobs/ID, BASE/data/blobs/ID, then the store
//!        ├─ create ──▶ the store
//!        │               ├─ local     a directory
//!        │               ├─ dav       the Director's own blobstore: nginx
//!        │               └─ program   everything else: the stemcell's `bosh-blobstore-PROVIDER`
//!        └─ get_signed, put_signed
//! ```
//!
//! # What is tried again
//!
//! What can be otherwise in a moment: no connection, a connection that was cut or fell silent, the statuses 408, 429 and 5xx, a
//! wrong digest, a failed program. Also 404 when a blob is fetched, which a replicated store answers for a while after an
//! upload. Not: 401, 403 and all other statuses, certificates that are not trusted, files of ours that cannot be read or
//! written. The Go agent tries everything again that comes from a store and every download, and no upload to a signed URL.

mod dav;
mod error;
mod external;
mod id;
mod local;
mod options;
mod receive;
mod retry;
mod signed;
mod store;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

pub use error::{BlobError, BlobsError, Cause, Failure, Printed, StoreProblem};
pub use id::{BlobId, InvalidBlobId};
pub use options::{BlobstoreSettings, NotText};

pub use crate::http::{Headers, Url as SignedUrl};

use crate::config::{Environment, Vcap};
use crate::http::{Client, Limits};
use crate::release::MultiDigest;
use crate::{fs, tls};
use options::Options;
use receive::Wanted;
use retry::{Pace, retry};
use store::Store;

/// Fetches and stores blobs. What it is asked to do ends promptly when `cancel` is called, and then has left nothing behind.
#[derive(Debug)]
pub struct Blobs {
    /// Where blobs are looked for first.
    directories: [PathBuf; 2],
    store: Store,
    client: Client,
    pace: Pace,
}

impl Blobs {
    /// Makes ready for the blobstore of the settings.
    ///
    /// That the store itself cannot be used (there is none, its program is missing) is told when it is used: a Director with
    /// signed URLs needs no store.
    ///
    /// # Errors
    /// When the certificates in the options are none.
    pub fn new(
        settings: Option<&BlobstoreSettings>,
        vcap: &Vcap,
        environment: &Environment,
    ) -> Result<Self, BlobsError> {
        Self::with_limits(
            settings,
            vcap,
            environment,
            Limits::default(),
            Pace::default(),
        )
    }

    fn with_limits(
        settings: Option<&BlobstoreSettings>,
        vcap: &Vcap,
        environment: &Environment,
        limits: Limits,
        pace: Pace,
    ) -> Result<Self, BlobsError> {
        let options = settings.map_or_else(Options::none, BlobstoreSettings::options);
        let ca = options
            .section("tls")
            .section("cert")
            .text("ca")
            .map_err(BlobsError::Authorities)?;
        let profile = match settings.map(|settings| settings.provider.as_str()) {
            Some("dummy" | "local" | "dav") => tls::Profile::Internal,
            _ => tls::Profile::External,
        };
        let tls = match tls::client(ca.as_deref(), profile) {
            // Without certificates plain HTTP and directories still work.
            Err(error @ tls::TlsError::SystemRoots(_)) => {
                tracing::warn!(%error, "blobs cannot be fetched or stored by HTTPS");
                Err(error)
            }
            other => Ok(other.map_err(BlobsError::Tls)?),
        };
        let client = Client::new(tls, environment).with_limits(limits);
        let store = Store::new(settings, vcap, environment, &client);
        if let Store::Unusable(problem) = &store {
            tracing::warn!(%problem, "only blobs with signed URLs can be fetched and stored");
        }
        Ok(Self {
            directories: [vcap.sensitive_blobs(), vcap.blobs()],
            store,
            client,
            pace,
        })
    }

    /// Fetches the blob `id` into a new file `to` with mode 0600, in place of what is there. The file is there only when every
    /// digest in `digest` that can be computed is right.
    ///
    /// # Errors
    /// When the blob cannot be fetched, is another one, or we are stopped.
    pub async fn get(
        &self,
        id: &BlobId,
        digest: &MultiDigest,
        to: &Path,
        cancel: &CancellationToken,
    ) -> Result<(), BlobError> {
        let wanted = Wanted::new(id.as_str(), digest, to);
        for directory in &self.directories {
            let file = directory.join(id.as_str());
            if !fs::metadata(&file).is_ok_and(|metadata| metadata.is_file()) {
                continue;
            }
            let copied = retry(1, Pace::none, cancel, || wanted.copy(&file, cancel).boxed()).await;
            let Err((_, cause)) = copied else {
                return Ok(());
            };
            if matches!(cause, Cause::Stopped) {
                return Err(BlobError::Stopped);
            }
            tracing::warn!(%cause, file = %file.display(), "a blob is there but cannot be used");
        }
        self.store
            .get(id, &wanted, self.pace, cancel)
            .await
            .map_err(|failure| failure.told(BlobError::Get))
    }

    /// Stores the file `from` as a new blob. Each attempt has an id of its own, so that none meets the half of another.
    ///
    /// # Errors
    /// When it cannot be read or stored, or we are stopped.
    pub async fn create(
        &self,
        from: &Path,
        cancel: &CancellationToken,
    ) -> Result<BlobId, BlobError> {
        self.store
            .create(from, self.pace, cancel)
            .await
            .map_err(|failure| failure.told(BlobError::Create))
    }
}
