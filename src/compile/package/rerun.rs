//! Runs a script again if its first run may have failed because of the sandbox. In the second run, the script has no Landlock rules, or has
//! copies of its dependencies instead of mounts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::built::Built;
use super::place::place_or_stop;
use super::work::{Work, file_error, logs, on_blocking_thread};
use crate::compile::error::CompileError;
use crate::compile::event::{Event, Phase};
use crate::compile::job::Job;
use crate::compile::printed::PrintedLine;
use crate::compile::second_run::{FirstRun, first_log};
use crate::compile::step_log::Step;
use crate::diag::Chain;
use crate::fs::{self, Context as _};
use crate::release::Name;

/// Runs a script again, alone and without Landlock rules. The first run is `work`, which has failed with `failure`.
pub(super) async fn second_run(
    work: Work,
    dependencies: &[(Name, PathBuf)],
    first: Arc<FirstRun>,
    failure: CompileError,
) -> Result<Built, CompileError> {
    let (context, job) = (&Arc::clone(&work.context), &Arc::clone(&work.job));
    let (turns, cancel) = (&Arc::clone(&work.turns), &work.cancel.clone());
    let report_wait = |running| {
        (context.events)(Event::Entered {
            job: job.number,
            package: job.name.clone(),
            phase: Phase::SecondRun { running },
        });
    };
    let scratch = Arc::clone(&work.scratch);
    let step = Step::of(&job.name);
    let enter =
        context
            .sandbox
            .enter_alone(&job.name, dependencies, &scratch, &report_wait, cancel);
    // Already wait for exclusive use of the base directory while the directories of the first run are removed, which may be slow. From now
    // on, no other script starts. Directories that cannot be removed now are removed later.
    let (_, place) = tokio::join!(work.leave(true), place_or_stop(context, job, enter, cancel));
    let place = match place {
        // If the second run is canceled, report the failure of the first run.
        Err(CompileError::Stopped { .. }) if matches!(failure, CompileError::Script(_)) => {
            return Err(failure);
        }
        entered => entered?,
    };
    step.done("waited for the second run");
    (context.events)(Event::SecondRunStarted {
        job: job.number,
        package: job.name.clone(),
    });
    on_blocking_thread(job, "remove logs", remove_logs)
        .await?
        .map_err(file_error(job))?;
    let work = Work::new(context, job, place, &scratch, turns, cancel);
    let result = work.build().await;
    match work.leave_with(result).await {
        Ok(mut built) => {
            (context.events)(Event::SecondRunSucceeded {
                job: job.number,
                package: job.name.clone(),
                first,
            });
            built.unrestricted = true;
            Ok(built)
        }
        Err(CompileError::Script(mut second)) => {
            second.first_log = Some(first.log.clone());
            Err(CompileError::Script(second))
        }
        Err(other) => Err(other),
    }
}

/// Runs a script again, with copies of its dependencies. The first run is `work`, which has failed because the dependencies are mounts.
/// `lines` are the output lines that report this failure.
pub(super) async fn run_with_copies(
    work: Work,
    dependencies: &[(Name, PathBuf)],
    lines: Vec<PrintedLine>,
) -> Result<Built, CompileError> {
    let (context, job) = (&Arc::clone(&work.context), &Arc::clone(&work.job));
    let (turns, cancel) = (&Arc::clone(&work.turns), &work.cancel.clone());
    let scratch = Arc::clone(&work.scratch);
    let step = Step::of(&job.name);
    work.leave(true).await?;
    let log = on_blocking_thread(job, "keep log", |job| copy_first_log(&job.log)).await?;
    (context.events)(Event::RunWithCopies {
        job: job.number,
        package: job.name.clone(),
        lines,
        log: log.map_err(file_error(job))?,
    });
    let enter = context
        .sandbox
        .enter_with_copies(&job.name, dependencies, &scratch, cancel);
    let place = place_or_stop(context, job, enter, cancel).await?;
    step.done("prepared a second run with copies of the dependencies");
    let work = Work::new(context, job, place, &scratch, turns, cancel);
    let result = work.build().await;
    work.leave_with(result).await
}

/// Removes the logs of the first run before the second run writes its logs. Hard links to the kept logs must not be written to.
fn remove_logs(job: &Job) -> fs::Result<()> {
    logs(job).try_for_each(fs::remove_file_if_there)
}

/// Copies the log of the first run, because the second run overwrites the log.
fn copy_first_log(log: &Path) -> fs::Result<PathBuf> {
    let kept = first_log(log);
    fs::remove_file_if_there(&kept)?;
    // Copy the contents: the second run overwrites the file itself, which may have other hard links.
    let mut copy = fs::create_file(&kept)?;
    io::copy(&mut fs::open_file(log)?, &mut copy).at("copy", log)?;
    Ok(kept)
}

impl Work {
    /// If a second run follows, reports the failure of the first run and keeps its log. Otherwise returns `None`.
    pub(super) async fn announce_second_run(
        &self,
        failure: &CompileError,
    ) -> Option<Arc<FirstRun>> {
        let summary = self.summary().clone();
        let policy = self.context.second_run;
        if !self.place.is_restricted()
            || self.cancel.is_cancelled()
            || !policy.follows(failure, summary.elapsed, &summary.denials)
        {
            return None;
        }
        let log = self
            .blocking_to_the_end("keep log", |work| {
                logs(&work.job).for_each(keep_first_log);
                let kept = first_log(&work.job.log);
                match fs::lookup(&kept) {
                    Ok(Some(_)) => kept,
                    _ => work.job.log.clone(),
                }
            })
            .await
            .unwrap_or_else(|_| self.job.log.clone());
        let first = Arc::new(FirstRun {
            failure: failure.to_string(),
            succeeded: matches!(failure, CompileError::Denied { .. }),
            elapsed: summary.elapsed,
            tail: summary.tail,
            denials: summary.denials,
            undeclared: summary.undeclared,
            findings: match failure {
                CompileError::Script(script) => script.findings.clone(),
                _ => Vec::new(),
            },
            log,
        });
        (self.context.events)(Event::FirstRunFailed {
            job: self.job.number,
            package: self.job.name.clone(),
            first: Arc::clone(&first),
            running: self.context.sandbox.step_aside(&self.place),
        });
        Some(first)
    }
}

/// Keeps the log of the first run under another name, if possible, because the second run writes to the old name.
fn keep_first_log(log: &Path) {
    let kept = first_log(log);
    let linked = fs::remove_file_if_there(&kept).and_then(|()| fs::hard_link(log, &kept));
    // Some file systems have no hard links.
    if let Err(error) = linked.or_else(|_| fs::rename(log, &kept)) {
        tracing::warn!(error = %Chain(&error), "could not keep the log of the first run");
    }
}
