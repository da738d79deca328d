//! Compiles one package on another machine: uploads the inputs, executes the action, and examines
//! the result. Retries if the machine is to blame for a failure.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::action::{self, Inputs, PackageAction};
use super::calls::repeat;
use super::check;
use super::common::{Common, KnownFile};
use super::error::RemoteFailure;
use super::machine::Machine;
use super::retry::{self, ATTEMPTS, End, Verdict};
use super::uploads::{Contents, Uploads};
use crate::package_job::PackageReport;
use crate::reapi::messages::ActionResult;
use crate::reapi::{Code, Digest, Event, Execution, Outcome, Refusal, Stage};

/// The maximum length of a report in bytes. A longer one is refused.
const LONGEST_REPORT: usize = 4 << 20;

/// The maximum size of a program's stderr, in bytes, that is downloaded for its last line.
const LONGEST_OUTPUT: usize = 1 << 20;

/// How long a server may take to confirm that it has stopped an execution.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// How long a stopped run continues to read the result of an execution that has ended.
const EXAMINE_LIMIT: Duration = Duration::from_secs(5);

/// If an execution exceeds the time limit by this much, this program asks the server to stop it. The server
/// enforces the limit itself, but its limit does not include the transfers of inputs and results.
const LATE: Duration = Duration::from_secs(60);

/// Compiles packages on the machines of a server.
#[derive(Debug)]
pub(crate) struct Cluster {
    common: Common,
    uploads: Uploads,
}

/// A package that was compiled on another machine. Its files are still on the server.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    /// The compiled package.
    pub package: Digest,
    /// The log of the packaging script, if the package has a script.
    pub log: Option<Digest>,
    pub report: PackageReport,
    /// Whether the result is from an earlier execution.
    pub is_cached: bool,
    /// The machine that has compiled the package.
    pub machine: Machine,
}

/// Why a package was not compiled.
#[derive(Debug)]
pub(super) enum AttemptError {
    /// The server no longer has these blobs of dependencies.
    Lost(Vec<Digest>),
    Failed(RemoteFailure),
}

impl<E: Into<RemoteFailure>> From<E> for AttemptError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The files of an action's result.
#[derive(Debug)]
pub(super) struct Files {
    exit_code: i32,
    package: Option<Digest>,
    log: Option<Digest>,
    report: Option<PackageReport>,
    machine: Machine,
    is_cached: bool,
}

/// How one execution of an action ended.
#[derive(Debug)]
enum Ended {
    Executed(Box<Files>, Box<ActionResult>),
    /// The result cannot be used.
    Bad {
        failure: RemoteFailure,
        is_cached: bool,
    },
    Refused(Refusal),
}

impl Cluster {
    pub(crate) fn new(common: Common) -> Self {
        Self {
            uploads: Uploads::new(&common.server),
            common,
        }
    }

    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    /// The program that compiles packages on other machines.
    pub(crate) fn program(&self) -> &Digest {
        &self.common.program.digest
    }

    pub(super) fn uploads(&self) -> &Uploads {
        &self.uploads
    }

    /// Compiles a package. `files` are the input files that this machine has. `on_stage` receives the stages of
    /// executions. `stop` cancels uploads and executions; the result of an execution that has ended is still
    /// read, for at most twice [`EXAMINE_LIMIT`]. `all` cancels this reading, too.
    pub(super) async fn build(
        &self,
        inputs: &Inputs,
        files: &[KnownFile],
        mut skip_cache_lookup: bool,
        (stop, all): (&CancellationToken, &CancellationToken),
        on_stage: &(dyn Fn(Stage) + Send + Sync),
    ) -> Result<Built, AttemptError> {
        let action = action::action(&self.common, inputs)?;
        skip_cache_lookup |= inputs.is_unrestricted && !self.common.accepts_unrestricted;
        let (mut attempts, mut losses) = (1, 0);
        loop {
            self.store(&action, files, stop).await?;
            let executing = self.execute(&action.digest, skip_cache_lookup, stop, on_stage);
            let outcome = executing.await?;
            // Read the result even after a stop, for a limited time: the package may complete a release.
            let ended = tokio::select! {
                biased;
                ended = self.examine(outcome, inputs, all) => ended?,
                () = long_after(stop) => return Err(RemoteFailure::Stopped.into()),
            };
            match ended.verdict() {
                Verdict::Unusable if losses < ATTEMPTS => {
                    losses += 1;
                    skip_cache_lookup = true;
                }
                Verdict::Store if losses < ATTEMPTS => {
                    losses += 1;
                    self.forget(&action, files);
                    self.check(inputs, files, stop).await?;
                }
                Verdict::Retry if attempts < ATTEMPTS => {
                    let package = &inputs.name;
                    tracing::debug!(%package, ?ended, "executing an action again");
                    let unit = self.common.server.pauses().unit();
                    let pause = retry::pause(ended.code(), attempts, unit);
                    let pausing = tokio::time::sleep(pause);
                    let paused = stop.run_until_cancelled(pausing).await;
                    paused.ok_or(RemoteFailure::Stopped)?;
                    attempts += 1;
                    skip_cache_lookup = true;
                }
                verdict => return Ok(self.result(verdict, ended, (stop, all)).await?),
            }
        }
    }

    /// Converts the end of a package's last execution into its result. After `stop`, the last line of output is read for at most
    /// [`EXAMINE_LIMIT`]. `all` cancels this reading.
    async fn result(
        &self,
        verdict: Verdict,
        ended: Ended,
        cancel: (&CancellationToken, &CancellationToken),
    ) -> Result<Built, RemoteFailure> {
        match (verdict, ended) {
            (Verdict::Compiled, Ended::Executed(files, _)) => files.built(),
            (verdict, Ended::Executed(files, result)) => {
                Err(self.failure(verdict, *files, &result, cancel).await)
            }
            (_, Ended::Bad { failure, .. }) => Err(failure),
            (Verdict::TimedOut, Ended::Refused(_)) => Err(RemoteFailure::TimedOut {
                limit: self.common.timeout.map(Duration::from_secs),
            }),
            (_, Ended::Refused(refusal)) => {
                Err(RemoteFailure::refused(refusal.code, &refusal.reason))
            }
        }
    }

    /// Uploads the messages and files of an action that are on this machine.
    async fn store(
        &self,
        action: &PackageAction,
        files: &[KnownFile],
        stop: &CancellationToken,
    ) -> Result<(), RemoteFailure> {
        let own = action.blobs.iter();
        let own = own.map(|blob| (blob.digest.clone(), Contents::Bytes(blob.data.clone())));
        let program = std::iter::once(&self.common.program);
        let files = program.chain(files);
        let files = files.map(|it| (it.digest.clone(), Contents::File(it.path.clone())));
        let storing = self.uploads.store(own.chain(files).collect(), stop);
        let stored = stop.run_until_cancelled(storing).await;
        stored.unwrap_or(Err(RemoteFailure::Stopped))
    }

    fn forget(&self, action: &PackageAction, files: &[KnownFile]) {
        let own = action.blobs.iter().map(|blob| &blob.digest);
        let files = files.iter().map(|file| &file.digest);
        let all = own.chain(files).chain([&self.common.program.digest]);
        all.for_each(|digest| self.uploads.forget(digest));
    }

    /// Checks that the server still has the blobs of dependencies that are not on this machine.
    async fn check(
        &self,
        inputs: &Inputs,
        files: &[KnownFile],
        stop: &CancellationToken,
    ) -> Result<(), AttemptError> {
        let is_elsewhere = |it: &&Digest| !files.iter().any(|file| file.digest == **it);
        let digests = inputs.dependencies.iter().map(|(_, _, digest)| digest);
        let digests: Vec<Digest> = digests.filter(is_elsewhere).cloned().collect();
        let missing = self
            .missing(&digests.iter().collect::<Vec<_>>(), stop)
            .await?;
        let lost = digests.into_iter();
        let lost: Vec<Digest> = lost.filter(|it| missing.contains(&it.sha256)).collect();
        match lost.is_empty() {
            true => Ok(()),
            false => Err(AttemptError::Lost(lost)),
        }
    }

    /// The SHA-256 digests of those blobs that the server lacks.
    async fn missing(
        &self,
        all: &[&Digest],
        stop: &CancellationToken,
    ) -> Result<Vec<String>, RemoteFailure> {
        let server = &self.common.server;
        let asking = repeat((server.pauses(), stop), 0, || async {
            Ok(server.missing(all.iter().copied()).await?)
        });
        asking.await
    }

    /// Downloads a small blob; `None` if it is missing.
    async fn read_small(
        &self,
        digest: &Digest,
        limit: usize,
        stop: &CancellationToken,
    ) -> Result<Option<Vec<u8>>, RemoteFailure> {
        let server = &self.common.server;
        let reading = repeat(
            (server.pauses(), stop),
            digest.size.min(limit as u64),
            || async { Ok(server.read_small(digest, limit).await?) },
        );
        reading.await
    }

    /// Executes an action once. If the run is stopped, the time limit of a running action is exceeded, or the
    /// execution cannot be watched any longer, asks the server to stop the execution.
    async fn execute(
        &self,
        action: &Digest,
        skip_cache_lookup: bool,
        stop: &CancellationToken,
        on_stage: &(dyn Fn(Stage) + Send + Sync),
    ) -> Result<Outcome, RemoteFailure> {
        let mut execution = Execution::new(&self.common.server, action, skip_cache_lookup);
        let limit = self.common.timeout.map(Duration::from_secs);
        let mut deadline = None;
        let failure = loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => break RemoteFailure::Stopped,
                event = execution.next() => event,
                () = exceeded(deadline) => break RemoteFailure::TimedOut { limit },
            };
            match event {
                Ok(Event::Entered(stage)) => {
                    deadline = match stage {
                        Stage::Fetching | Stage::Running => {
                            deadline.or(limit.map(|it| Instant::now() + it + LATE))
                        }
                        Stage::Searching | Stage::Queued => None,
                        Stage::Unknown | Stage::Ended => deadline,
                    };
                    on_stage(stage);
                }
                Ok(Event::Repeated) => deadline = None,
                Ok(Event::Ended(outcome)) => return Ok(outcome),
                Err(error) => break error.into(),
            }
        };
        let canceling = tokio::time::timeout(CANCEL_LIMIT, execution.cancel());
        if let Ok(Err(error)) = canceling.await {
            tracing::debug!(%error, "could not stop an execution");
        }
        Err(failure)
    }

    /// Reads and checks the files that an execution has left.
    async fn examine(
        &self,
        outcome: Outcome,
        inputs: &Inputs,
        stop: &CancellationToken,
    ) -> Result<Ended, RemoteFailure> {
        let executed = match outcome {
            Outcome::Executed(executed) => executed,
            Outcome::Refused(refusal) => return Ok(Ended::Refused(refusal)),
        };
        let is_cached = executed.is_cached;
        match self.files(&executed.result, is_cached, inputs, stop).await {
            Ok(files) => Ok(Ended::Executed(Box::new(files), Box::new(executed.result))),
            Err(failure) if failure.is_bad_result() => Ok(Ended::Bad { failure, is_cached }),
            Err(failure) => Err(failure),
        }
    }

    /// Reads the report of a result, and checks that the result belongs to the package. If the result is cached, also
    /// checks that its files are still on the server.
    pub(super) async fn files(
        &self,
        result: &ActionResult,
        is_cached: bool,
        inputs: &Inputs,
        stop: &CancellationToken,
    ) -> Result<Files, RemoteFailure> {
        // Some servers also store failures. Their cause may not exist any more.
        if is_cached && result.exit_code != 0 {
            return Err(RemoteFailure::StoredFailure);
        }
        let file = |path| {
            let mut files = result.output_files.iter();
            let file = files.find(|it| it.path == path)?;
            file.digest.as_ref().and_then(Digest::parse)
        };
        let (package, log) = (file(action::PACKAGE), file(action::LOG));
        if is_cached {
            let all: Vec<&Digest> = package.iter().chain(&log).collect();
            if !all.is_empty() && !self.missing(&all, stop).await?.is_empty() {
                return Err(RemoteFailure::Lost);
            }
        }
        let report = match file(action::REPORT) {
            None => None,
            Some(digest) => Some(self.report(&digest, stop).await?),
        };
        let unrestricted = report.as_ref().is_some_and(|it| it.unrestricted);
        let is_tainted = is_cached && (unrestricted || inputs.is_unrestricted);
        if is_tainted && !self.common.accepts_unrestricted {
            return Err(RemoteFailure::Unrestricted);
        }
        check::check(result.exit_code, package.as_ref(), report.as_ref(), inputs)?;
        Ok(Files {
            exit_code: result.exit_code,
            package,
            log,
            report,
            machine: Machine::of(result.execution_metadata.as_ref()),
            is_cached,
        })
    }

    async fn report(
        &self,
        digest: &Digest,
        stop: &CancellationToken,
    ) -> Result<PackageReport, RemoteFailure> {
        if digest.size > LONGEST_REPORT as u64 {
            let what = "it is too long";
            return Err(RemoteFailure::Contradiction { what });
        }
        let text = self.read_small(digest, LONGEST_REPORT, stop).await?;
        let text = text.ok_or(RemoteFailure::Lost)?;
        let mut report = serde_json::from_slice(&text).map_err(RemoteFailure::Report)?;
        check::limit(&mut report, self.common.log_lines);
        Ok(report)
    }

    /// The reason why a command failed.
    async fn failure(
        &self,
        verdict: Verdict,
        files: Files,
        result: &ActionResult,
        cancel: (&CancellationToken, &CancellationToken),
    ) -> RemoteFailure {
        let (worker, exit_code) = (files.machine.name, files.exit_code);
        if let Some(report) = files.report {
            return RemoteFailure::Reported {
                report: Box::new(report),
                log: files.log,
                worker,
            };
        }
        let output = self.last_line(result, cancel).await;
        match verdict {
            Verdict::Arguments => RemoteFailure::Arguments { output },
            _ => RemoteFailure::NoReport {
                exit_code,
                output,
                worker,
            },
        }
    }

    /// The last line that a command printed to stderr.
    async fn last_line(
        &self,
        result: &ActionResult,
        (stop, all): (&CancellationToken, &CancellationToken),
    ) -> String {
        let digest = result.stderr_digest.as_ref().and_then(Digest::parse);
        let text = match digest.filter(|_| result.stderr_raw.is_empty()) {
            None => result.stderr_raw.clone(),
            Some(digest) => tokio::select! {
                biased;
                read = self.read_small(&digest, LONGEST_OUTPUT, all) => {
                    read.ok().flatten().unwrap_or_default()
                }
                () = long_after(stop) => Vec::new(),
            },
        };
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines().rev().map(str::trim);
        let line = lines.find(|line| !line.is_empty()).unwrap_or_default();
        crate::diag::printable(&line)
    }
}

/// Waits for [`EXAMINE_LIMIT`] after a stop.
async fn long_after(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(EXAMINE_LIMIT).await;
}

/// Waits for a deadline, if there is one.
async fn exceeded(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl Ended {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Executed(files, _) => retry::verdict(End::Exited {
                code: files.exit_code,
                has_report: files.report.is_some(),
            }),
            Self::Refused(refusal) => retry::verdict(End::Refused(refusal.code)),
            Self::Bad {
                is_cached: true, ..
            } => Verdict::Unusable,
            Self::Bad { .. } => Verdict::Retry,
        }
    }

    /// The server's code, if it did not execute the action.
    fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            Self::Executed(..) | Self::Bad { .. } => None,
        }
    }
}

impl Files {
    pub(super) fn built(self) -> Result<Built, RemoteFailure> {
        let missing = |file| RemoteFailure::Incomplete { file };
        Ok(Built {
            package: self.package.ok_or(missing(action::PACKAGE))?,
            log: self.log,
            report: self.report.ok_or(missing(action::REPORT))?,
            is_cached: self.is_cached,
            machine: self.machine,
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
