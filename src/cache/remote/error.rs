//! Errors of operations on a shared cache.

use std::time::Duration;

use crate::cache::damage::Damage;
use crate::cache::entry::Content;
use crate::diag::{Bytes, Elapsed};
use crate::http::{StatusCode, is_busy, is_timeout};
use crate::reapi::CallError;
use crate::{fs, http, runtime};

/// Why an operation on a shared cache failed. The texts contain no query and no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum RemoteError {
    /// The server responded with an error.
    #[error("{method} `{file}` returned {status}")]
    Status {
        method: &'static str,
        file: String,
        status: StatusCode,
    },
    /// The server did not respond.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The server or the connection ended a call with an error.
    #[error("{method} failed: {reason}")]
    Rpc {
        method: &'static str,
        reason: String,
        is_temporary: bool,
        may_pass: bool,
    },
    /// The server lacks a feature.
    #[error("{0}")]
    Unsuitable(&'static str),
    /// The operation took longer than its time limit.
    #[error("no result after {}", Elapsed(*limit))]
    Slow { limit: Duration },
    /// The file system of a shared directory does not respond.
    #[error("its file system does not respond: no result after {}", Elapsed(*limit))]
    NoResponse { limit: Duration },
    /// An entry or content differs from what was stored. The run treats this as a cache miss.
    #[error("`{file}` {problem}")]
    Wrong { file: String, problem: String },
    /// A content or an entry cannot be written to the local cache. The shared cache is not to
    /// blame.
    #[error(transparent)]
    Local(fs::Error),
    /// The local cache has too little space.
    #[error("the packages need {}, and its file system has {} free", Bytes(*needed), Bytes(*free))]
    NoSpace { needed: u64, free: u64 },
    /// A file operation failed in a shared directory, or on a file that is to be stored.
    #[error(transparent)]
    Files(#[from] fs::Error),
    /// The description of a package cannot be written.
    #[error("failed to write the description of a package")]
    Encode(#[from] serde_json::Error),
    /// A task of this program panicked.
    #[error(transparent)]
    Task(#[from] runtime::TaskFailed),
}

impl RemoteError {
    /// The error for a content with wrong bytes.
    pub(super) fn wrong(content: &Content) -> Self {
        Self::Wrong {
            file: content.sha256.clone(),
            problem: "has other bytes than were stored: its SHA-256 or size is wrong".to_owned(),
        }
    }

    /// Whether an immediate retry may succeed. This is false for a server that does not respond,
    /// because waiting again would only double the delay.
    pub(super) fn is_temporary(&self) -> bool {
        match self {
            Self::Status { status, .. } => is_busy(*status),
            Self::Http(http::Error::Timeout { .. }) => false,
            Self::Http(error) => error.is_temporary() && !is_timeout(error),
            Self::Rpc { is_temporary, .. } => *is_temporary,
            Self::Unsuitable(_) => false,
            Self::Slow { .. }
            | Self::NoResponse { .. }
            | Self::Wrong { .. }
            | Self::Local(_)
            | Self::NoSpace { .. }
            | Self::Files(_)
            | Self::Encode(_)
            | Self::Task(_) => false,
        }
    }

    /// Whether a later operation may succeed. This is true after a time limit, a lost connection,
    /// or the response of a busy server.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Slow { .. } => true,
            Self::Status { status, .. } => is_busy(*status),
            Self::Http(error) => error.is_temporary() || is_timeout(error),
            Self::Rpc { may_pass, .. } => *may_pass,
            Self::Unsuitable(_)
            | Self::NoResponse { .. }
            | Self::Wrong { .. }
            | Self::Local(_)
            | Self::NoSpace { .. }
            | Self::Files(_)
            | Self::Encode(_)
            | Self::Task(_) => false,
        }
    }
}

impl From<Damage> for RemoteError {
    fn from(damage: Damage) -> Self {
        Self::Wrong {
            file: damage.file.display().to_string(),
            problem: damage.kind.to_string(),
        }
    }
}

impl From<CallError> for RemoteError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Connection(error) => Self::Http(error),
            CallError::Failed {
                method,
                reason,
                is_temporary,
                may_pass,
                code: _,
            } => Self::Rpc {
                method,
                reason,
                is_temporary,
                may_pass,
            },
            CallError::Unsuitable(reason) => Self::Unsuitable(reason),
            CallError::TooLong { sha256, limit } => Self::Wrong {
                file: sha256,
                problem: format!("is longer than {limit} bytes"),
            },
            CallError::Damaged { sha256 } => Self::Wrong {
                file: sha256,
                problem: "has other bytes than its digest says".to_owned(),
            },
            CallError::Silent { limit } => Self::Slow { limit },
        }
    }
}
