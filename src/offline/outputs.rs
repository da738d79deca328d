//! Chooses and creates the output directories, to which results are written.

use std::path::{Path, PathBuf};

use super::assemble::PARTIAL_PREFIX;
use super::error::{InputProblem, InputProblemKind, OfflineError};
use super::progress::Progress;
use crate::fs::{self, MadeDirectories};

/// The output directory if the directory of an input is not writable, as in the Go agent.
pub(super) const LAST_RESORT: &str = "/tmp";

/// The output directory of each input. Creates missing directories, and removes files that killed runs have left in them.
pub(super) fn output_directories(
    inputs: &[PathBuf],
    wanted: Option<&Path>,
    made: &mut MadeDirectories,
    progress: &Progress,
) -> Result<Vec<PathBuf>, OfflineError> {
    let directories = expected_directories(inputs, wanted, progress);
    let mut different = directories.clone();
    different.sort();
    different.dedup();
    let mut problems = Vec::new();
    for directory in different {
        if wanted.is_none() && fs::metadata(&directory).is_err() {
            // Skip a missing input, which is reported later by its own path.
            continue;
        }
        let usable = made
            .make(&directory)
            .and_then(|()| fs::check_writable(&directory));
        match usable {
            Ok(()) => {
                fs::remove_abandoned(&directory, PARTIAL_PREFIX, None);
            }
            Err(error) => problems.push(InputProblem {
                path: directory,
                kind: InputProblemKind::OutputDirectory(error),
            }),
        }
    }
    if problems.is_empty() {
        Ok(directories)
    } else {
        made.remove_empty();
        Err(OfflineError::Input(problems))
    }
}

/// The output directory of each input, whether it exists or not.
pub(super) fn expected_directories(
    inputs: &[PathBuf],
    wanted: Option<&Path>,
    progress: &Progress,
) -> Vec<PathBuf> {
    let directory = |input: &PathBuf| match wanted {
        Some(directory) => directory.to_owned(),
        None => next_to_input(input, progress),
    };
    inputs.iter().map(directory).collect()
}

fn next_to_input(input: &Path, progress: &Progress) -> PathBuf {
    let parent = fs::parent(input);
    // A missing input is reported later by its own path.
    if fs::metadata(parent).is_err() || fs::check_writable(parent).is_ok() {
        return parent.to_owned();
    }
    progress.warn(&format!(
        "Warning: `{}` is not writable: the result of {} is written to {LAST_RESORT}",
        parent.display(),
        input.display()
    ));
    LAST_RESORT.into()
}
