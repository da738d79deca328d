//! Reads the tarballs of a run, and prints warnings about their contents.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::error::OfflineError;
use super::ids::ReleaseId;
use super::open;
use super::open_error::OpenError;
use super::peek;
use super::progress::Progress;
use super::select::Input;
use super::space;
use super::tarball::{Opened, Role, shown};
use super::work_directory;
use crate::compile::WorkDirectory;
use crate::fs;
use crate::release::Manifest;
use crate::runtime;

/// The maximum number of ignored files in a warning.
const CLUTTER_NAMED: usize = 10;

/// How long a read of an input may continue after the run was canceled.
const READ_GRACE: Duration = Duration::from_secs(2);

/// Reads every tarball once. `tarballs` has each tarball with the output directory of its result.
pub(super) async fn read(
    tarballs: Vec<(PathBuf, PathBuf)>,
    work_directory: &WorkDirectory,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Vec<Input<Opened>>, OfflineError> {
    let paths = tarballs.iter().map(|(tarball, _)| tarball.as_path());
    // The error names the parent directory, because the work directory no longer exists when the user reads it.
    space::check_for_tarballs(paths, fs::parent(work_directory.path()))?;
    let mut inputs = Vec::new();
    for (index, (tarball, output_directory)) in tarballs.into_iter().enumerate() {
        if cancel.is_cancelled() {
            return Err(OfflineError::Stopped);
        }
        progress.line(&format!(
            "Reading BOSH Release Manifest from tarball {}",
            tarball.display()
        ));
        let spool = work_directory::spool(work_directory, ReleaseId::from_position(index))?;
        let (path, token) = (tarball.clone(), cancel.clone());
        let start = Instant::now();
        let opened = reading(cancel, move || open::open(&path, &spool, &token)).await?;
        let ms = start.elapsed().as_millis();
        tracing::debug!(tarball = %tarball.display(), ms, "read the tarball and computed its digests");
        let opened = match opened {
            // The error concerns the work directory. Name the tarball instead: the work directory no longer exists when the user reads
            // the message.
            Err(OpenError::Files(source)) if source.path.starts_with(work_directory.path()) => {
                return Err(OfflineError::Spool { tarball, source });
            }
            opened => opened,
        };
        if let Ok(opened) = &opened {
            describe(opened, progress);
        }
        inputs.push(Input {
            tarball,
            output_directory,
            content: opened,
        });
    }
    Ok(inputs)
}

/// Reads only the manifest of each tarball. `tarballs` has each tarball with the output directory of its result.
pub(super) async fn read_manifests(
    tarballs: impl Iterator<Item = (PathBuf, PathBuf)>,
    cancel: &CancellationToken,
) -> Result<Vec<Input<Manifest>>, OfflineError> {
    let mut inputs = Vec::new();
    for (tarball, output_directory) in tarballs {
        let (path, token) = (tarball.clone(), cancel.clone());
        let content = reading(cancel, move || peek::manifest(&path, &token)).await?;
        if cancel.is_cancelled() {
            return Err(OfflineError::Stopped);
        }
        inputs.push(Input {
            tarball,
            output_directory,
            content,
        });
    }
    Ok(inputs)
}

/// Runs `read`, which reads a tarball, on a blocking thread. It must end after a cancellation. If it does not, because a pipe or a network
/// file system blocks it, it is abandoned after [`READ_GRACE`].
async fn reading<T: Send + 'static>(
    cancel: &CancellationToken,
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, OfflineError> {
    let mut reading = runtime::spawn_blocking("open", read);
    tokio::select! {
        read = &mut reading => Ok(read?),
        () = grace_after(cancel) => Err(OfflineError::Stopped),
    }
}

/// Returns [`READ_GRACE`] after the cancellation.
async fn grace_after(cancel: &CancellationToken) {
    cancel.cancelled().await;
    tokio::time::sleep(READ_GRACE).await;
}

fn describe(opened: &Opened, progress: &Progress) {
    let manifest = &opened.manifest;
    let compiled = manifest.compiled_packages.iter().flatten().count();
    let count = manifest.packages.len() + compiled;
    let mut line = format!(
        "Release {}/{} has {count} packages",
        manifest.name, manifest.version
    );
    if compiled > 0 {
        let _ = write!(line, ", {compiled} of them already compiled");
    }
    progress.line(&line);
    progress.line("Extracting packages");
    if let Some(warning) = clutter_warning(opened) {
        progress.warn(&warning);
    }
    let carried = opened.carried.iter();
    for stray in carried.filter(|carried| carried.role == Role::Stray) {
        progress.warn(&format!(
            "Warning: `{}` in {} is not a package and is not copied to the result",
            shown(&stray.path),
            opened.tarball.display()
        ));
    }
}

/// The warning about files that operating systems and tools left in a tarball, if there are any.
fn clutter_warning(opened: &Opened) -> Option<String> {
    let found = &opened.clutter;
    let named: Vec<String> = found
        .iter()
        .take(CLUTTER_NAMED)
        .map(|path| format!("`{}`", shown(path).escape_debug()))
        .collect();
    let (what, more) = match found.len() {
        0 => return None,
        1 => ("a file that is".to_owned(), String::new()),
        count if count > CLUTTER_NAMED => (
            format!("{count} files that are"),
            format!(" and {} more", count - CLUTTER_NAMED),
        ),
        count => (format!("{count} files that are"), String::new()),
    };
    Some(format!(
        "Warning: ignoring {what} not part of the release in {}, but left there by an operating system or a tool: {}{more}",
        opened.tarball.display(),
        named.join(", ")
    ))
}
