//! Collects the failures of a call. The logs of failed packages are copied concurrently.

use super::error::OfflineError;
use super::failed_logs::FailedLogs;
use super::failure::PackageFailure;
use super::progress::Progress;
use crate::diag::Chain;
use crate::fs;
use crate::runtime::TaskSet;

/// What has failed, the first failure first.
#[derive(Debug)]
pub(super) struct Failures {
    failures: Vec<OfflineError>,
    /// By the index of the failure.
    copying: TaskSet<usize, fs::Result<FailedLogs>>,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            failures: Vec::new(),
            copying: TaskSet::new("copy log"),
        }
    }
}

impl Failures {
    pub(super) fn is_empty(&self) -> bool {
        self.failures.is_empty()
    }

    pub(super) fn push(&mut self, failure: OfflineError) {
        self.failures.push(failure);
    }

    /// Adds the failure of a package. Its log is copied to `copies`.
    pub(super) fn push_package(&mut self, failure: PackageFailure, copies: Option<FailedLogs>) {
        if let (Some(log), Some(copies)) = (failure.log.clone(), copies) {
            let package = failure.package.0.clone();
            self.copying.spawn_blocking(self.failures.len(), move || {
                copies.copy(&package, &log)?;
                Ok(copies)
            });
        }
        self.failures.push(OfflineError::Package(Box::new(failure)));
    }

    /// All failures, with the paths of the copied logs.
    pub(super) async fn finish(mut self, progress: &Progress) -> Vec<OfflineError> {
        while let Some((index, result)) = self.copying.next().await {
            let OfflineError::Package(failure) = &mut self.failures[index] else {
                continue;
            };
            let error = match result {
                Ok(Ok(copies)) => {
                    failure.set_log(&copies.log(&failure.package.0));
                    continue;
                }
                Ok(Err(error)) => Chain(&error).to_string(),
                Err(error) => Chain(&error).to_string(),
            };
            progress.line(&format!(
                "Warning: could not copy the log of package {} to the output directory: {error}",
                failure.package.0
            ));
        }
        self.failures
    }
}
