//! Errors of blob transfers. Their texts start like those of the Go agent, because operators search
//! logs for them.

use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::options::NotString;
use crate::http::{self, InvalidUrl, StatusCode};
use crate::process::{RunError, Status};
use crate::release::DigestMismatch;
use crate::runtime::TaskFailed;
use crate::tls::TlsError;
use crate::{fs, release};

/// Why the client for a blobstore cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum BlobsError {
    /// The option with CA certificates is not a string.
    #[error("the blobstore's CA certificates cannot be read")]
    Authorities(#[source] NotString),
    /// The CA certificates are invalid.
    #[error("the blobstore's CA certificates cannot be used")]
    Tls(#[source] TlsError),
}

/// Why a blob could not be fetched or stored.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// Fetching by id failed.
    #[error("Getting blob from inner blobstore: Getting blob from inner blobstore")]
    Get(#[source] Failure),
    /// Storing under a new id failed.
    #[error("Creating blob in inner blobstore")]
    Create(#[source] Failure),
    /// Fetching from a signed URL failed.
    #[error("Failed to download blob")]
    Download(#[source] Failure),
    /// Storing at a signed URL failed.
    #[error("Failed to upload blob")]
    Upload(#[source] Failure),
    /// The transfer was canceled.
    #[error("stopped")]
    Stopped,
}

/// A failed transfer. `Display` prints the cause, followed by the place and the number of attempts
/// in parentheses. `source` is the source of the cause.
#[derive(Debug)]
pub struct Failure {
    /// The blobstore and the blob in it, or the URL without its secrets.
    pub place: String,
    /// The number of attempts.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub cause: AttemptError,
}

impl Failure {
    /// Converts the failure with `convert`, except a cancellation, which becomes
    /// [`BlobError::Stopped`].
    pub(super) fn into_blob_error(self, convert: impl FnOnce(Self) -> BlobError) -> BlobError {
        match self.cause {
            AttemptError::Stopped => BlobError::Stopped,
            _ => convert(self),
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
    /// A file operation failed, on the agent's disk or in a local blobstore.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The server sent no response, or an incomplete one.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// A download from a signed URL got an error response.
    #[error("Error executing GET, response was {}", status.as_u16())]
    DownloadRefused {
        /// The response's status.
        status: StatusCode,
    },
    /// An upload to a signed URL got an error response.
    #[error("Error executing PUT for {}, response was {}", file.display(), status.as_u16())]
    UploadRefused {
        /// The file with the blob.
        file: PathBuf,
        /// The response's status.
        status: StatusCode,
    },
    /// A download from a DAV server got an error response.
    #[error("Getting dav blob {blob}: Wrong response code: {}", status.as_u16())]
    GetRefused {
        /// The blob's id.
        blob: String,
        /// The response's status.
        status: StatusCode,
    },
    /// An upload to a DAV server got an error response.
    #[error("Putting dav blob {blob}: Wrong response code: {}", status.as_u16())]
    PutRefused {
        /// The blob's id.
        blob: String,
        /// The response's status.
        status: StatusCode,
    },
    /// The received blob has a wrong digest.
    #[error(
        "Checking downloaded blob '{blob}': Expected stream to have digest '{expected}' but was '{actual}'"
    )]
    Digest {
        /// The blob's ID, or the last segment of the path of its URL.
        blob: String,
        /// The requested digest, in BOSH's format.
        expected: String,
        /// The digest of the received blob, by the same algorithm.
        actual: String,
    },
    /// A blobstore program failed.
    #[error("`{program}` {status}")]
    Program {
        /// The program's name.
        program: String,
        /// The program's exit code or signal.
        status: Status,
        /// Whether the program stored a blob.
        is_upload: bool,
        /// The program's output.
        source: ProgramOutput,
    },
    /// A blobstore program could not be run.
    #[error(transparent)]
    Run(RunError),
    /// A task panicked.
    #[error(transparent)]
    Task(#[from] TaskFailed),
    /// The transfer was canceled.
    #[error("stopped")]
    Stopped,
}

/// The last lines of a program's output, without secrets.
#[derive(Debug, thiserror::Error)]
#[error("{}", if lines.is_empty() { "it printed nothing".to_owned() } else { lines.join("\n") })]
pub struct ProgramOutput {
    /// The lines.
    pub lines: Vec<String>,
}

/// What the programs for S3, Google Cloud Storage and Azure print if a store refuses an upload or does not exist. Another attempt does not
/// help. `ExpiredToken` is missing, because a machine gets new tokens.
const REFUSALS: [&str; 10] = [
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "NoSuchBucket",
    "AuthenticationFailed",
    "AuthorizationFailure",
    "ContainerNotFound",
    "StatusCode: 403",
    "Error 401",
    "Error 403",
];

/// What these programs print if the store has no such blob.
const MISSING: [&str; 5] = [
    "NoSuchKey",
    "NotFound",
    "StatusCode: 404",
    "object doesn't exist",
    "Error 404",
];

impl ProgramOutput {
    fn is_refusal(&self) -> bool {
        self.has_one_of(&REFUSALS)
    }

    fn is_of_missing_blob(&self) -> bool {
        self.has_one_of(&MISSING)
    }

    fn has_one_of(&self, texts: &[&str]) -> bool {
        let names_one = |line: &String| texts.iter().any(|text| line.contains(text));
        self.lines.iter().any(names_one)
    }
}

impl AttemptError {
    pub(super) fn digest(blob: &str, mismatch: DigestMismatch) -> Self {
        let written = |hex: String| match mismatch.algorithm {
            // BOSH's format has no prefix for SHA-1.
            release::Algorithm::Sha1 => hex,
            other => format!("{other}:{hex}"),
        };
        Self::Digest {
            blob: blob.to_owned(),
            expected: written(mismatch.expected),
            actual: written(mismatch.actual.unwrap_or_default()),
        }
    }

    /// Whether another attempt may succeed.
    #[must_use]
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Http(error) => error.is_temporary(),
            Self::DownloadRefused { status } | Self::GetRefused { status, .. } => {
                *status == StatusCode::NOT_FOUND || may_change(*status)
            }
            Self::UploadRefused { status, .. } | Self::PutRefused { status, .. } => {
                may_change(*status)
            }
            Self::Digest { .. } => true,
            // S3 also denies access to an object that is not yet visible, so a download is tried again.
            Self::Program {
                is_upload, source, ..
            } => !(*is_upload && source.is_refusal()),
            Self::Unusable(_) | Self::File(_) | Self::Run(_) | Self::Task(_) | Self::Stopped => {
                false
            }
        }
    }

    /// Whether the blobstore seems to be away, so that an attempt may succeed minutes later. A missing or wrong blob and a refusal are no
    /// sign of that.
    pub(super) fn is_outage(&self) -> bool {
        let has_responded = match self {
            Self::DownloadRefused { status } | Self::GetRefused { status, .. } => {
                *status == StatusCode::NOT_FOUND
            }
            Self::Digest { .. } => true,
            Self::Program { source, .. } => source.is_refusal() || source.is_of_missing_blob(),
            _ => false,
        };
        self.is_temporary() && !has_responded
    }
}

fn may_change(status: StatusCode) -> bool {
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => true,
        // The server does not know the method or the version of HTTP.
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => false,
        other => other.is_server_error(),
    }
}

impl From<RunError> for AttemptError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Stopped => Self::Stopped,
            other => Self::Run(other),
        }
    }
}

/// Why a blobstore cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreProblem {
    /// The settings have no blobstore.
    #[error("the settings contain no blobstore: neither `env.bosh.blobstores` nor `blobstore`")]
    NoSettings,
    /// The provider `dummy` does not store anything.
    #[error("the blobstore provider `dummy` stores no blobs")]
    Dummy,
    /// The provider's name contains characters that cannot be part of a program's name.
    #[error("{0:?} cannot be the name of a blobstore provider")]
    Provider(String),
    /// A required option is missing.
    #[error("the {provider} blobstore lacks the option `{option}`")]
    Missing {
        /// The provider.
        provider: &'static str,
        /// The option.
        option: &'static str,
    },
    /// An option has the wrong type.
    #[error("the {provider} blobstore cannot be used")]
    Option {
        /// The provider.
        provider: &'static str,
        /// The option and the problem.
        source: NotString,
    },
    /// The endpoint is not a URL.
    #[error("the endpoint of the dav blobstore cannot be used")]
    Endpoint(#[source] InvalidUrl),
    /// The blobstore program is not installed.
    #[error("Getting blobstore: Validating blobstore: executable {0} not found in PATH")]
    NoProgram(String),
    /// The program's configuration file cannot be written.
    #[error("Getting blobstore: the configuration of {program} cannot be written")]
    Configuration {
        /// The program.
        program: String,
        /// The failed operation.
        source: fs::Error,
    },
}
