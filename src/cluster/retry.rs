//! Decides what to do after the end of an execution. No I/O.

use std::time::Duration;

use crate::reapi::Code;

/// The maximum number of executions of one package, if machines fail.
pub(super) const ATTEMPTS: u32 = 3;

/// The facts about the end of an execution that the decision depends on.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// The program ended with this exit code.
    Exited { code: i32, has_report: bool },
    /// The server did not execute the action.
    Refused(Code),
}

/// The decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The package is compiled.
    Compiled,
    /// The package or its input is to blame. Another machine would not help.
    Failed,
    /// The machine is to blame. Execute the action on another machine.
    Retry,
    /// The result is from an earlier run and cannot be used. Execute the action without a cache
    /// lookup.
    Unusable,
    /// The server lacks blobs. Upload them again; some servers do not say which ones are missing.
    Store,
    /// The program on the other machine does not know the arguments.
    Arguments,
    /// The execution exceeded its time limit.
    TimedOut,
    /// The server refuses the action.
    Refused,
}

/// Decides what to do after the end of an execution.
pub(super) fn verdict(end: End) -> Verdict {
    match end {
        End::Exited { code: 0, .. } => Verdict::Compiled,
        End::Exited {
            code: 1 | 3,
            has_report: true,
        } => Verdict::Failed,
        End::Exited { code: 2, .. } => Verdict::Arguments,
        // The machine lacks space or memory, a signal ended the program, or the program could not
        // be started.
        End::Exited { .. } => Verdict::Retry,
        End::Refused(code) => match code {
            // BuildBox reports a missing input as not found.
            Code::FailedPrecondition | Code::NotFound => Verdict::Store,
            Code::DeadlineExceeded => Verdict::TimedOut,
            Code::Unavailable
            | Code::Aborted
            | Code::ResourceExhausted
            | Code::Internal
            | Code::Unknown
            | Code::Cancelled
            | Code::DataLoss => Verdict::Retry,
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

/// The pause between the attempt with this number, from 1, and the next one. It is a multiple of `unit`, and longer for a busy server.
pub(super) fn pause(code: Option<Code>, attempt: u32, unit: Duration) -> Duration {
    let first = match code {
        Some(Code::ResourceExhausted | Code::Unavailable | Code::Aborted) => 15,
        _ => 1,
    };
    unit * first * 4_u32.saturating_pow(attempt.saturating_sub(1))
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
    fn pauses_grow_and_are_longer_for_a_busy_server() {
        let seconds =
            |code| [1, 2].map(|attempt| pause(code, attempt, Duration::from_secs(1)).as_secs());
        assert_eq!(seconds(None), [1, 4]);
        assert_eq!(seconds(Some(Code::Internal)), [1, 4]);
        assert_eq!(seconds(Some(Code::Unavailable)), [15, 60]);
    }

    #[test]
    fn refusal_is_retried_stored_or_final() {
        let refused = |code| verdict(End::Refused(code));
        assert_eq!(refused(Code::Internal), Verdict::Retry);
        assert_eq!(refused(Code::DeadlineExceeded), Verdict::TimedOut);
        assert_eq!(refused(Code::InvalidArgument), Verdict::Refused);
        assert_eq!(refused(Code::FailedPrecondition), Verdict::Store);
        assert_eq!(refused(Code::NotFound), Verdict::Store);
    }
}
