//! What goes wrong with blobs. The texts begin as those of the Go agent do: operators search for them.

use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::options::NotText;
use crate::http::{self, InvalidUrl, StatusCode};
use crate::process::{RunError, Status};
use crate::release::DigestMismatch;
use crate::runtime::TaskFailed;
use crate::tls::TlsError;
use crate::{fs, release};

/// Why blobs cannot be fetched or stored at all.
#[derive(Debug, thiserror::Error)]
pub enum BlobsError {
    /// The authorities' certificates are no text.
    #[error("the blobstore's authorities cannot be read")]
    Authorities(#[source] NotText),
    /// The authorities' certificates are none.
    #[error("the blobstore's authorities cannot be used")]
    Tls(#[source] TlsError),
}

/// A blob that could not be fetched or stored.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// Fetched by its id.
    #[error("Getting blob from inner blobstore: Getting blob from inner blobstore")]
    Get(#[source] Failure),
    /// Stored under a new id.
    #[error("Creating blob in inner blobstore")]
    Create(#[source] Failure),
    /// Fetched from a signed URL.
    #[error("Failed to download blob")]
    Download(#[source] Failure),
    /// Stored at a signed URL.
    #[error("Failed to upload blob")]
    Upload(#[source] Failure),
    /// We were asked to stop.
    #[error("stopped")]
    Stopped,
}

/// What was tried in vain: the last cause, where, and how often. As a text it is the cause with the rest in parentheses, and its
/// source is the cause's.
#[derive(Debug)]
pub struct Failure {
    /// The store and the blob in it, or the URL without its secrets.
    pub place: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub cause: AttemptError,
}

impl Failure {
    /// A stop is told as such wherever it comes.
    pub(super) fn told(self, tell: impl FnOnce(Self) -> BlobError) -> BlobError {
        match self.cause {
            AttemptError::Stopped => BlobError::Stopped,
            _ => tell(self),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.attempts == 1 { "" } else { "s" };
        write!(
            f,
            "{} ({}, {} attempt{s})",
            self.cause, self.place, self.attempts
        )
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.source()
    }
}

/// Why one attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The store cannot be used.
    #[error(transparent)]
    Unusable(Arc<StoreProblem>),
    /// A file of ours, or of a local store.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// No answer from a server, or half of one.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// A signed URL's server does not give the blob.
    #[error("Error executing GET, response was {}", status.as_u16())]
    DownloadRefused {
        /// What it answered.
        status: StatusCode,
    },
    /// A signed URL's server does not take the blob.
    #[error("Error executing PUT for {}, response was {}", file.display(), status.as_u16())]
    UploadRefused {
        /// The file with the blob.
        file: PathBuf,
        /// What it answered.
        status: StatusCode,
    },
    /// A DAV server does not give the blob.
    #[error("Getting dav blob {blob}: Wrong response code: {}", status.as_u16())]
    GetRefused {
        /// The blob's id.
        blob: String,
        /// What it answered.
        status: StatusCode,
    },
    /// A DAV server does not take the blob.
    #[error("Putting dav blob {blob}: Wrong response code: {}", status.as_u16())]
    PutRefused {
        /// The blob's id.
        blob: String,
        /// What it answered.
        status: StatusCode,
    },
    /// What arrived is not the blob that was asked for.
    #[error(
        "Checking downloaded blob '{blob}': Expected stream to have digest '{expected}' but was '{actual}'"
    )]
    Digest {
        /// The blob's id, or the last part of its URL's path.
        blob: String,
        /// The digest that was asked for, as BOSH writes it.
        expected: String,
        /// The digest of what arrived, by the same algorithm.
        actual: String,
    },
    /// A program did not do what it was asked to.
    #[error("`{program}` {status}")]
    Program {
        /// Its name.
        program: String,
        /// How it ended.
        status: Status,
        /// What it said to that.
        source: ProgramOutput,
    },
    /// A program could not be run.
    #[error(transparent)]
    Run(RunError),
    /// A task of ours broke.
    #[error(transparent)]
    Task(#[from] TaskFailed),
    /// We were asked to stop.
    #[error("stopped")]
    Stopped,
}

/// The last lines that a program printed, without our secrets.
#[derive(Debug, thiserror::Error)]
#[error("{}", if lines.is_empty() { "it printed nothing".to_owned() } else { lines.join("\n") })]
pub struct ProgramOutput {
    /// The lines.
    pub lines: Vec<String>,
}

impl AttemptError {
    pub(super) fn digest(blob: &str, mismatch: DigestMismatch) -> Self {
        let written = |hex: String| match mismatch.algorithm {
            // As BOSH writes it: bare.
            release::Algorithm::Sha1 => hex,
            other => format!("{other}:{hex}"),
        };
        Self::Digest {
            blob: blob.to_owned(),
            expected: written(mismatch.expected),
            actual: written(mismatch.actual.unwrap_or_default()),
        }
    }

    /// Whether another attempt may well succeed.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Http(error) => error.is_temporary(),
            Self::DownloadRefused { status } | Self::GetRefused { status, .. } => {
                *status == StatusCode::NOT_FOUND || may_change(*status)
            }
            Self::UploadRefused { status, .. } | Self::PutRefused { status, .. } => {
                may_change(*status)
            }
            Self::Digest { .. } | Self::Program { .. } => true,
            Self::Unusable(_) | Self::File(_) | Self::Run(_) | Self::Task(_) | Self::Stopped => {
                false
            }
        }
    }
}

fn may_change(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        )
}

impl From<RunError> for AttemptError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Stopped => Self::Stopped,
            other => Self::Run(other),
        }
    }
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreProblem {
    /// There is none.
    #[error("the settings name no blobstore, neither in env.bosh.blobstores nor as blobstore")]
    NoSettings,
    /// One that keeps nothing.
    #[error("the blobstore provider `dummy` keeps no blobs")]
    Dummy,
    /// A provider with a name that no program can have.
    #[error("{0:?} cannot be the name of a blobstore provider")]
    Provider(String),
    /// An option that is needed is not there.
    #[error("the {provider} blobstore lacks the option `{option}`")]
    Missing {
        /// The provider.
        provider: &'static str,
        /// The option.
        option: &'static str,
    },
    /// An option is not what it should be.
    #[error("the {provider} blobstore cannot be used")]
    Option {
        /// The provider.
        provider: &'static str,
        /// What is wrong.
        source: NotText,
    },
    /// The endpoint is no URL.
    #[error("the endpoint of the dav blobstore cannot be used")]
    Endpoint(#[source] InvalidUrl),
    /// The program is not installed.
    #[error("Getting blobstore: Validating blobstore: executable {0} not found in PATH")]
    NoProgram(String),
    /// The program's configuration cannot be written.
    #[error("Getting blobstore: the configuration of {program} cannot be written")]
    Configuration {
        /// The program.
        program: String,
        /// What the system answered.
        source: fs::Error,
    },
}
