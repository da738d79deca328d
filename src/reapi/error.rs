//! Errors of calls to a server of the Remote Execution API.

use std::error::Error as StdError;
use std::time::Duration;

use tonic::{Code, Status};

use crate::diag::{Chain, printable_up_to};
use crate::http::{self, StatusCode};

/// The maximum length of a server's message that is printed, in characters.
const LONGEST_REASON: usize = 200;

/// Why a call failed. The texts contain neither the query of the address nor headers, which may be
/// confidential.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The server cannot be reached.
    #[error(transparent)]
    Connection(#[from] http::Error),
    /// The server or the connection ended the call with an error.
    #[error("{method} failed: {reason}")]
    Failed {
        method: &'static str,
        /// The message of the server or of the connection.
        reason: String,
        /// The server's code; `None` if the connection failed.
        code: Option<Code>,
        /// Whether an immediate retry may succeed.
        is_temporary: bool,
        /// Whether a later call may succeed.
        may_pass: bool,
    },
    /// The server lacks a feature.
    #[error("{0}")]
    Unsuitable(&'static str),
    /// The blob is longer than the memory limit for it.
    #[error("`{sha256}` is longer than {limit} bytes")]
    TooLong { sha256: String, limit: usize },
    /// The server sent other bytes than those of the blob.
    #[error("the server sent other bytes than those of `{sha256}`")]
    Damaged { sha256: String },
    /// A call took too long.
    #[error("the server did not respond within {} s", limit.as_secs())]
    Silent { limit: Duration },
}

/// A response that is not a gRPC response, from a proxy or from another kind of server.
#[derive(Debug, thiserror::Error)]
#[error("the server returned {0}")]
pub(super) struct NotGrpc(pub StatusCode);

impl CallError {
    /// The error for a failed call of `method`.
    pub(super) fn failed(method: &'static str, status: &Status) -> Self {
        let line = status.message().lines().next().unwrap_or_default();
        let line = printable_up_to(LONGEST_REASON, &line);
        let (reason, code, is_temporary, may_pass) = match status.source() {
            None => {
                let code = status.code();
                let is_temporary = matches!(code, Code::Unavailable | Code::ResourceExhausted);
                let may_pass = is_temporary || code == Code::DeadlineExceeded;
                let reason = format!("{code:?}: {line}");
                (reason, Some(code), is_temporary, may_pass)
            }
            Some(source) => {
                let (is_temporary, may_pass) = match source.downcast_ref() {
                    Some(NotGrpc(status)) => (http::is_busy(*status), http::is_busy(*status)),
                    None => (!http::is_timeout(source), true),
                };
                (Chain(source).to_string(), None, is_temporary, may_pass)
            }
        };
        Self::Failed {
            method,
            reason,
            code,
            is_temporary,
            may_pass,
        }
    }

    /// The error for a download that could not be continued at an offset. The next attempt downloads
    /// the whole blob.
    pub(crate) fn not_continued() -> Self {
        let reason = "the server did not continue the download";
        Self::failed("Read", &Status::unavailable(reason))
    }

    /// The status code that the server sent, if the call failed with one.
    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Self::Failed { code, .. } => *code,
            _ => None,
        }
    }

    /// Whether a later call may succeed.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Connection(error) => error.is_temporary() || http::is_timeout(error),
            Self::Failed { may_pass, code, .. } => *may_pass || *code == Some(Code::Aborted),
            Self::Silent { .. } => true,
            Self::Unsuitable(_) | Self::TooLong { .. } | Self::Damaged { .. } => false,
        }
    }
}
