//! Runs a script again after a first run that failed because of its sandbox.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::built::Built;
use super::place::entered_within;
use super::work::{Work, files, logs};
use crate::compile::error::CompileError;
use crate::compile::event::{Event, Phase};
use crate::compile::printed::PrintedLine;
use crate::compile::second_run::{FirstRun, first_log};
use crate::diag::Chain;
use crate::fs::{self, Context as _};
use crate::release::Name;
use crate::runtime;

/// Runs a script again, alone and without rules, after its first run, which was `work`, has failed with `failure`.
pub(super) async fn second_run(
    work: Work,
    dependencies: &[(Name, PathBuf)],
    first: Arc<FirstRun>,
    failure: CompileError,
) -> Result<Built, CompileError> {
    let (context, job) = (&Arc::clone(&work.context), &Arc::clone(&work.job));
    let (turns, cancel) = (&Arc::clone(&work.turns), &work.cancel.clone());
    let waits = |running| {
        (context.events)(Event::Entered {
            job: job.number,
            package: job.name.clone(),
            phase: Phase::SecondRun { running },
        });
    };
    let scratch = Arc::clone(&work.scratch);
    let enter = context
        .sandbox
        .enter_alone(&job.name, dependencies, &scratch, &waits);
    // It asks for the tree before the directories of the first run are gone, which can take long: no script starts meanwhile.
    // What cannot be removed is removed with the rest when the tree is cleared.
    let (_, place) = tokio::join!(work.leave(true), entered_within(job, enter, cancel));
    let place = match place {
        // The script has failed, whether or not a second run would have helped.
        Err(CompileError::Stopped { .. }) if matches!(failure, CompileError::Script(_)) => {
            return Err(failure);
        }
        entered => entered?,
    };
    (context.events)(Event::SecondRunStarted {
        job: job.number,
        package: job.name.clone(),
    });
    for log in logs(job) {
        // It is the first run's, too, which keeps it under another name.
        fs::remove_file_if_there(log).map_err(files(job))?;
    }
    let work = Work::new(context, job, place, &scratch, turns, cancel);
    let result = work.run_to_end().await;
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

/// Runs a script again, with copies of its dependencies, after its first run, which was `work`, failed because they are mounts:
/// `lines` show that.
pub(super) async fn run_with_copies(
    work: Work,
    dependencies: &[(Name, PathBuf)],
    lines: Vec<PrintedLine>,
) -> Result<Built, CompileError> {
    let (context, job) = (&Arc::clone(&work.context), &Arc::clone(&work.job));
    let (turns, cancel) = (&Arc::clone(&work.turns), &work.cancel.clone());
    let scratch = Arc::clone(&work.scratch);
    work.leave(true).await?;
    let own = Arc::clone(job);
    let keeping = runtime::spawn_blocking("keep log", move || copy_first_log(&own.log));
    let log = keeping.await.map_err(|source| CompileError::Task {
        package: job.name.clone(),
        source,
    })?;
    (context.events)(Event::RunWithCopies {
        job: job.number,
        package: job.name.clone(),
        lines,
        log: log.map_err(files(job))?,
    });
    let enter = context
        .sandbox
        .enter_with_copies(&job.name, dependencies, &scratch);
    let place = entered_within(job, enter, cancel).await?;
    let work = Work::new(context, job, place, &scratch, turns, cancel);
    let result = work.run_to_end().await;
    work.leave_with(result).await
}

/// Copies the log of a first run, which the second one overwrites.
fn copy_first_log(log: &Path) -> fs::Result<PathBuf> {
    let kept = first_log(log);
    fs::remove_file_if_there(&kept)?;
    // No second name of the file: the log itself may have another one.
    let mut copy = fs::create(&kept)?;
    io::copy(&mut fs::open(log)?, &mut copy).at("copy", log)?;
    Ok(kept)
}

impl Work {
    /// Reports a failure that a second run follows, and keeps its log. `None` where none follows.
    pub(super) async fn announce_second_run(
        &self,
        failure: &CompileError,
    ) -> Option<Arc<FirstRun>> {
        let shown = self.shown().clone();
        let policy = self.context.second_run;
        if !self.place.is_restricted()
            || self.cancel.is_cancelled()
            || !policy.follows(failure, shown.elapsed, &shown.denials)
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
            elapsed: shown.elapsed,
            tail: shown.tail,
            denials: shown.denials,
            undeclared: shown.undeclared,
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

/// Keeps the log of a first run. Best effort: the second run writes its own to the old name.
fn keep_first_log(log: &Path) {
    let kept = first_log(log);
    let linked = fs::remove_file_if_there(&kept).and_then(|()| fs::hard_link(log, &kept));
    // Some file systems have no hard links.
    if let Err(error) = linked.or_else(|_| fs::rename(log, &kept)) {
        tracing::warn!(error = %Chain(&error), "could not keep the log of the first run");
    }
}
