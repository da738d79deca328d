//! The blobstore that the settings name, behind one interface for all kinds.

use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::dav::Dav;
use super::external::External;
use super::local::Local;
use super::receive::Download;
use super::retry::{ATTEMPTS, Pace, Persistence, retry};
use super::{AttemptError, BlobId, BlobstoreSettings, Failure, StoreProblem};
use crate::config::{Environment, Vcap};
use crate::http::Client;

#[derive(Debug)]
pub(super) enum BlobstoreClient {
    Local(Local),
    Dav(Dav),
    External(External),
    /// A blobstore that cannot be used, with the reason. It is reported at the first use.
    Unusable(Arc<StoreProblem>),
}

impl BlobstoreClient {
    pub(super) fn new(
        settings: Option<&BlobstoreSettings>,
        vcap: &Vcap,
        environment: &Environment,
        client: &Client,
    ) -> Self {
        let store = match settings {
            None => Err(StoreProblem::NoSettings),
            Some(settings) => match settings.provider.as_str() {
                "" => Err(StoreProblem::NoSettings),
                "dummy" => Err(StoreProblem::Dummy),
                "local" => Local::new(settings.options(), vcap).map(Self::Local),
                "dav" => Dav::new(settings.options(), client).map(Self::Dav),
                _ => External::new(settings, vcap, environment).map(Self::External),
            },
        };
        store.unwrap_or_else(|problem| Self::Unusable(Arc::new(problem)))
    }

    pub(super) async fn get(
        &self,
        id: &BlobId,
        download: &Download<'_>,
        pace: Pace,
        persistence: Persistence<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let attempt = || self.get_once(id, download, cancel).boxed();
        let repeats = pace.store(self.attempts(), persistence);
        retry(repeats, cancel, attempt)
            .await
            .map_err(|failed| self.failure(failed, Some(id)))
    }

    async fn get_once(
        &self,
        id: &BlobId,
        download: &Download<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), AttemptError> {
        match self {
            Self::Local(local) => download.copy(&local.file(id), cancel).await,
            Self::Dav(dav) => dav.get(id, download).await,
            Self::External(program) => program.get(id, download, cancel).await,
            Self::Unusable(problem) => Err(AttemptError::Unusable(Arc::clone(problem))),
        }
    }

    pub(super) async fn create(
        &self,
        from: &Path,
        pace: Pace,
        persistence: Persistence<'_>,
        cancel: &CancellationToken,
    ) -> Result<BlobId, Failure> {
        let attempt = || self.create_once(from, cancel).boxed();
        let repeats = pace.store(self.attempts(), persistence);
        retry(repeats, cancel, attempt)
            .await
            .map_err(|failed| self.failure(failed, None))
    }

    async fn create_once(
        &self,
        from: &Path,
        cancel: &CancellationToken,
    ) -> Result<BlobId, AttemptError> {
        let id = BlobId::random();
        match self {
            Self::Local(local) => local.put(from, &id, cancel).await?,
            Self::Dav(dav) => dav.put(from, &id).await?,
            Self::External(program) => program.put(from, &id, cancel).await?,
            Self::Unusable(problem) => return Err(AttemptError::Unusable(Arc::clone(problem))),
        }
        Ok(id)
    }

    fn attempts(&self) -> u32 {
        match self {
            Self::Dav(dav) => dav.attempts(),
            Self::Local(_) | Self::External(_) | Self::Unusable(_) => ATTEMPTS,
        }
    }

    fn failure(&self, (attempts, cause): (u32, AttemptError), id: Option<&BlobId>) -> Failure {
        let store = match self {
            Self::Local(local) => local.to_string(),
            Self::Dav(dav) => dav.to_string(),
            Self::External(program) => program.to_string(),
            Self::Unusable(_) => "no blobstore".to_owned(),
        };
        let place = match id {
            Some(id) => format!("{store}, blob {id}"),
            None => store,
        };
        Failure {
            place,
            attempts,
            cause,
        }
    }
}
