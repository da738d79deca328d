//! What follows from the end of an execution. Pure.

use crate::reapi::Code;

/// How often a package is executed, at most, if its machines fail.
pub(super) const ATTEMPTS: u32 = 3;

/// The end of an execution, as far as it decides what follows.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// The program ended with this code.
    Exited { code: i32, has_report: bool },
    /// The server did not execute the action.
    Refused(Code),
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The package was compiled.
    Compiled,
    /// The package is to blame, or its input: another machine would not help.
    Failed,
    /// The machine is to blame: another one may compile the package.
    Retry,
    /// The result is that of an earlier run, and cannot be used.
    Unusable,
    /// The server lacks blobs. Not every server says which ones.
    Store,
    /// The program there does not know the arguments.
    Arguments,
    /// It took too long.
    TimedOut,
    /// The server refuses the action.
    Refused,
}

/// Decides what follows from the end of an execution.
pub(super) fn verdict(end: End) -> Verdict {
    match end {
        End::Exited { code: 0, .. } => Verdict::Compiled,
        End::Exited {
            code: 1 | 3,
            has_report: true,
        } => Verdict::Failed,
        End::Exited { code: 2, .. } => Verdict::Arguments,
        // A machine without space or memory, a signal, or a program that could not be started.
        End::Exited { .. } => Verdict::Retry,
        End::Refused(code) => match code {
            Code::FailedPrecondition => Verdict::Store,
            Code::DeadlineExceeded => Verdict::TimedOut,
            Code::Unavailable
            | Code::Aborted
            | Code::ResourceExhausted
            | Code::Internal
            | Code::Unknown
            | Code::Cancelled
            | Code::DataLoss
            | Code::NotFound => Verdict::Retry,
            Code::Ok
            | Code::InvalidArgument
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated => Verdict::Refused,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32, has_report: bool) -> Verdict {
        verdict(End::Exited { code, has_report })
    }

    #[test]
    fn exit_code_says_who_is_to_blame() {
        assert_eq!(exited(0, true), Verdict::Compiled);
        assert_eq!(exited(1, true), Verdict::Failed);
        assert_eq!(exited(3, true), Verdict::Failed);
        assert_eq!(exited(2, false), Verdict::Arguments);
        for (code, has_report) in [
            (4, true),
            (1, false),
            (127, false),
            (137, true),
            (143, false),
        ] {
            assert_eq!(exited(code, has_report), Verdict::Retry, "{code}");
        }
    }

    #[test]
    fn refusal_is_retried_stored_or_final() {
        let refused = |code| verdict(End::Refused(code));
        assert_eq!(refused(Code::Internal), Verdict::Retry);
        assert_eq!(refused(Code::DeadlineExceeded), Verdict::TimedOut);
        assert_eq!(refused(Code::InvalidArgument), Verdict::Refused);
        assert_eq!(refused(Code::FailedPrecondition), Verdict::Store);
    }
}
