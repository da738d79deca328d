//! What the child is told and what it tells: plain data, one line of JSON each.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::process::{Status, Usage};

/// What the child is to run. Its environment is the script's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The program, looked up in `PATH`.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its working directory.
    pub directory: PathBuf,
    /// Its umask.
    pub umask: u32,
    /// How long the processes get between SIGTERM and SIGKILL when the agent is lost or the child itself is asked to end.
    pub grace: Duration,
}

/// What the child says at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The script ran and ended.
    Ended {
        /// How it ended.
        status: Status,
        /// Processes that it had left behind, and that were ended.
        left_behind: usize,
        /// What it used, with all its descendants.
        usage: Usage,
    },
    /// It could not be run.
    Failed(StepError),
}

/// A step of the child that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("failed to {step}: {}", io::Error::from_raw_os_error(*errno))]
pub struct StepError {
    /// The step, as it reads after "failed to".
    pub step: String,
    /// What the system answered.
    pub errno: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_and_a_report_are_one_line_each_and_come_back_as_they_were() {
        let spec = Spec {
            program: "bash".to_owned(),
            arguments: vec!["-x".to_owned(), "a\nb".to_owned()],
            directory: PathBuf::from("/var/vcap/data/compile/a"),
            umask: 0o022,
            grace: Duration::from_millis(1500),
        };
        let line = serde_json::to_string(&spec).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Spec>(&line).unwrap(), spec);
        let report = Report::Ended {
            status: Status::Signaled(9),
            left_behind: 2,
            usage: Usage::default(),
        };
        let line = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), report);
    }

    #[test]
    fn a_failed_step_says_what_the_system_answered() {
        let error = StepError {
            step: "start `bash`".to_owned(),
            errno: 2,
        };
        assert_eq!(
            error.to_string(),
            "failed to start `bash`: No such file or directory (os error 2)"
        );
    }
}
