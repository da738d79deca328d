//! Runs the packaging script of a package and explains its failure.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::work::{RunSummary, Work, stopped, warn_of_unkillable};
use crate::compile::error::{Cause, CompileError, ScriptFailure};
use crate::compile::event::Event;
use crate::compile::finding::Finding;
use crate::compile::plan::PACKAGING;
use crate::compile::script_file::{self, SIZE_LIMIT, ScriptFile};
use crate::compile::step_log::Step;
use crate::compile::turns::{Overlap, ScriptTurn};
use crate::diag::Chain;
use crate::fs;
use crate::process::{self, Exceeded, Output, Status};
use crate::sandbox::{self, Script, ScriptEnd, Spec};

/// The packaging script of a source.
enum Packaging {
    /// The source has no script, so the package is empty.
    Missing(Finding),
    Ready(Box<ReadyScript>),
}

/// A script that can be started.
struct ReadyScript {
    script: Script,
    output: Output,
    /// Possible problems in the script's text.
    findings: Vec<Finding>,
    before: BeforeStart,
}

/// Facts from before the start that may explain a failure.
struct BeforeStart {
    /// The target of the script's link, if the script is a link and its target does not exist outside the sandbox. The target may exist in
    /// the script's view.
    dangling: Option<PathBuf>,
    /// How many processes the kernel had killed before the start because memory ran out.
    killed: Option<u64>,
}

/// A script that was run.
struct FinishedScript {
    end: ScriptEnd,
    elapsed: Duration,
    overlap: Overlap,
}

impl Work {
    /// Runs the packaging script, if there is one, and returns the findings about it. The turn ends when the script's last process
    /// has ended.
    pub(super) async fn run_script(
        &self,
        confined: &Arc<Script>,
        turn: ScriptTurn,
    ) -> Result<(Option<ScriptEnd>, Vec<Finding>), CompileError> {
        let own = Arc::clone(confined);
        let ready = self.blocking("script", move |work| work.ready_script(&own));
        let ready = match ready.await? {
            Packaging::Missing(finding) => return Ok((None, vec![finding])),
            Packaging::Ready(ready) => *ready,
        };
        let run = self.supervise(ready.script, ready.output, turn).await?;
        let is_cancelled = self.cancel.is_cancelled();
        let exceeded = run.end.exceeded.filter(|_| !is_cancelled);
        if is_cancelled && !has_failed_by_itself(run.end.status) {
            return Err(stopped(&self.job));
        }
        *self.summary() = RunSummary {
            elapsed: run.elapsed,
            script: Some(Arc::clone(confined)),
            tail: run
                .end
                .output
                .tail
                .clone()
                .shortened(self.context.log_lines),
            ..RunSummary::default()
        };
        if run.end.status.is_success() && exceeded.is_none() {
            // The next step reads the script's log.
            return Ok((Some(run.end), ready.findings));
        }
        let (confined, before) = (Arc::clone(confined), ready.before);
        let explain =
            move |work: &Self| work.explain_failure(run, exceeded, &confined.spec, before);
        let mut failure = self.blocking_to_the_end("failure", explain).await??;
        failure.findings.splice(..0, ready.findings);
        Err(CompileError::Script(Box::new(failure)))
    }

    /// Finds the script, reads it, and makes it startable. This is the last step before the start.
    fn ready_script(&self, confined: &Script) -> Result<Packaging, CompileError> {
        let file_error = self.file_error();
        let packaging = &self.plan.packaging;
        let script_file = self.script_file()?;
        let text = match script_file {
            ScriptFile::Found => script_file::read(packaging),
            ScriptFile::Linked => {
                self.lookup_result(self.lookup().contents(packaging, SIZE_LIMIT))?
            }
            _ => Vec::new(),
        };
        let dangling = match script_file {
            ScriptFile::Found | ScriptFile::Linked => None,
            ScriptFile::Missing => {
                let log = b"This package has no packaging script.\n";
                fs::write(&self.job.log, log).map_err(&file_error)?;
                let finding = script_file::missing(packaging).map_err(&file_error)?;
                return Ok(Packaging::Missing(finding));
            }
            // The target of the link may exist only in the script's view, such as a file of a dependency.
            ScriptFile::Dangling(target) if self.has_other_paths_inside() => Some(target),
            ScriptFile::Dangling(target) => return Err(self.dangling(target)),
            ScriptFile::NotAFile(found) => {
                return Err(CompileError::ScriptIsNotAFile {
                    package: self.job.name.clone(),
                    found,
                });
            }
        };
        let findings = script_file::misread(&text);
        let output = self.script_output().map_err(&file_error)?;
        let script = self.startable(confined, |_| {})?;
        Ok(Packaging::Ready(Box::new(ReadyScript {
            script,
            output,
            findings,
            before: BeforeStart {
                dangling,
                killed: process::out_of_memory_kills(),
            },
        })))
    }

    /// Prepares the immediate start of a confined script: checks its mounted dependencies, and gives it access to its directories and to
    /// make's jobserver. `adapt` may replace the command that is run.
    pub(super) fn startable(
        &self,
        confined: &Script,
        adapt: impl FnOnce(&mut Script),
    ) -> Result<Script, CompileError> {
        let mut script = self.with_unchanged_trees(confined)?;
        self.context.sandbox.open(&self.place, &mut script);
        adapt(&mut script);
        if let Some(jobserver) = &self.context.jobserver {
            let offered = jobserver.offer(&self.plan.paths.compile);
            let offered = offered.map_err(self.file_error())?;
            let spec = &mut script.spec;
            spec.arguments = offered.through_bash(&spec.program, &spec.arguments);
            spec.program = "bash".to_owned();
        }
        Ok(script)
    }

    /// Finds the packaging script's file. For a link whose target exists only in the script's view, also checks that the target is a file.
    fn script_file(&self) -> Result<ScriptFile, CompileError> {
        let lookup = self.lookup();
        let found = script_file::find(&self.plan.packaging, |path| lookup.kind(path));
        let found = self.lookup_result(found)?;
        if let ScriptFile::Dangling(_) = found
            && let Some(target) = self.linked_script()?
            && let Some(kind) = script_file::not_a_file(self.lookup_result(lookup.kind(&target))?)
        {
            return Ok(ScriptFile::NotAFile(kind));
        }
        Ok(found)
    }

    /// Resolves the link of a packaging script in the script's view, where the target may be a file of a dependency. Returns the agent's
    /// path of the target.
    fn linked_script(&self) -> Result<Option<PathBuf>, CompileError> {
        let packaging = self.plan.script.spec.directory.join(PACKAGING);
        let paths = self.seen_paths();
        let resolved = self.lookup_result(self.lookup().seen(&packaging, &paths))?;
        Ok(resolved.seen.map(|seen| paths.here(&seen).0))
    }

    /// Creates the logs.
    fn script_output(&self) -> fs::Result<Output> {
        let events = Arc::clone(&self.context.events);
        let (package, job) = (self.job.name.clone(), self.job.number);
        let notify = move |line: &str| {
            events(Event::Printed {
                job,
                package: package.clone(),
                line: line.to_owned(),
            });
        };
        let output = match &self.job.stdout_log {
            None => Output::to_log(&self.job.log, notify)?,
            Some(stdout) => Output::to_two_logs(stdout, &self.job.log, notify)?,
        };
        let lines = self.context.script_lines.as_ref();
        let sink = lines.map(|lines| lines(&self.job.name));
        Ok(output.keeping(self.context.log_lines).streaming(sink))
    }

    /// Runs a script until its last process has ended.
    async fn supervise(
        &self,
        script: Script,
        output: Output,
        turn: ScriptTurn,
    ) -> Result<FinishedScript, CompileError> {
        let start = Instant::now();
        let overlap = turn.overlap();
        let script_run = self.context.store.script_runs().begin(&self.job.name);
        let limits = self.context.limits;
        tracing::debug!(package = %self.job.name, log = %self.job.log.display(), "starting the packaging script");
        let step = Step::of(&self.job.name);
        let end = sandbox::run_holding(script, output, limits, &self.cancel, turn).await;
        let end = end.map_err(|source| CompileError::Sandbox {
            package: self.job.name.clone(),
            source,
        })?;
        step.done(&format!("the packaging script {}", end.status));
        if !end.unkillable.is_empty() {
            // Never record the end of the script, because its processes continue to run and may change files.
            std::mem::forget(script_run);
            return Err(self.unkillable(end).await?);
        }
        let elapsed = start.elapsed();
        (self.context.events)(Event::ScriptEnded {
            job: self.job.number,
            package: self.job.name.clone(),
            elapsed,
            usage: end.usage,
        });
        Ok(FinishedScript {
            end,
            elapsed,
            overlap,
        })
    }

    /// Abandons the package's directories, because processes of its script may still change them.
    async fn unkillable(&self, end: ScriptEnd) -> Result<CompileError, CompileError> {
        let set_aside = |work: &Self| {
            work.context
                .sandbox
                .set_aside(&work.place, &work.plan.paths)
        };
        let left = self.blocking_to_the_end("set aside", set_aside).await?;
        if self.cancel.is_cancelled() {
            warn_of_unkillable(&self.job, &end.unkillable);
            return Err(stopped(&self.job));
        }
        Ok(CompileError::Unkillable {
            package: self.job.name.clone(),
            processes: end.unkillable,
            status: end.status,
            left,
        })
    }

    /// Collects everything that is known about a failed script. `exceeded` is the time limit that the script exceeded, if any.
    fn explain_failure(
        &self,
        run: FinishedScript,
        exceeded: Option<Exceeded>,
        confined: &Spec,
        before: BeforeStart,
    ) -> Result<ScriptFailure, CompileError> {
        let status = run.end.status;
        if !run.end.mounts.is_empty()
            && let Some(tree) = self.context.sandbox.tree()
            && let Err(error) = tree.unmount_left(&self.job.name)
        {
            tracing::debug!(package = %self.job.name, error = %Chain(&error), "could not unmount what the script left");
        }
        let printed = self.read_logs(confined, false)?;
        if let (Some(target), Status::Exited(127)) = (before.dangling, status) {
            return Err(self.dangling(target));
        }
        if exceeded.is_none() && has_failed_by_itself(status) {
            self.check_dependency_mounts(confined, &printed, Some(run.elapsed))?;
        }
        let findings = self.findings_of_failure(confined, status, printed, &run.overlap)?;
        let summary = self.summary().clone();
        let cause = exceeded.map(|exceeded| match exceeded {
            Exceeded::Total(limit) => Cause::TimeLimit { limit },
            Exceeded::Silence(limit) => Cause::Silence { limit },
        });
        Ok(ScriptFailure {
            package: self.job.name.clone(),
            status,
            elapsed: summary.elapsed,
            cause: cause.or_else(|| self.cause(&run.end, before.killed)),
            processes: run.end.processes,
            tail: summary.tail,
            undeclared: summary.undeclared,
            findings,
            denials: self.place.is_restricted().then_some(summary.denials),
            endings: run.end.output.endings,
            log: self.job.log.clone(),
            first_log: None,
            log_failure: run.end.output.log_failure,
        })
    }

    fn dangling(&self, target: PathBuf) -> CompileError {
        CompileError::DanglingScript {
            package: self.job.name.clone(),
            target,
        }
    }
}

/// Whether a script failed by itself, not because the agent stopped it. A stop kills bash by a signal, or kills the command that bash runs:
/// bash then exits with a code above 128.
fn has_failed_by_itself(status: Status) -> bool {
    matches!(status, Status::Exited(1..=128))
}
