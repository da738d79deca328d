//! Downloads the files of a compiled package: its blob and its log.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::attempt::{Built, Cluster};
use super::error::RemoteFailure;
use super::results;
use crate::release::Digests;

/// The maximum size of a log that is downloaded, in bytes.
pub(super) const LONGEST_LOG: u64 = 256 << 20;

impl Cluster {
    /// Downloads the files of a package to these paths, whose directories exist. Returns the digests
    /// of the blob; `None` if the server has lost it or sends other bytes. A log that is too long is
    /// left on the server.
    pub(crate) async fn fetch(
        &self,
        built: &Built,
        (blob, log): (&Path, &Path),
        stop: &CancellationToken,
    ) -> Result<Option<Digests>, RemoteFailure> {
        let server = &self.common().server;
        let fetching = async {
            if let Some(digest) = built.log.as_ref().filter(|it| it.size <= LONGEST_LOG) {
                results::download(server, digest, log, stop).await?;
            }
            results::download(server, &built.package, blob, stop).await
        };
        let fetched = stop.run_until_cancelled(fetching).await;
        match fetched.unwrap_or(Err(RemoteFailure::Stopped)) {
            Err(RemoteFailure::Damaged) => Ok(None),
            fetched => fetched,
        }
    }
}

impl Built {
    /// The length of the log in bytes, if the log is too long to be downloaded.
    pub(crate) fn too_long_log(&self) -> Option<u64> {
        let log = self.log.as_ref()?;
        (log.size > LONGEST_LOG).then_some(log.size)
    }
}
