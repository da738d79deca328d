//! Writes the report of a run, with the sizes and digests of its files, as JSON (`--report`) and as an HTML page (`--timings`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::call_record::CallRecord;
use super::call_report::{CallReport, CallResult, File};
use super::error::OfflineError;
use super::failure_kind::FailureKind;
use super::one_package::record::OnePackageRecord;
use super::timings;
use crate::diag::printable_json;
use crate::fs::{self, Context};
use crate::release::{Algorithm, Digests};
use crate::runtime::{self, Cancellable};

/// A report that is written when the exit code of the run is known.
#[derive(Debug)]
pub struct ReportFile(Contents);

#[derive(Debug)]
enum Contents {
    /// A run of releases, as JSON and as a page.
    Releases {
        json: Option<PathBuf>,
        page: Option<PathBuf>,
        record: Arc<CallRecord>,
    },
    /// A run of one package, as JSON.
    Package {
        json: PathBuf,
        record: Arc<OnePackageRecord>,
    },
}

impl ReportFile {
    /// The report of a run of releases; `None` if no file is wanted.
    pub(super) fn new(
        json: Option<PathBuf>,
        page: Option<PathBuf>,
        record: &Arc<CallRecord>,
    ) -> Option<Self> {
        let is_wanted = json.is_some() || page.is_some();
        is_wanted.then(|| {
            Self(Contents::Releases {
                json,
                page,
                record: Arc::clone(record),
            })
        })
    }

    /// The report of a run of one package.
    pub(super) fn of_package(json: PathBuf, record: Arc<OnePackageRecord>) -> Self {
        Self(Contents::Package { json, record })
    }

    /// Writes the files. An existing file stays unchanged until the new one is complete. After a cancellation, sizes and digests of inputs
    /// are left out.
    ///
    /// # Errors
    /// A file cannot be written.
    pub async fn write(
        self,
        result: &Result<(), OfflineError>,
        exit_code: u8,
        cancel: CancellationToken,
    ) -> Result<(), OfflineError> {
        let writing = match self.0 {
            Contents::Releases { json, page, record } => {
                let report = record.report(result, exit_code);
                runtime::spawn_blocking("report", move || write(report, json, page, &cancel))
            }
            Contents::Package { json, record } => {
                let report = record.report(result, exit_code);
                runtime::spawn_blocking("report", move || write_json(&json, &report))
            }
        };
        Ok(writing.await??)
    }
}

fn write(
    mut report: CallReport,
    json: Option<PathBuf>,
    page: Option<PathBuf>,
    cancel: &CancellationToken,
) -> fs::Result<()> {
    // A stop does not wait for large inputs to be read again.
    if report.result != CallResult::Stopped {
        report.inputs.iter_mut().for_each(|it| examine(it, cancel));
    }
    let outputs = report.outputs.iter_mut();
    outputs.for_each(|output| examine(&mut output.file, &CancellationToken::new()));
    let page = page.map_or(Ok(()), |path| write_page(&path, &report));
    if page.is_err() && report.exit_code == 0 {
        report.exit_code = FailureKind::Machine.exit_code();
        report.result = CallResult::Failed;
    }
    let json = json.map_or(Ok(()), |path| write_json(&path, &report));
    page.and(json)
}

fn write_json(path: &Path, report: &impl Serialize) -> fs::Result<()> {
    let text = serde_json::to_string_pretty(report)
        .map_err(|source| fs::Error::new("write", path, source.into()))?;
    let text = printable_json(&text) + "\n";
    fs::write_atomic(path, text.as_bytes(), fs::mode_of_results())
}

fn write_page(path: &Path, report: &CallReport) -> fs::Result<()> {
    let page =
        timings::page(report).map_err(|source| fs::Error::new("write", path, source.into()))?;
    fs::write_atomic(path, page.as_bytes(), fs::mode_of_results())
}

/// Checks that the files of a report can be written, and creates their directories.
///
/// # Errors
/// See [`check_target`].
pub(super) fn check(json: Option<&Path>, page: Option<&Path>) -> fs::Result<()> {
    let files = [json, page].into_iter().flatten();
    files
        .into_iter()
        .try_for_each(|file| check_target("write the report to", file))
}

/// Checks that a file can be written, and creates its directory. `action` is what would fail otherwise.
///
/// # Errors
/// The directory is not writable, or there is something other than a file at the path: a device must not be replaced.
pub(super) fn check_target(action: &'static str, path: &Path) -> fs::Result<()> {
    let directory = fs::parent(path);
    fs::create_dir_all(directory)?;
    fs::check_writable(directory)?;
    let refusal = match fs::lookup(path)? {
        Some(found) if !found.is_file() => "it is not a file",
        Some(_) if is_mount(path)? => "it is a mount, and cannot be replaced: mount its directory",
        Some(_) | None => return Ok(()),
    };
    let refusal = io::Error::other(refusal);
    Err(fs::Error::new(action, path, refusal))
}

/// Whether a file is a mount point, as with `docker run -v FILE:FILE`.
fn is_mount(path: &Path) -> fs::Result<bool> {
    let path = fs::canonicalize(path)?;
    // Without /proc, mounts are unknown.
    Ok(fs::mount_points().is_ok_and(|mounts| mounts.iter().any(|mount| mount.path == path)))
}

/// Fills in the size and digests of a file. They stay unknown if the file cannot be read, or is a pipe.
fn examine(file: &mut File, cancel: &CancellationToken) {
    let path = PathBuf::from(&file.path);
    match read(&path, cancel) {
        Ok(Some((digests, size))) => {
            file.size = Some(size);
            file.sha1 = digests.sha1().map(str::to_owned);
            file.sha256 = digests.sha256().map(str::to_owned);
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "could not read a file for the report"),
    }
}

fn read(path: &Path, cancel: &CancellationToken) -> fs::Result<Option<(Digests, u64)>> {
    if !fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let file = Cancellable::new(fs::open(path)?, cancel);
    let read = Digests::of_reader(file, &[Algorithm::Sha1, Algorithm::Sha256]);
    read.at("read", path).map(Some)
}
