//! Fetches and stores blobs: files in a blobstore, such as sources and compiled packages.
//!
//! A Director identifies a blob by its ID in the blobstore that the settings name, or by a signed
//! URL. Downloads are hashed while they are written to a temporary file, which gets its final name
//! only if the digests match.
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
//! # Retries
//!
//! Temporary failures are retried: a failed, broken or silent connection; the statuses 408, 429 and
//! 5xx; a wrong digest; a failed blobstore program. A download is also retried after 404, which a
//! replicated store may return shortly after an upload. Other statuses, untrusted certificates, and
//! local files that cannot be read or written fail at once. The Go agent retries every failure of a
//! store and of a download, but no upload to a signed URL.
//!
//! While the blobstore is away, the transfers of a compile request are retried for ten minutes ([`Persistence::Minutes`]), others for some
//! seconds. A missing blob or a wrong digest is no sign of that.

mod dav;
mod error;
mod external;
mod id;
mod local;
mod on_disk;
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

pub use error::{AttemptError, BlobError, BlobsError, Failure, ProgramOutput, StoreProblem};
pub use id::{BlobId, InvalidBlobId};
pub use options::{BlobstoreSettings, NotString};
pub use retry::Persistence;

pub use crate::http::{Headers, Url as SignedUrl};

use crate::config::{Environment, Vcap};
use crate::http::{Client, Timeouts};
use crate::release::MultiDigest;
use crate::{fs, runtime, tls};
use options::StoreOptions;
use receive::Download;
use retry::{Pace, retry};
use store::BlobstoreClient;

/// Fetches and stores blobs. Canceling an operation ends it promptly and leaves no partial file.
#[derive(Debug)]
pub struct Blobs {
    /// Local directories that are searched before the blobstore.
    directories: [PathBuf; 2],
    store: BlobstoreClient,
    client: Client,
    pace: Pace,
}

impl Blobs {
    /// A client for the blobstore of the settings.
    ///
    /// A blobstore that cannot be used, because the settings name none or its program is missing,
    /// is reported only when it is used. A Director that uses signed URLs needs no blobstore.
    ///
    /// # Errors
    /// If the certificates in the options are invalid.
    pub fn new(
        settings: Option<&BlobstoreSettings>,
        vcap: &Vcap,
        environment: &Environment,
    ) -> Result<Self, BlobsError> {
        Self::with_timeouts(
            settings,
            vcap,
            environment,
            Timeouts::default(),
            Pace::default(),
        )
    }

    fn with_timeouts(
        settings: Option<&BlobstoreSettings>,
        vcap: &Vcap,
        environment: &Environment,
        timeouts: Timeouts,
        pace: Pace,
    ) -> Result<Self, BlobsError> {
        let options = settings.map_or_else(StoreOptions::none, BlobstoreSettings::options);
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
            // Plain HTTP and directories work without the system's certificates.
            Err(error @ tls::TlsError::SystemRoots(_)) => {
                tracing::warn!(%error, "cannot fetch or store blobs over HTTPS");
                Err(error)
            }
            other => Ok(other.map_err(BlobsError::Tls)?),
        };
        let client = Client::new(tls, environment).with_timeouts(timeouts);
        let store = BlobstoreClient::new(settings, vcap, environment, &client);
        if let BlobstoreClient::Unusable(problem) = &store {
            tracing::warn!(%problem, "the blobstore cannot be used; only signed URLs work");
        }
        Ok(Self {
            directories: [vcap.sensitive_blobs(), vcap.blobs()],
            store,
            client,
            pace,
        })
    }

    /// Fetches the blob `id` into the file `to` with mode 0600, replacing an existing file. The
    /// file gets its name only if every supported digest in `digest` matches.
    ///
    /// # Errors
    /// If the blob cannot be fetched or has a wrong digest, or if `cancel` is canceled.
    pub async fn get(
        &self,
        id: &BlobId,
        digest: &MultiDigest,
        to: &Path,
        persistence: Persistence<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), BlobError> {
        let download = Download::new(id.as_str(), digest, to);
        for directory in &self.directories {
            let file = directory.join(id.as_str());
            let own = file.clone();
            let looking = runtime::spawn_blocking("find blob", move || {
                fs::metadata(&own).is_ok_and(|metadata| metadata.is_file())
            });
            if !looking.await.unwrap_or(false) {
                continue;
            }
            let copied = retry(Pace::once(), cancel, || {
                download.copy(&file, cancel).boxed()
            })
            .await;
            let Err((_, cause)) = copied else {
                return Ok(());
            };
            if matches!(cause, AttemptError::Stopped) {
                return Err(BlobError::Stopped);
            }
            tracing::warn!(%cause, file = %file.display(), "ignoring a local blob that cannot be used");
        }
        self.store
            .get(id, &download, self.pace, persistence, cancel)
            .await
            .map_err(|failure| failure.into_blob_error(BlobError::Get))
    }

    /// Stores the file `from` as a new blob. Each attempt uses a new ID, so that it cannot conflict
    /// with an earlier partial upload.
    ///
    /// # Errors
    /// If the file cannot be read or stored, or if `cancel` is canceled.
    pub async fn create(
        &self,
        from: &Path,
        persistence: Persistence<'_>,
        cancel: &CancellationToken,
    ) -> Result<BlobId, BlobError> {
        self.store
            .create(from, self.pace, persistence, cancel)
            .await
            .map_err(|failure| failure.into_blob_error(BlobError::Create))
    }
}
