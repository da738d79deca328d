//! Collects the failures of a run. Reads and copies the logs of failed packages on blocking threads, while the run continues.

use std::path::PathBuf;

use super::error::OfflineError;
use super::failed_logs::FailedLogs;
use super::failure::PackageFailure;
use super::progress::Progress;
use crate::compile::{PrintedLine, find_error};
use crate::diag::Chain;
use crate::fs;
use crate::runtime::TaskSet;

/// The failures, in the order in which they occurred.
#[derive(Debug)]
pub(super) struct Failures {
    failures: Vec<OfflineError>,
    /// The tasks that examine logs, by the index of the failure.
    logs: TaskSet<usize, Examined>,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            failures: Vec::new(),
            logs: TaskSet::new("failed log"),
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

    /// Adds the failure of a package. Starts to read the package's log and to copy it to `copies`.
    pub(super) fn push_package(&mut self, failure: PackageFailure, copies: Option<FailedLogs>) {
        if let Some(log) = failure.log.clone() {
            let package = failure.package.0.clone();
            self.logs.spawn_blocking(self.failures.len(), move || {
                let copy = copies.map(|copies| {
                    copies.copy(&package, &log)?;
                    Ok(copies.log(&package))
                });
                Examined {
                    error_line: find_error(&log),
                    copy: copy.transpose(),
                }
            });
        }
        self.failures.push(OfflineError::Package(Box::new(failure)));
    }

    /// Waits for the logs. Returns all failures, with error lines and with the paths of the copies.
    pub(super) async fn finish(mut self, progress: &Progress) -> Vec<OfflineError> {
        while let Some((index, result)) = self.logs.next().await {
            let OfflineError::Package(failure) = &mut self.failures[index] else {
                continue;
            };
            let warn = |error: &dyn std::error::Error| {
                progress.warn(&format!(
                    "Warning: could not read and copy the log of package {}: {}",
                    failure.package.0,
                    Chain(error)
                ));
            };
            let examined = match result {
                Ok(examined) => examined,
                Err(error) => {
                    warn(&error);
                    continue;
                }
            };
            let (error_line, copy) = (examined.error_line, examined.copy);
            [error_line.as_ref().err(), copy.as_ref().err()]
                .into_iter()
                .flatten()
                .for_each(|error| warn(error));
            failure.error_line = error_line.ok().flatten();
            if let Ok(Some(copy)) = copy {
                failure.set_log(&copy);
            }
        }
        self.failures
    }
}

/// The log of a failed package, read and copied.
#[derive(Debug)]
struct Examined {
    error_line: fs::Result<Option<PrintedLine>>,
    /// The path of the copy; `None` if none is wanted.
    copy: fs::Result<Option<PathBuf>>,
}
