//! One run of `bosh-agent compile`, from the tarballs to the last line of output.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::call_record::CallRecord;
use super::documents;
use super::error::{InputProblemKind, OfflineError, StemcellFailures};
use super::given;
use super::image;
use super::options::{Options, StemcellImage};
use super::progress::Progress;
use super::rebuild;
use super::report_file::{self, ReportFile};
use super::run_once::run_once;
use crate::release::Slug;
use crate::runtime;

/// The outcome of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The compiled releases that were written or, if only their names are wanted, that would be written. In the order of the inputs;
    /// with several stemcell images, those of the first image first.
    pub written: Vec<PathBuf>,
    /// Why not all releases were written.
    pub result: Result<(), OfflineError>,
    /// The report for other programs, the page of timings and the documents about the results, if one of them is wanted.
    pub report: Option<ReportFile>,
}

/// Compiles releases. Prints the paths of the compiled releases last, in the order of the inputs.
///
/// Releases that were complete before a failure are written.
pub async fn run(options: Options, progress: Arc<Progress>, cancel: &CancellationToken) -> Outcome {
    let records = CallRecord::several(options.stemcell_images.len().max(1));
    // Fail now instead of after the compilation.
    let checked = report_file::check(options.report.as_deref(), options.timings.as_deref());
    let checked = checked.map_err(OfflineError::from);
    if let Err(error) = checked.and_then(|()| documents::check(&options)) {
        return Outcome {
            written: Vec::new(),
            result: Err(error),
            report: None,
        };
    }
    let report = ReportFile::new(&options, &records);
    let mut written = Vec::new();
    let result = expand_and_run(options, &progress, &records, cancel, &mut written).await;
    Outcome {
        written,
        result,
        report,
    }
}

/// Expands the patterns in the arguments, and runs. `records` has one record for each stemcell image, or one without an image.
async fn expand_and_run(
    mut options: Options,
    progress: &Arc<Progress>,
    records: &[Arc<CallRecord>],
    cancel: &CancellationToken,
    written: &mut Vec<PathBuf>,
) -> Result<(), OfflineError> {
    let inputs = std::mem::take(&mut options.inputs);
    let reuse = std::mem::take(&mut options.reuse);
    let expand = move || (given::expand(inputs), given::expand(reuse));
    (options.inputs, options.reuse) = runtime::spawn_blocking("expand", expand).await?;
    let mut images = std::mem::take(&mut options.stemcell_images);
    if images.len() > 1 {
        return run_in_each(options, images, (progress, records), cancel, written).await;
    }
    options.stemcell_image = images.pop();
    let options = image::open(options, progress, cancel).await?;
    match records {
        [record, ..] => run_once(options, progress, record, cancel, written).await,
        [] => Ok(()),
    }
}

/// Compiles in several stemcell images, one after the other.
async fn run_in_each(
    options: Options,
    images: Vec<StemcellImage>,
    (progress, records): (&Arc<Progress>, &[Arc<CallRecord>]),
    cancel: &CancellationToken,
    written: &mut Vec<PathBuf>,
) -> Result<(), OfflineError> {
    let files = [options.inputs.as_slice(), &options.reuse].concat();
    rebuild::check_files(&files, || InputProblemKind::NotReadAgain)?;
    documents::check_count(&options.documents, images.len())?;
    // Open all images first: a damaged one is reported before anything is compiled.
    let mut runs: Vec<(Slug, PathBuf, Options)> = Vec::new();
    for image in images {
        let path = image.path.clone();
        let own = Options {
            stemcell_image: Some(image),
            is_one_of_several: true,
            ..options.clone()
        };
        let own = image::open(own, progress, cancel).await?;
        let Some(stemcell) = own.stemcell.clone() else {
            continue;
        };
        if let Some((_, other, _)) = runs.iter().find(|(other, ..)| *other == stemcell) {
            return Err(OfflineError::SameStemcell {
                stemcell,
                images: [other.clone(), path],
            });
        }
        runs.push((stemcell, path, own));
    }
    let total = runs.len();
    let mut failed = Vec::new();
    let mut runs = runs.into_iter().zip(records).enumerate();
    for (number, ((stemcell, _, options), record)) in runs.by_ref() {
        progress.line(&format!("Stemcell {} of {total}: {stemcell}", number + 1));
        let keep_going = options.keep_going;
        match run_once(options, progress, record, cancel, written).await {
            Ok(()) => {}
            Err(OfflineError::Stopped) if failed.is_empty() => return Err(OfflineError::Stopped),
            Err(error) => failed.push((stemcell, error)),
        }
        if !failed.is_empty() && (!keep_going || cancel.is_cancelled()) {
            break;
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let not_started = runs.map(|(_, ((stemcell, ..), _))| stemcell).collect();
    Err(OfflineError::Stemcells(Box::new(StemcellFailures {
        failed,
        not_started,
        total,
    })))
}
