//! Runs that compile nothing (`--check`, `--dry-run`): makes the checks of a compilation, and prints what a compilation would do.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::checked::CheckedRelease;
use super::dry_run::PlannedPackages;
use super::error::OfflineError;
use super::graph::Include;
use super::options::{Options, Purpose};
use super::progress::Progress;
use super::select::Task;
use super::setup;
use super::stemcell::CallStemcell;
use crate::fs::{self, MadeDirectories};
use crate::sandbox::Sharing;

/// Checks the directories that a compilation would create after it has read the releases. Leaves none of them behind.
pub(super) fn check_directories(options: &Options) -> Result<(), OfflineError> {
    let mut made = MadeDirectories::default();
    let scratch = match &options.scratch {
        Sharing::Kept(directory) => Some(directory.as_path()),
        Sharing::Run | Sharing::Off => None,
    };
    let mut wanted = scratch.into_iter().chain(options.logs_directory.as_deref());
    let checked = wanted.try_for_each(|directory| {
        made.make(directory)?;
        fs::check_writable(directory)
    });
    made.remove_empty();
    Ok(checked?)
}

/// Prints what a compilation would do with each input, and for `--dry-run` with each package. `logs` is the directory with the
/// durations of earlier runs.
pub(super) async fn announce(
    tasks: &[Task],
    stemcell: &CallStemcell,
    options: &Options,
    logs: &Path,
    (progress, cancel): (&Progress, &CancellationToken),
) -> Result<(), OfflineError> {
    for task in tasks {
        progress.line(&line_of(task, stemcell));
    }
    if options.purpose == Purpose::DryRun {
        let compilation = setup::expected_compilation(options, progress);
        let mut packages = PlannedPackages::of(
            tasks,
            (Include::Compilation, options.source_dates),
            logs,
            progress,
            cancel,
        )
        .await?;
        packages
            .look_into_cache(options, stemcell.known(), cancel)
            .await?;
        // Print this even with `--quiet`, because the user has requested it.
        progress.report(&packages.describe(compilation, logs));
    }
    progress.success("No problems found; nothing was compiled");
    Ok(())
}

fn line_of(task: &Task, stemcell: &CallStemcell) -> String {
    let compiled_for = match stemcell.known() {
        Some(_) => "already compiled for this stemcell",
        None => "already compiled",
    };
    match task {
        Task::Compile {
            release, output, ..
        } => format!(
            "Release {} would be compiled to {}: {}",
            release.label(),
            output.display(),
            counts(release)
        ),
        Task::PassOn {
            release, output, ..
        } => format!(
            "{} is {compiled_for} and would be copied unchanged to {}",
            release.tarball.display(),
            output.display()
        ),
        Task::InPlace { release, .. } => format!(
            "{} is {compiled_for} and would stay unchanged",
            release.tarball.display()
        ),
        Task::Replaced { tarball, by } => format!(
            "{} is an earlier result of {} {}",
            tarball.display(),
            by.of.display(),
            match by.is_rebuilt {
                true => "and would be rebuilt",
                false => "with another selection and would be left out",
            }
        ),
        Task::Unselected { tarball } => format!(
            "Nothing is selected of {}: it would be left out",
            tarball.display()
        ),
    }
}

/// How many packages are compiled, and how many are compiled already.
fn counts(release: &CheckedRelease) -> String {
    let sources = release.packages.iter().filter(|it| it.is_source()).count();
    let compiled = release.packages.len() - sources;
    let plural = if sources == 1 { "" } else { "s" };
    match compiled {
        0 => format!("{sources} package{plural} to compile"),
        _ => format!("{sources} package{plural} to compile, {compiled} already compiled"),
    }
}
