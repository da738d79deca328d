//! Writes the report of a run, with the sizes and digests of its files, as JSON (`--report`) and as an HTML page (`--timings`), and lets
//! `documents` write the other documents.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::call_record::CallRecord;
use super::call_report::{CallReport, CallResult, File};
use super::documents::{DocumentedPart, Documents};
use super::error::OfflineError;
use super::failure_kind::FailureKind;
use super::merged_report::merge;
use super::one_package::record::OnePackageRecord;
use super::options::Options;
use super::timings;
use super::written_file::check_target;
use crate::diag::printable_json;
use crate::fs::{self, Context};
use crate::release::{Algorithm, Digests};
use crate::runtime::{self, Cancellable};

/// A report that is written when the exit code of the run is known.
#[derive(Debug)]
pub struct ReportFile(Contents);

#[derive(Debug)]
enum Contents {
    /// A run of releases, as JSON and as a page, and documents about its results. It has a record for each stemcell.
    Releases {
        json: Option<PathBuf>,
        page: Option<PathBuf>,
        documents: Option<Box<Documents>>,
        records: Vec<Arc<CallRecord>>,
    },
    /// A run of one package, as JSON.
    Package {
        json: PathBuf,
        record: Arc<OnePackageRecord>,
    },
}

impl ReportFile {
    /// The report of a run of releases; `None` if no file is wanted.
    pub(super) fn new(options: &Options, records: &[Arc<CallRecord>]) -> Option<Self> {
        let (json, page) = (options.report.clone(), options.timings.clone());
        let documents = Documents::new(options).map(Box::new);
        let is_wanted = json.is_some() || page.is_some() || documents.is_some();
        if is_wanted {
            records.iter().for_each(|it| it.results.want_digests());
        }
        is_wanted.then(|| {
            Self(Contents::Releases {
                json,
                page,
                documents,
                records: records.to_vec(),
            })
        })
    }

    /// The report of a run of one package.
    pub(super) fn of_package(json: PathBuf, record: Arc<OnePackageRecord>) -> Self {
        Self(Contents::Package { json, record })
    }

    /// Writes the files and the documents. An existing file stays unchanged until the new one is complete. After a cancellation, sizes and
    /// digests of inputs are left out.
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
            Contents::Releases {
                json,
                page,
                documents,
                records,
            } => {
                let documented = records.iter().map(|it| it.take_documented());
                let documents = documents.zip(Some(documented.collect()));
                let reports = records.iter().map(|it| it.report(result, exit_code));
                let Some(report) = merge(reports.collect()) else {
                    return Ok(());
                };
                runtime::spawn_blocking("report", move || {
                    write(report, (json, page), documents, &cancel)
                })
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
    (json, page): (Option<PathBuf>, Option<PathBuf>),
    documents: Option<(Box<Documents>, Vec<DocumentedPart>)>,
    cancel: &CancellationToken,
) -> fs::Result<()> {
    // After a stop, do not read large inputs again.
    if report.result != CallResult::Stopped {
        report.inputs.iter_mut().for_each(|it| examine(it, cancel));
    }
    let outputs = report.outputs.iter_mut();
    outputs.for_each(|output| complete(&mut output.file));
    let page = page.map_or(Ok(()), |path| write_page(&path, &report));
    let documents = match documents {
        Some((documents, parts)) => documents.write(&parts, &report),
        None => Ok(()),
    };
    let page = page.and(documents);
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

/// Fills in the size and the SHA-1 of a result that the run has found at its path. They stay unknown if the file is no longer the one that
/// the run has read.
fn complete(result: &mut File) {
    if result.size.is_some() {
        return;
    }
    let mut found = File {
        path: result.path.clone(),
        ..File::default()
    };
    examine(&mut found, &CancellationToken::new());
    if result.sha256.is_none() || result.sha256 == found.sha256 {
        *result = found;
    }
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
