//! `--shell` and `--shell-on-failure`: the package for which a shell is opened, and the messages before and after a shell.

use std::path::Path;

use super::error::{InputProblem, InputProblemKind, OfflineError};
use super::options::Options;
use super::second_run;
use super::select::Task;
use crate::compile::{FailedRun, ShellWhen};
use crate::diag::Bytes;
use crate::release::Name;

/// The package for which a shell is opened in place of its script, if there is one.
pub(super) fn package(options: &Options) -> Option<&Name> {
    match &options.shell.as_ref()?.when {
        ShellWhen::Instead(package) => Some(package),
        ShellWhen::AfterFailure => None,
    }
}

/// Checks that a release has the source of the package for which a shell is opened.
pub(super) fn check(options: &Options, tasks: &[Task]) -> Result<(), OfflineError> {
    let Some(package) = package(options) else {
        return Ok(());
    };
    let sources = tasks.iter().filter_map(|task| match task {
        Task::Compile { release, .. } => Some(release),
        Task::PassOn { .. }
        | Task::InPlace { .. }
        | Task::Replaced { .. }
        | Task::Unselected { .. } => None,
    });
    let sources = sources.flat_map(|release| &release.packages);
    let names: Vec<&Name> = sources
        .filter(|it| it.is_source())
        .map(|it| it.name())
        .collect();
    if names.contains(&package) {
        return Ok(());
    }
    Err(OfflineError::Input(
        options
            .inputs
            .iter()
            .map(|path| InputProblem {
                path: path.clone(),
                kind: InputProblemKind::NoSource {
                    package: package.clone(),
                    sources: names.iter().copied().cloned().collect(),
                },
            })
            .collect(),
    ))
}

/// The message before a shell.
pub(super) fn opened(package: &Name, failed: Option<&FailedRun>) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let what = match failed {
        None => {
            "`bash -x packaging` runs its script as a compilation does. `exit` ends the shell and removes the sandbox"
        }
        Some(failed) => {
            second_run::tail(&mut text, package, &failed.tail);
            let _ = writeln!(text, "Full log: {}", failed.log.display());
            let _ = writeln!(text, "Failed: {}", failed.failure);
            "`bash -x packaging` runs its script again. `exit` continues"
        }
    };
    let _ = write!(
        text,
        "Opening a shell in the sandbox of package {package}. {what}"
    );
    text
}

/// The message about the directories of a failed package.
pub(super) fn kept(package: &Name, directory: &Path, bytes: u64) -> String {
    format!(
        "The directories of package {package} are kept in {} ({} on disk). `{}` opens a shell in its sandbox",
        directory.display(),
        Bytes(bytes),
        directory.join("enter").display()
    )
}

/// The message after a shell.
pub(super) fn ended(package: &Name) -> String {
    format!("The shell in the sandbox of package {package} has ended")
}
