//! Decides whether a script that ran under Landlock rules, which restrict its access to files, is run again without them. No I/O.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::denials::Denial;
use super::error::CompileError;
use super::finding::Finding;
use crate::process::{LastLines, Status};
use crate::release::Name;

/// A first run that fails within this time is cheap to repeat.
const CHEAP: Duration = Duration::from_secs(30);

/// The exit code of a shell that is not allowed to run a program.
const NOT_EXECUTABLE: i32 = 126;

/// When a script that failed under Landlock rules is run a second time, without them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SecondRun {
    /// After a failure, if the output shows a denied access or the script failed within this time. After a success, if the output shows a
    /// denied access that the rules may have caused.
    Auto(Duration),
    /// After every failure that the rules may have caused.
    Always,
    /// Never.
    #[default]
    Never,
}

impl SecondRun {
    /// The default.
    pub const AUTO: Self = Self::Auto(CHEAP);

    /// Whether a second run follows a failure. No second run follows a signal, a lack of memory or space, a timeout or a cancellation, because
    /// the rules cannot cause these.
    pub(super) fn follows(
        self,
        failure: &CompileError,
        elapsed: Duration,
        denials: &[Denial],
    ) -> bool {
        let is_denied = || !denials.is_empty() || has_status(failure, NOT_EXECUTABLE);
        failure.may_be_caused_by_rules()
            && match self {
                Self::Auto(cheap) => elapsed <= cheap || is_denied(),
                Self::Always => true,
                Self::Never => false,
            }
    }
}

fn has_status(failure: &CompileError, code: i32) -> bool {
    matches!(failure, CompileError::Script(script) if script.status == Status::Exited(code))
}

/// The first run of a script that runs twice. The first run is restricted by Landlock rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstRun {
    /// Why the script runs again: the error of the first run, or a text about denied access if the first run succeeded.
    pub failure: String,
    /// Whether the script succeeded although it was denied access.
    pub succeeded: bool,
    /// How long the script ran.
    pub elapsed: Duration,
    /// The last lines of the script's output.
    pub tail: LastLines,
    /// The denied access that the output shows. Denials that the rules may have caused come first.
    pub denials: Vec<Denial>,
    /// Undeclared dependencies that the script failed to access.
    pub undeclared: Vec<Name>,
    /// Possible causes other than the rules.
    pub findings: Vec<Finding>,
    /// The log of the whole output.
    pub log: PathBuf,
}

/// The log of the first run. It is `NAME@first.log`, next to `NAME.log` of the second run. Package names contain no `@`, so no other log has
/// this name.
#[must_use]
pub fn first_log(log: &Path) -> PathBuf {
    let mut name = log.file_stem().unwrap_or_default().to_owned();
    name.push("@first.log");
    log.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::denials::{ClosedPaths, Search};
    use crate::compile::error::{Cause, ScriptFailure};

    const LONG: Duration = Duration::from_secs(31);
    const SHORT: Duration = Duration::from_secs(30);

    fn failure(status: Status, cause: Option<Cause>) -> CompileError {
        CompileError::Script(Box::new(ScriptFailure {
            package: package(),
            status,
            elapsed: Duration::ZERO,
            cause,
            processes: Vec::new(),
            tail: LastLines::default(),
            undeclared: Vec::new(),
            findings: Vec::new(),
            denials: None,
            endings: Vec::new(),
            log: PathBuf::from("/log"),
            first_log: None,
            log_failure: None,
        }))
    }

    fn package() -> Name {
        Name::parse("app").unwrap()
    }

    fn denials(text: &str) -> Vec<Denial> {
        let mut search = Search::default();
        search.read(text);
        search.into_denials(|_| ClosedPaths::default())
    }

    #[test]
    fn auto_repeats_quick_failures_and_those_with_a_denial() {
        let failed = failure(Status::Exited(1), None);
        let none = denials("undefined reference to `main'");
        assert!(SecondRun::AUTO.follows(&failed, SHORT, &none));
        assert!(!SecondRun::AUTO.follows(&failed, LONG, &none));
        for text in [
            "mkdir: cannot create directory '/x': Permission denied",
            "mkdir /x: permission denied",
            "chown: x: Operation not permitted",
            "ln: x: Invalid cross-device link",
            "touch: x: Read-only file system",
        ] {
            assert!(
                SecondRun::AUTO.follows(&failed, LONG, &denials(text)),
                "{text}"
            );
        }
        let not_run = failure(Status::Exited(126), None);
        assert!(SecondRun::AUTO.follows(&not_run, LONG, &none));
        let empty = CompileError::InstallTarget {
            package: package(),
            path: PathBuf::from("/x"),
            found: "there is nothing".into(),
        };
        assert!(SecondRun::AUTO.follows(&empty, SHORT, &none));
        assert!(!SecondRun::AUTO.follows(&empty, LONG, &none));
    }

    #[test]
    fn always_and_never_ignore_the_elapsed_time() {
        let failed = failure(Status::Exited(1), None);
        let denied = denials("x: Permission denied");
        assert!(SecondRun::Always.follows(&failed, LONG, &[]));
        assert!(!SecondRun::Never.follows(&failed, SHORT, &denied));
    }

    #[test]
    fn failures_with_other_causes_are_never_repeated() {
        let denied = denials("x: Permission denied");
        let limit = Duration::from_secs(1);
        for failed in [
            failure(Status::Signaled(9), None),
            failure(Status::Exited(137), None),
            failure(Status::Exited(139), None),
            failure(Status::Exited(1), Some(Cause::OutOfMemory { killed: 1 })),
            failure(Status::Exited(1), Some(Cause::TimeLimit { limit })),
            failure(Status::Exited(1), Some(Cause::Silence { limit })),
            failure(Status::Exited(1), Some(Cause::NoSpace { full: None })),
            CompileError::Stopped { package: package() },
        ] {
            for policy in [SecondRun::AUTO, SecondRun::Always] {
                assert!(!policy.follows(&failed, SHORT, &denied), "{failed:?}");
            }
        }
        for status in [Status::Exited(1), Status::Exited(128), Status::Exited(255)] {
            assert!(
                SecondRun::AUTO.follows(&failure(status, None), LONG, &denied),
                "{status}"
            );
        }
    }

    #[test]
    fn first_log_is_next_to_the_second() {
        let path = first_log(Path::new("/logs/demo-1/lib.so-1.2.log"));
        assert_eq!(path, Path::new("/logs/demo-1/lib.so-1.2@first.log"));
    }
}
