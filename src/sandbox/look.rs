//! Looks up paths that a script or a source controls, such as the targets of links, in another process. A file system that does not
//! respond blocks that process in the kernel, where no signal ends it. A thread of the agent that waits there would keep the agent
//! itself from exiting.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::error::SandboxError;
use super::question::{FileKind, Question};
use super::rules::{Closed, Rules};
use super::script::end_of;
use super::seen::{self, Resolved, SeenPaths};
use super::spec::Orders;
use crate::config::Environment;
use crate::fs;
use crate::process::{self, ForkServer, Status, TimeLimits, Unkillable};

/// The limit for paths that a package needs, as for the start of a script.
pub(crate) const LOOK_LIMIT: Duration = Duration::from_secs(60);

/// Looks up paths until a cancellation. All functions block and must be called on a blocking thread of the runtime.
#[derive(Debug)]
pub(crate) struct Look<'a> {
    /// Forks the processes that look up.
    pub(crate) agent: &'a ForkServer,
    pub(crate) cancel: &'a CancellationToken,
    /// How long a file system may take to respond. Its process is then killed, within ten more seconds.
    pub(crate) limit: Duration,
}

/// Why a path could not be looked up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    /// The file system of a path does not respond.
    #[error("a file system does not respond")]
    NoResponse(Vec<Unkillable>),
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

/// How rules close paths.
#[derive(Debug)]
pub(crate) struct ClosedAnswer {
    /// For each path, in order.
    pub(crate) closed: Vec<Option<Closed>>,
    /// Why there are fewer answers than paths.
    pub(crate) error: Option<LookError>,
}

/// A process that has looked up.
struct Answer {
    text: Vec<u8>,
    /// The processes that cannot be killed.
    unkillable: Vec<Unkillable>,
    status: Status,
}

impl Look<'_> {
    /// The kind of file that a path leads to.
    ///
    /// # Errors
    /// See [`LookError`].
    pub(crate) fn kind(&self, path: &Path) -> Result<FileKind, LookError> {
        self.value(Question::Kind(path.to_owned()))
    }

    /// The contents of a file; empty if it is larger than `limit` bytes or cannot be read.
    ///
    /// # Errors
    /// See [`LookError`].
    pub(crate) fn contents(&self, path: &Path, limit: u64) -> Result<Vec<u8>, LookError> {
        let path = path.to_owned();
        Ok(self.whole(Question::Contents { path, limit })?.text)
    }

    /// Follows every link in an absolute path of a script.
    ///
    /// # Errors
    /// See [`LookError`].
    pub(crate) fn seen(&self, path: &Path, paths: &SeenPaths) -> Result<Resolved, LookError> {
        let answer: seen::Answer = self.value(Question::Seen {
            path: path.to_owned(),
            paths: paths.clone(),
        })?;
        Ok(answer.into_result()?)
    }

    /// How rules close these paths. If a file system does not respond, there are answers only for the paths before it.
    pub(crate) fn closed(&self, rules: &Rules, paths: &[PathBuf]) -> ClosedAnswer {
        let question = Question::Closed {
            rules: rules.clone(),
            paths: paths.to_vec(),
        };
        let answer = match self.ask(question) {
            Ok(answer) => answer,
            Err(error) => {
                return ClosedAnswer {
                    closed: Vec::new(),
                    error: Some(error),
                };
            }
        };
        let lines = answer.text.split(|byte| *byte == b'\n');
        ClosedAnswer {
            closed: lines
                .map_while(|line| serde_json::from_slice(line).ok())
                .collect(),
            error: answer.check(self.cancel).err(),
        }
    }

    fn value<T: DeserializeOwned>(&self, question: Question) -> Result<T, LookError> {
        let answer = self.whole(question)?;
        let status = answer.status;
        let value = serde_json::from_slice(&answer.text);
        value.map_err(|_| SandboxError::NoReport { status }.into())
    }

    fn whole(&self, question: Question) -> Result<Answer, LookError> {
        self.ask(question)?.check(self.cancel)
    }

    fn ask(&self, question: Question) -> Result<Answer, LookError> {
        let orders = Orders::Look(question, self.limit);
        let child = process::Child {
            server: self.agent.clone(),
            environment: Environment::default(),
            orders: serde_json::to_vec(&orders).map_err(SandboxError::Orders)?,
            limits: TimeLimits::default(),
            grace: Duration::ZERO,
        };
        let asked = process::ask(child, self.cancel);
        let answered = tokio::runtime::Handle::current().block_on(asked);
        let answered = answered.map_err(SandboxError::from)?;
        let end = end_of(answered.ended)?;
        Ok(Answer {
            text: answered.answer,
            unkillable: end.unkillable,
            status: end.status,
        })
    }
}

impl Answer {
    /// Fails unless the process has ended by itself.
    fn check(self, cancel: &CancellationToken) -> Result<Self, LookError> {
        if !self.unkillable.is_empty() {
            return Err(LookError::NoResponse(self.unkillable));
        }
        match self.status.is_success() {
            true => Ok(self),
            false if cancel.is_cancelled() => Err(LookError::Stopped),
            false => {
                let status = self.status;
                Err(SandboxError::NoReport { status }.into())
            }
        }
    }
}
