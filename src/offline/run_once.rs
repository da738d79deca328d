//! The run for one stemcell: compiles the releases, once or, to compare the results, twice.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::call::{Written, compile};
use super::call_record::CallRecord;
use super::error::OfflineError;
use super::expected;
use super::ids::ReleaseId;
use super::options::{Options, Purpose};
use super::progress::Progress;
use super::rebuild::{self, Rebuild, Twice};
use crate::runtime;

/// Runs for one stemcell, and adds the paths of its results to `written`, even after a failure.
pub(super) async fn run_once(
    options: Options,
    progress: &Arc<Progress>,
    record: &Arc<CallRecord>,
    cancel: &CancellationToken,
    written: &mut Vec<PathBuf>,
) -> Result<(), OfflineError> {
    let mut own = BTreeMap::new();
    let result = run(options, progress, record, cancel, &mut own).await;
    record.set_written(own.keys().copied());
    written.extend(own.into_values());
    result
}

async fn run(
    options: Options,
    progress: &Arc<Progress>,
    record: &Arc<CallRecord>,
    cancel: &CancellationToken,
    written: &mut Written,
) -> Result<(), OfflineError> {
    match options.purpose {
        Purpose::NameResults => {
            let stemcell = expected::stemcell(&options, progress, cancel).await?;
            written.extend(expected::results(&options, &stemcell, progress, cancel).await?);
            Ok(())
        }
        Purpose::Check | Purpose::DryRun => {
            compile(options, Arc::clone(progress), record, cancel, written).await
        }
        Purpose::Compile => {
            let again = options.verify_rebuild.then(|| options.clone());
            if again.is_some() {
                rebuild::check(&options.inputs)?;
            }
            let mut result = compile(options, Arc::clone(progress), record, cancel, written).await;
            if let Some(options) = again
                && result.is_ok()
            {
                result = compile_again(options, (progress, record), cancel, written).await;
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

/// Compiles the releases that were written a second time, and compares the results.
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
