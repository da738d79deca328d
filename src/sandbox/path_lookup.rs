//! Looks up paths that a script or a source controls, such as the targets of links, in another process. A file system that does not
//! respond blocks that process in the kernel, where no signal ends it. A blocked thread of the agent would keep the agent itself from
//! exiting.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use nix::errno::Errno;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::copy::{CopyEnd, CopyOrder};
use super::error::SandboxError;
use super::question::{FileKind, FileResult, Question};
use super::rules::{Closed, Rules};
use super::script::end_of;
use super::seen::{Resolved, SeenPaths};
use super::spec::{Orders, ScriptEnd};
use super::step::{Step, StepError};
use crate::config::{Environment, mount_limit};
use crate::diag::Elapsed;
use crate::fs;
use crate::process::{self, ForkServer, Status, TimeLimits, Unkillable};

/// The time limit for paths that a package needs: the same as for the start of a script.
pub(crate) const LOOKUP_LIMIT: Duration = Duration::from_secs(60);

/// After this time without a response from a mounted file system, a message says that the agent waits for it.
const REMINDER: Duration = Duration::from_secs(10);

/// A name that no directory contains. The server of a file system has to respond to a lookup of this name; about the directory itself, the
/// kernel may have cached an answer.
const NO_NAME: &str = ".bosh-agent-responds";

/// Looks up paths until a cancellation. All functions block and must be called on a blocking thread of the runtime.
#[derive(Debug)]
pub(crate) struct PathLookup<'a> {
    /// Forks the processes that look up paths.
    pub(crate) fork_server: &'a ForkServer,
    pub(crate) cancel: &'a CancellationToken,
    /// How long a file system may take to respond to all paths of a question, or for each file of a copy. After this time, the process
    /// that waits for the file system is killed, which may take ten more seconds.
    pub(crate) limit: Duration,
}

/// Why a path could not be looked up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupError {
    /// The file system of a path does not respond, and these processes that wait for it cannot be killed.
    #[error("a file system does not respond")]
    NoResponse(Vec<Unkillable>),
    /// The file system of a path did not respond in time. The process that waited for it was killed in this step.
    #[error("a file system does not respond: could not {0} in time")]
    TimedOut(Step),
    /// The lookup was canceled.
    #[error("canceled")]
    Stopped,
    /// The process could not be run.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The system refused access to a path.
    #[error(transparent)]
    Files(#[from] fs::Error),
}

/// Whether a file system responds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Response {
    /// The file system responds, or this is unknown.
    Responds,
    /// The file system's server has ended, or does not know the file system any more.
    Gone,
    /// The file system did not respond within this time, or not before a cancellation.
    Late(Duration),
}

/// Whether and why rules close paths.
#[derive(Debug)]
pub(crate) struct ClosedAnswer {
    /// The answers, in the order of the paths.
    pub(crate) closed: Vec<Option<Closed>>,
    /// Why there are fewer answers than paths.
    pub(crate) error: Option<LookupError>,
}

/// The answer of a process that has looked up paths.
struct Answer {
    /// The output of the process. It is incomplete if the process was killed.
    text: Vec<u8>,
    end: Result<ScriptEnd, SandboxError>,
}

impl<'a> PathLookup<'a> {
    /// For file systems that are mounted over directories of the machine. Their time limit can be configured.
    pub(crate) fn at_mounts(fork_server: &'a ForkServer, cancel: &'a CancellationToken) -> Self {
        Self {
            fork_server,
            cancel,
            limit: mount_limit(),
        }
    }
}

impl PathLookup<'_> {
    /// The kind of file that a path leads to.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub(crate) fn kind(&self, path: &Path) -> Result<FileKind, LookupError> {
        self.value(Question::Kind(path.to_owned()))
    }

    /// Whether the file systems of directories respond. All are asked at the same time. A directory need not exist.
    pub(super) fn responses(&self, directories: &[PathBuf]) -> Vec<Response> {
        let asked = directories.iter().map(|it| self.response(it));
        tokio::runtime::Handle::current().block_on(join_all(asked))
    }

    /// Fails after a cancellation. Must follow [`responses`](Self::responses), whose answers are not reliable then.
    ///
    /// # Errors
    /// [`SandboxError::Stopped`].
    pub(super) fn check_not_stopped(&self) -> Result<(), SandboxError> {
        match self.cancel.is_cancelled() {
            true => Err(SandboxError::Stopped),
            false => Ok(()),
        }
    }

    async fn response(&self, directory: &Path) -> Response {
        let question = Question::Responds(directory.join(NO_NAME));
        let asking = self.answer(question);
        tokio::pin!(asking);
        // Cancel-safe: the same future is polled on below.
        let answer = match tokio::time::timeout(REMINDER.min(self.limit), &mut asking).await {
            Ok(answer) => answer,
            Err(_) => {
                if REMINDER < self.limit {
                    tracing::warn!(
                        "waiting for the file system that is mounted at `{}`, which has not responded for {}; the limit is {}",
                        directory.display(),
                        Elapsed(REMINDER),
                        Elapsed(self.limit)
                    );
                }
                asking.await
            }
        };
        match answer.and_then(|answer| self.read(answer)) {
            Ok(true) => Response::Responds,
            Ok(false) => Response::Gone,
            // The caller must not use the directory, and `check_not_stopped` reports the stop.
            Err(_) if self.cancel.is_cancelled() => Response::Late(self.limit),
            Err(LookupError::NoResponse(_) | LookupError::TimedOut(_)) => {
                Response::Late(self.limit)
            }
            Err(LookupError::Stopped | LookupError::Sandbox(_) | LookupError::Files(_)) => {
                Response::Responds
            }
        }
    }

    /// The contents of a file; empty if it is larger than `limit` bytes or cannot be read.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub(crate) fn contents(&self, path: &Path, limit: u64) -> Result<Vec<u8>, LookupError> {
        let path = path.to_owned();
        let answer = self.ask(Question::Contents { path, limit })?;
        Ok(answer.whole(self.cancel)?.0)
    }

    /// Follows every link in an absolute path of a script.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub(crate) fn seen(&self, path: &Path, paths: &SeenPaths) -> Result<Resolved, LookupError> {
        let found: FileResult<Resolved> = self.value(Question::Seen {
            path: path.to_owned(),
            paths: paths.clone(),
        })?;
        Ok(found.map_err(|failure| failure.into_error("examine"))?)
    }

    /// Copies a directory to a path that does not exist, unless the directory contains a mount or one of the directories `outside`. Then,
    /// and after an error, there may be a partial copy.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub(crate) fn copy(
        &self,
        from: &Path,
        to: &Path,
        outside: Vec<PathBuf>,
    ) -> Result<CopyEnd, LookupError> {
        let order = CopyOrder {
            from: from.to_owned(),
            to: to.to_owned(),
            outside,
        };
        let copied: FileResult<CopyEnd> = self.value(Question::Copy(order))?;
        Ok(copied.map_err(|failure| failure.into_error("copy"))?)
    }

    /// Whether and why rules close these paths. If a file system does not respond, there are answers only for the paths before it.
    pub(crate) fn closed(&self, rules: &Rules, paths: &[PathBuf]) -> ClosedAnswer {
        let question = Question::Closed {
            rules: rules.clone(),
            paths: paths.to_vec(),
        };
        match self.ask(question) {
            Ok(answer) => {
                let lines = answer.text.split(|byte| *byte == b'\n');
                ClosedAnswer {
                    closed: lines
                        .map_while(|line| serde_json::from_slice(line).ok())
                        .collect(),
                    error: answer.whole(self.cancel).err(),
                }
            }
            Err(error) => ClosedAnswer {
                closed: Vec::new(),
                error: Some(error),
            },
        }
    }

    fn value<T: DeserializeOwned>(&self, question: Question) -> Result<T, LookupError> {
        self.read(self.ask(question)?)
    }

    fn read<T: DeserializeOwned>(&self, answer: Answer) -> Result<T, LookupError> {
        let (text, status) = answer.whole(self.cancel)?;
        let value = serde_json::from_slice(&text);
        value.map_err(|_| SandboxError::NoAnswer { status }.into())
    }

    fn ask(&self, question: Question) -> Result<Answer, LookupError> {
        tokio::runtime::Handle::current().block_on(self.answer(question))
    }

    async fn answer(&self, question: Question) -> Result<Answer, LookupError> {
        let orders = Orders::Answer(question, self.limit);
        let child = process::ChildSpec {
            server: self.fork_server.clone(),
            environment: Environment::default(),
            orders: serde_json::to_vec(&orders).map_err(SandboxError::Orders)?,
            limits: TimeLimits::default(),
            grace: Duration::ZERO,
        };
        let asked = process::ask(child, self.cancel).await;
        let answered = asked.map_err(SandboxError::from)?;
        Ok(Answer {
            text: answered.answer,
            end: end_of(answered.ended, |status| SandboxError::NoAnswer { status }),
        })
    }
}

impl Answer {
    /// The complete output of a process that succeeded, and its status.
    fn whole(self, cancel: &CancellationToken) -> Result<(Vec<u8>, Status), LookupError> {
        let end = match self.end {
            Err(SandboxError::Step(StepError { step, errno }))
                if errno == Errno::ETIMEDOUT as i32 =>
            {
                return Err(LookupError::TimedOut(step));
            }
            Err(SandboxError::Step(error)) => {
                return Err(SandboxError::LookupStep(error).into());
            }
            other => other?,
        };
        if !end.unkillable.is_empty() {
            return Err(LookupError::NoResponse(end.unkillable));
        }
        let status = end.status;
        match status.is_success() {
            true => Ok((self.text, status)),
            false if cancel.is_cancelled() => Err(LookupError::Stopped),
            false => Err(SandboxError::NoAnswer { status }.into()),
        }
    }
}
