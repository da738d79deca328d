//! Predicts the results of a run from the manifests of its inputs: the stemcell, and the paths of the results. Changes no file.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::error::{Incomplete, OfflineError};
use super::ids::ReleaseId;
use super::inputs;
use super::options::{Options, Purpose};
use super::outputs::expected_directories;
use super::progress::Progress;
use super::select::{Wanted, result_paths};
use super::stemcell::{self, CallStemcell};
use crate::diag::Chain;

/// Returns the stemcell of a run. If it is unknown, the error also contains the problems of the inputs' manifests.
pub(super) async fn stemcell(
    options: &Options,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<CallStemcell, OfflineError> {
    let error = match find_stemcell(options, progress) {
        Ok(stemcell) => return Ok(stemcell),
        Err(error) => error,
    };
    let unknown = CallStemcell::new(None);
    Err(match results(options, &unknown, progress, cancel).await {
        Err(problems @ (OfflineError::Input(_) | OfflineError::Unknown(_))) => {
            OfflineError::Incomplete(Box::new(Incomplete {
                failures: vec![problems, error],
                releases: Vec::new(),
            }))
        }
        Err(OfflineError::Stopped) => OfflineError::Stopped,
        Ok(_) | Err(_) => error,
    })
}

/// The paths of the results, in the order of the inputs.
pub(super) async fn results(
    options: &Options,
    stemcell: &CallStemcell,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Vec<(ReleaseId, PathBuf)>, OfflineError> {
    let wanted = options.output_directory.as_deref();
    let directories = expected_directories(&options.inputs, wanted, progress);
    let tarballs = options.inputs.iter().cloned().zip(directories);
    let inputs = inputs::read_manifests(tarballs, cancel).await?;
    let wanted = Wanted {
        stemcell,
        selection: &options.selection,
    };
    result_paths(inputs, wanted)
}

/// Determines the stemcell of a run from the options or from this machine. A run that only checks does not need one.
fn find_stemcell(options: &Options, progress: &Progress) -> Result<CallStemcell, OfflineError> {
    let found = match &options.stemcell {
        Some(stemcell) => Ok(stemcell.clone()),
        None => stemcell::detect(&options.vcap),
    };
    let is_check = matches!(options.purpose, Purpose::Check | Purpose::DryRun);
    match found {
        Ok(stemcell) => {
            let what = match options.purpose {
                Purpose::Compile => Some("Compiling"),
                Purpose::Check | Purpose::DryRun => Some("Checking"),
                Purpose::NameResults => None,
            };
            if let Some(what) = what {
                progress.line(&format!("{what} with stemcell {stemcell}"));
            }
            Ok(CallStemcell::new(Some(stemcell)))
        }
        Err(error) if is_check => {
            progress.warn(&format!(
                "Checking without a stemcell: {}. The agent does not check for which stemcell compiled packages are\nHint: {}",
                Chain(&error),
                error.hint()
            ));
            Ok(CallStemcell::new(None))
        }
        Err(error) => Err(error.into()),
    }
}
