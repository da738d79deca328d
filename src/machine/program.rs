//! Runs programs of the machine, such as `useradd`, without a shell.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::Environment;
use crate::process::{self, Program, RunError, Status};
use crate::runtime::{self, TaskFailed};

/// Directories of the system's programs, which are searched before `PATH`.
const SYSTEM_DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Why a program could not be run, or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    /// The machine does not have the program.
    #[error("there is no program `{program}` on this machine")]
    Missing {
        /// The program's name.
        program: &'static str,
    },
    /// The program could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The program failed.
    #[error("`{program}` {status}{}{}", if tail.is_empty() { "" } else { ": " }, tail.join("\n"))]
    Failed {
        /// The program's name.
        program: &'static str,
        /// Its exit status.
        status: Status,
        /// The last lines of its output.
        tail: Vec<String>,
    },
    /// The program was killed at the time limit.
    #[error("`{program}` takes too long")]
    Slow {
        /// The program's name.
        program: &'static str,
    },
    /// The task that looks for the program panicked.
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

/// Runs a program to its end.
///
/// # Errors
/// If the machine lacks the program, or if the program fails or takes longer than `limit`.
pub(crate) async fn run_program(
    program: &'static str,
    arguments: Vec<OsString>,
    environment: &Environment,
    limit: Duration,
) -> Result<(), ProgramError> {
    let own = environment.clone();
    let finding = runtime::spawn_blocking("find program", move || find(program, &own));
    let command = Program {
        file: finding.await?.ok_or(ProgramError::Missing { program })?,
        arguments,
        environment: environment.clone(),
    };
    let cancel = CancellationToken::new();
    let ended = tokio::time::timeout(limit, process::run_to_end(&command, &cancel))
        .await
        .map_err(|_| ProgramError::Slow { program })??;
    if ended.status.is_success() {
        return Ok(());
    }
    Err(ProgramError::Failed {
        program,
        status: ended.status,
        tail: ended.tail,
    })
}

fn find(program: &str, environment: &Environment) -> Option<PathBuf> {
    // Search these directories first: scripts may be able to write to other directories in `PATH`, such as
    // that of the stemcell's programs.
    let mut system = SYSTEM_DIRECTORIES
        .iter()
        .map(|it| Path::new(it).join(program));
    system
        .find(|path| path.is_file())
        .or_else(|| process::find_program(program, environment))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ran(program: &'static str, argument: &str) -> Result<(), String> {
        let environment = Environment::default();
        let limit = Duration::from_secs(30);
        let run = run_program(program, vec![argument.into()], &environment, limit);
        run.await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn missing_and_failing_programs_are_named() {
        assert_eq!(
            ran("bosh-agent-none", "").await.unwrap_err(),
            "there is no program `bosh-agent-none` on this machine"
        );
        assert_eq!(ran("test", "word").await, Ok(()));
        let failed = ran("test", "").await.unwrap_err();
        assert!(failed.starts_with("`test` "), "{failed}");
    }
}
