//! One run of `bosh-agent compile`, from the tarballs to the last line of output.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::call::{Written, compile};
use super::call_record::CallRecord;
use super::error::OfflineError;
use super::expected;
use super::given;
use super::ids::ReleaseId;
use super::image;
use super::options::{Options, Purpose};
use super::progress::Progress;
use super::rebuild::{self, Rebuild, Twice};
use super::report_file::{self, ReportFile};
use crate::runtime;

/// The outcome of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The compiled releases that were written, or that would be if the run is only asked for their names. In the order of the
    /// inputs.
    pub written: Vec<PathBuf>,
    /// Why not all releases were written.
    pub result: Result<(), OfflineError>,
    /// The report for other programs and the page of timings, if one of them is wanted.
    pub report: Option<ReportFile>,
}

/// Compiles releases. Prints the paths of the compiled releases last, in the order of the inputs.
///
/// Releases that were complete before a failure are written.
pub async fn run(options: Options, progress: Arc<Progress>, cancel: &CancellationToken) -> Outcome {
    let mut written = BTreeMap::new();
    let record = Arc::new(CallRecord::new());
    // Check now, because an error at the end would waste the compilation.
    if let Err(error) = report_file::check(options.report.as_deref(), options.timings.as_deref()) {
        return Outcome {
            written: Vec::new(),
            result: Err(error.into()),
            report: None,
        };
    }
    let report = ReportFile::new(options.report.clone(), options.timings.clone(), &record);
    let result = expand_and_run(options, progress, &record, cancel, &mut written).await;
    record.set_written(written.keys().copied());
    Outcome {
        written: written.into_values().collect(),
        result,
        report,
    }
}

async fn expand_and_run(
    mut options: Options,
    progress: Arc<Progress>,
    record: &Arc<CallRecord>,
    cancel: &CancellationToken,
    written: &mut Written,
) -> Result<(), OfflineError> {
    let inputs = std::mem::take(&mut options.inputs);
    let reuse = std::mem::take(&mut options.reuse);
    let expand = move || (given::expand(inputs), given::expand(reuse));
    (options.inputs, options.reuse) = runtime::spawn_blocking("expand", expand).await?;
    let options = image::open(options, &progress, cancel).await?;
    match options.purpose {
        Purpose::NameResults => {
            let stemcell = expected::stemcell(&options, &progress, cancel).await?;
            written.extend(expected::results(&options, &stemcell, &progress, cancel).await?);
            Ok(())
        }
        Purpose::Check | Purpose::DryRun => {
            compile(options, progress, record, cancel, written).await
        }
        Purpose::Compile => {
            let again = options.verify_rebuild.then(|| options.clone());
            if again.is_some() {
                rebuild::check(&options.inputs)?;
            }
            let mut result = compile(options, Arc::clone(&progress), record, cancel, written).await;
            if let Some(options) = again
                && result.is_ok()
            {
                result = compile_again(options, (&progress, record), cancel, written).await;
            }
            // Print one line for each release at the end: scripts read the paths from these lines.
            for output in written.values() {
                progress.success(&format!(
                    "Finished archiving compiled tarball {}",
                    output.display()
                ));
            }
            result
        }
    }
}

/// Compiles what was written again, and compares the results.
async fn compile_again(
    options: Options,
    (progress, first_record): (&Arc<Progress>, &CallRecord),
    cancel: &CancellationToken,
    written: &Written,
) -> Result<(), OfflineError> {
    let Some(first) = written.values().next().cloned() else {
        return Ok(());
    };
    progress.line("Compiling all packages again, to compare them");
    // Wait until the next second: archives store times in seconds, and equal times could hide a difference.
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(1)) => {}
        () = cancel.cancelled() => return Err(OfflineError::Stopped),
    }
    let making = {
        let (options, cancel) = (options.clone(), cancel.clone());
        runtime::spawn_blocking("rebuild", move || Rebuild::new(&options, &first, &cancel))
    };
    let rebuild = making.await??;
    let inputs = written
        .keys()
        .map(|id| options.inputs[id.position()].clone());
    let options = rebuild.options(options.clone(), first_record.compiler(), inputs.collect());
    let (record, mut second) = (Arc::new(CallRecord::new()), BTreeMap::new());
    let compiled = compile(options, Arc::clone(progress), &record, cancel, &mut second).await;
    // The inputs of the second compilation are those that were written, in the same order.
    let results = written.values().enumerate().map(|(position, first)| {
        let id = ReleaseId::from_position(position);
        Twice {
            first: first.clone(),
            second: second.get(&id).cloned(),
            precompiled: record.precompiled(id),
        }
    });
    let compared = match compiled {
        Ok(()) => rebuild.compare(results.collect(), cancel).await,
        Err(error) => Err(error),
    };
    rebuild.remove(progress).await;
    let found = compared?;
    if found.packages.is_empty() {
        progress.line(&found.success());
        return Ok(());
    }
    Err(OfflineError::NotReproducible(Box::new(found)))
}
