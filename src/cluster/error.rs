//! The errors of compiling a package on another machine.

use std::time::Duration;

use crate::diag::{Elapsed, printable_up_to};
use crate::package_job::{Blame, PackageReport};
use crate::reapi::{CallError, Code, Digest};
use crate::{fs, runtime};

/// The maximum length of a server's reason in a message, in characters.
const LONGEST_REASON: usize = 1000;

/// Why a package was not compiled on another machine. The texts do not name the package. They name the server only after
/// [`of_server`](Self::of_server).
#[derive(Debug, thiserror::Error)]
pub enum RemoteFailure {
    /// The compilation failed, for the reason in the report.
    #[error("{}{}", reason(report), on(worker))]
    Reported {
        /// The report of the compilation.
        report: Box<PackageReport>,
        /// The log of the script, on the server.
        log: Option<Digest>,
        /// The name of the machine, if the server reports it.
        worker: String,
    },
    /// The program that compiles the package ended without a report.
    #[error(
        "the program ended with exit code {exit_code} and without a report{}{}",
        on(worker),
        saying(output)
    )]
    NoReport {
        /// The program's exit code.
        exit_code: i32,
        /// The last line that the program printed.
        output: String,
        /// The name of the machine, if the server reports it.
        worker: String,
    },
    /// The program on the other machine does not know the arguments.
    #[error("the program on the machine refused its arguments: {output}")]
    Arguments {
        /// The last line that the program printed.
        output: String,
    },
    /// All packages that were being compiled have waited in the server's queue for too long.
    #[error(
        "no machine has taken a package from the server's queue within {}",
        Elapsed(*limit)
    )]
    NoMachine {
        /// How long they have waited.
        limit: Duration,
    },
    /// The server does not execute actions.
    #[error("the server executes no actions: it is only a cache")]
    NoExecution,
    /// The server did not execute the action.
    #[error("{} did not execute the action: {code}: {reason}", the_server(server))]
    Refused {
        /// The server, unless the caller mentions it.
        server: Option<String>,
        /// The server's code.
        code: String,
        /// The server's reason.
        reason: String,
    },
    /// The action took longer than its time limit.
    #[error("no result within the time limit of the action{}", limit.map(|it| format!(", {}", Elapsed(it))).unwrap_or_default())]
    TimedOut {
        /// The limit, if this program has set it.
        limit: Option<Duration>,
    },
    /// A result has no files on the server. As the final error, this happened several times.
    #[error("the server repeatedly lost stored files")]
    Lost,
    /// The result is the failure of an earlier execution. As the final error, this happened several times.
    #[error(
        "the server repeatedly returned the failure of an earlier execution instead of executing the action"
    )]
    StoredFailure,
    /// A file of the result is missing.
    #[error("the result has no file `{file}`")]
    Incomplete {
        /// The file.
        file: &'static str,
    },
    /// The report cannot be read.
    #[error("the report cannot be read")]
    Report(#[source] serde_json::Error),
    /// The report does not belong to the result.
    #[error("the report does not belong to the result: {what}")]
    Contradiction {
        /// The difference.
        what: &'static str,
    },
    /// The server returned the result of an earlier run without restrictions, although such results are not used.
    #[error(
        "the server returned the result of an earlier run without restrictions, which is used only with --cache-unrestricted"
    )]
    Unrestricted,
    /// A downloaded file does not match the digest in the result.
    #[error("a file of the result does not match its digest")]
    Damaged,
    /// A call failed.
    #[error("{} cannot be used", the_server(server))]
    Call {
        /// The server, unless the caller mentions it.
        server: Option<String>,
        /// Whether all attempts of a repeated call failed with errors that may be temporary.
        is_outage: bool,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of this machine cannot be read or written.
    #[error(transparent)]
    Files(#[from] fs::Error),
    /// The description of the package cannot be written as JSON.
    #[error("failed to describe the package")]
    Job(#[from] serde_json::Error),
    /// A task of this program panicked or was canceled.
    #[error(transparent)]
    Task(#[from] runtime::TaskFailed),
    /// The run was canceled.
    #[error("stopped")]
    Stopped,
}

impl From<CallError> for RemoteFailure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Damaged { .. } => Self::Damaged,
            error => Self::Call {
                server: None,
                is_outage: false,
                source: Box::new(error),
            },
        }
    }
}

impl RemoteFailure {
    pub(super) fn refused(code: Code, reason: &str) -> Self {
        let line = reason.lines().next().unwrap_or_default();
        Self::Refused {
            server: None,
            code: format!("{code:?}"),
            reason: printable_up_to(LONGEST_REASON, &line),
        }
    }

    /// The same failure, whose text names the server.
    pub(crate) fn of_server(mut self, name: &str) -> Self {
        if let Self::Refused { server, .. } | Self::Call { server, .. } = &mut self {
            *server = Some(name.to_owned());
        }
        self
    }

    /// The error of a call after its last attempt.
    pub(super) fn outage(error: CallError) -> Self {
        Self::Call {
            server: None,
            is_outage: true,
            source: Box::new(error),
        }
    }

    /// Whether the server did not serve a call in any attempt. Calls for other packages would fail, too.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Call {
                is_outage: true,
                ..
            }
        )
    }

    /// Whether a result cannot be used, although the server has answered.
    pub(super) fn is_bad_result(&self) -> bool {
        matches!(
            self,
            Self::Lost
                | Self::StoredFailure
                | Self::Incomplete { .. }
                | Self::Report(_)
                | Self::Contradiction { .. }
                | Self::Unrestricted
                | Self::Damaged
        )
    }

    /// Whether the server or its machines are to blame, not the package or this machine. Then, another
    /// machine may be able to compile the package.
    #[must_use]
    pub fn is_of_the_server(&self) -> bool {
        match self {
            Self::Reported { report, .. } => match report.failure_kind {
                Some(Blame::Machine) | None => true,
                Some(Blame::Script | Blame::Input) => false,
            },
            Self::NoReport { .. }
            | Self::Arguments { .. }
            | Self::NoMachine { .. }
            | Self::NoExecution
            | Self::Refused { .. }
            | Self::Lost
            | Self::StoredFailure
            | Self::Incomplete { .. }
            | Self::Report(_)
            | Self::Contradiction { .. }
            | Self::Unrestricted
            | Self::Damaged
            | Self::Call { .. } => true,
            Self::TimedOut { .. }
            | Self::Files(_)
            | Self::Job(_)
            | Self::Task(_)
            | Self::Stopped => false,
        }
    }

    /// The report of the failed compilation, if the program wrote one.
    #[must_use]
    pub fn report(&self) -> Option<&PackageReport> {
        match self {
            Self::Reported { report, .. } => Some(report),
            _ => None,
        }
    }
}

fn the_server(name: &Option<String>) -> String {
    match name {
        None => "the server".to_owned(),
        Some(name) => format!("the server {name}"),
    }
}

/// The error in a report.
fn reason(report: &PackageReport) -> &str {
    let failure = report.failure.as_ref().map(|it| it.message.as_str());
    let first = || report.errors.first().map(String::as_str);
    failure.or_else(first).unwrap_or("the compilation failed")
}

fn saying(output: &str) -> String {
    match output {
        "" => String::new(),
        output => format!(": {output}"),
    }
}

fn on(worker: &str) -> String {
    match worker {
        "" => String::new(),
        worker => format!(" (on {worker})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_the_server_on_request() {
        let limit = Duration::from_secs(1);
        let failure = RemoteFailure::from(CallError::Silent { limit });
        assert_eq!(failure.to_string(), "the server cannot be used");
        let failure = failure.of_server("grpc://host");
        assert_eq!(failure.to_string(), "the server grpc://host cannot be used");
        let refused = RemoteFailure::refused(Code::Internal, "reason").of_server("grpc://host");
        assert_eq!(
            refused.to_string(),
            "the server grpc://host did not execute the action: Internal: reason"
        );
    }
}
