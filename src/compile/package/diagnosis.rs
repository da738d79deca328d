//! Explains the failure of a script by its output and the state of the machine. Also finds problems of scripts that succeeded.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::work::{Work, logs, warn_of_unkillable};
use crate::compile::across::DependencyMounts;
use crate::compile::denials::{ClosedPaths, Denial, Search};
use crate::compile::error::{Cause, CompileError};
use crate::compile::event::Event;
use crate::compile::finding::Finding;
use crate::compile::printed::{Printed, PrintedLine};
use crate::compile::protected;
use crate::compile::scratch;
use crate::compile::second_run::SecondRun;
use crate::compile::turns::Overlap;
use crate::compile::undeclared::inaccessible_packages;
use crate::config::PackagePaths;
use crate::diag::Chain;
use crate::fs;
use crate::process::{self, Status};
use crate::release::Name;
use crate::sandbox::{self, LookupError, PathLookup, Rules, ScriptEnd, Spec};

/// How much of the end of a log is searched for undeclared dependencies, in bytes.
const LOG_END: u64 = 1 << 20;

/// The time limit for looking up all paths that a script has printed.
const CLOSED_LIMIT: Duration = Duration::from_secs(5);

impl Work {
    /// Reads the output of a script that succeeded. Returns an error if the script has to run again.
    pub(super) fn check_success(&self, confined: &Spec) -> Result<Printed, CompileError> {
        let printed = self.read_logs(confined, true)?;
        self.check_denials()?;
        self.check_dependency_mounts(confined, &printed, None)?;
        Ok(printed)
    }

    /// Findings about a script that succeeded. Call this before the installed tree is moved.
    pub(super) fn findings_of_success(
        &self,
        confined: &Spec,
        printed: &Printed,
        tree: &Path,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        // If the tree cannot be read, assume that it is not empty.
        if !printed.missing.is_empty() && fs::list(tree).is_ok_and(|entries| entries.is_empty()) {
            findings.push(Finding::NothingInstalled {
                lines: printed.missing.clone(),
                log: self.job.log.clone(),
            });
        }
        findings.extend(no_such_owner(printed));
        findings.extend(protected::refused(printed, confined.view.as_ref(), true));
        findings
    }

    /// Possible causes of a failure.
    pub(super) fn findings_of_failure(
        &self,
        confined: &Spec,
        status: Status,
        printed: Printed,
        overlap: &Overlap,
    ) -> Result<Vec<Finding>, CompileError> {
        let mut findings: Vec<Finding> = no_such_owner(&printed).into_iter().collect();
        findings.extend(protected::refused(&printed, confined.view.as_ref(), false));
        let compile = &self.plan.paths.compile;
        let is_denied = status == Status::Exited(126) || !printed.denied.is_empty();
        if is_denied && let Some(directory) = fs::noexec(compile).map_err(self.file_error())? {
            findings.push(Finding::NoExecution { directory });
        }
        if overlap.happened() {
            findings.push(Finding::RanConcurrently {
                line: printed.in_use.into_iter().next_back(),
            });
        }
        Ok(findings)
    }

    /// Returns an error if the script failed because its dependencies are mounts, so that a run with copies may help.
    pub(super) fn check_dependency_mounts(
        &self,
        confined: &Spec,
        printed: &Printed,
        failed_after: Option<Duration>,
    ) -> Result<(), CompileError> {
        if printed.across.is_empty()
            || self.cancel.is_cancelled()
            || !self.context.sandbox.mounts_dependencies(&self.place)
        {
            return Ok(());
        }
        let vcap = &self.context.vcap;
        let seen: Vec<PackagePaths> = self
            .job
            .dependencies
            .iter()
            .map(|dependency| vcap.package(&dependency.name, &dependency.version))
            .collect();
        let mut lines = printed.across.clone();
        if let Some(view) = confined.view.as_ref() {
            let is_refused_by_protection = |line: &PrintedLine| {
                printed.read_only.contains(line) && protected::may_be_refused(line, view)
            };
            lines.retain(|line| !is_refused_by_protection(line));
        }
        let lines = DependencyMounts::of(seen.iter()).lines_caused(&lines, failed_after);
        match lines.is_empty() {
            true => Ok(()),
            false => Err(CompileError::AcrossMounts {
                package: self.job.name.clone(),
                lines,
            }),
        }
    }

    /// Handles a script that succeeded although Landlock rules denied it access. Many scripts ignore failed commands, so the result may
    /// differ from that of a run without rules.
    fn check_denials(&self) -> Result<(), CompileError> {
        let mut denials = self.summary().denials.clone();
        denials.retain(Denial::may_be_caused_by_rules);
        if denials.is_empty() {
            return Ok(());
        }
        if self.context.second_run != SecondRun::Never {
            return Err(CompileError::Denied {
                package: self.job.name.clone(),
            });
        }
        (self.context.events)(Event::Denied {
            job: self.job.number,
            package: self.job.name.clone(),
            denials,
        });
        Ok(())
    }

    /// Whether the script's output shows that Landlock rules denied it access. The result of such a script is kept only with
    /// `--second-run=never`.
    pub(super) fn was_denied(&self) -> bool {
        let summary = self.summary();
        summary.denials.iter().any(Denial::may_be_caused_by_rules)
    }

    /// Reads the script's output. Adds denied access and undeclared dependencies to the [`RunSummary`](super::work::RunSummary).
    pub(super) fn read_logs(
        &self,
        confined: &Spec,
        is_success: bool,
    ) -> Result<Printed, CompileError> {
        let rules = confined.rules.as_ref();
        let mut search = rules.map(|_| Search::default());
        let mut printed = Printed::default();
        for log in logs(&self.job) {
            let is_main = log == self.job.log;
            if !is_main && search.is_none() {
                continue;
            }
            let read = fs::for_each_block(log, |block| {
                if is_main {
                    printed.read(block);
                }
                if let Some(search) = &mut search {
                    search.read(block);
                }
            });
            read.map_err(self.file_error())?;
        }
        let denials = match (search, rules) {
            (Some(search), Some(rules)) => search.into_denials(|paths| self.closed(rules, paths)),
            _ => Vec::new(),
        };
        let is_denied = denials.iter().any(Denial::may_be_caused_by_rules);
        let undeclared = match is_success && !is_denied {
            true => Vec::new(),
            false => self.undeclared(),
        };
        let mut summary = self.summary();
        (summary.denials, summary.undeclared) = (denials, undeclared);
        Ok(printed)
    }

    /// Looks up which of the paths that a script has printed are closed by the rules. A cancellation does not interrupt this, because the
    /// report of a failure needs the result.
    fn closed(&self, rules: &Rules, paths: Vec<PathBuf>) -> ClosedPaths {
        let lookup = PathLookup {
            cancel: &CancellationToken::new(),
            limit: CLOSED_LIMIT,
            ..self.lookup()
        };
        let answer = lookup.closed(rules, &paths);
        match answer.error {
            None => {}
            Some(LookupError::NoResponse(processes)) => warn_of_unkillable(&self.job, &processes),
            Some(error) => {
                tracing::warn!(package = %self.job.name, error = %Chain(&error), "could not look up the paths in the output of the packaging script");
            }
        }
        let mut lookup = ClosedPaths::default();
        let mut answers = answer.closed.into_iter();
        for path in paths {
            match answers.next() {
                Some(Some(closed)) => drop(lookup.closed.insert(path, closed)),
                Some(None) => {}
                // The lookup has failed before it reached this path.
                None => drop(lookup.unknown.insert(path)),
            }
        }
        lookup
    }

    /// Undeclared dependencies that the script failed to access.
    pub(super) fn undeclared(&self) -> Vec<Name> {
        let (own, dependencies) = (&self.job.name, &self.job.dependencies);
        let is_declared =
            |name: &Name| name == own || dependencies.iter().any(|it| it.name == *name);
        let vcap = &self.context.vcap;
        let directories = [vcap.packages(), vcap.data_packages()];
        let mut found = BTreeSet::new();
        for log in logs(&self.job) {
            let log = fs::read_end(log, LOG_END).unwrap_or_default();
            found.extend(inaccessible_packages(&log, &directories));
        }
        found.retain(|name| !is_declared(name));
        found.into_iter().collect()
    }

    /// The cause of a failure, if it is a lack of memory or disk space, or a scratch directory that the script does not expect. The state of
    /// the machine is also used, because scripts report these causes in many ways.
    pub(super) fn cause(&self, end: &ScriptEnd, killed_before: Option<u64>) -> Option<Cause> {
        let killed = process::out_of_memory_kills()
            .zip(killed_before)
            .map_or(0, |(after, before)| after.saturating_sub(before));
        let was_killed = matches!(end.status, Status::Signaled(9) | Status::Exited(137));
        let has_printed = |text: &str| end.output.tail.lines.iter().any(|it| it.contains(text));
        if killed > 0 && (was_killed || has_printed("Killed")) {
            return Some(Cause::OutOfMemory { killed });
        }
        let compile = self.plan.paths.compile.clone();
        let full = [compile, PathBuf::from("/tmp")]
            .into_iter()
            // If the script has its own view, its /tmp is on the same disk as the compile directory.
            .take(if self.has_other_paths_inside() { 1 } else { 2 })
            .filter_map(|directory| {
                let space = fs::space(&directory).ok()?;
                space.is_full().then_some((directory, space))
            })
            .next();
        if has_printed("No space left on device") || full.is_some() {
            return Some(Cause::NoSpace { full });
        }
        let vcap = &self.context.vcap;
        let mut directories = self.scratch.iter().filter_map(|name| vcap.scratch(name));
        directories
            .find(|directory| scratch::blocks_a_command(directory, &end.output.tail.lines))
            .map(|directory| Cause::Scratch { directory })
    }
}

/// The finding about an owner that does not exist in this user namespace.
fn no_such_owner(printed: &Printed) -> Option<Finding> {
    let line = printed.owners.first()?.clone();
    let highest = sandbox::highest_owner()?;
    Some(Finding::NoSuchOwner { line, highest })
}
