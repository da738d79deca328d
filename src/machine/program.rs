//! Runs programs of the machine, such as `useradd`, without a shell.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::Environment;
use crate::process::{self, Program, RunError, Status};
use crate::runtime::{self, TaskFailed};

/// The directories that are searched first for a program, relative to the root directory of the system. `PATH` follows if the root is `/`.
const SYSTEM_DIRECTORIES: [&str; 4] = ["usr/sbin", "sbin", "usr/bin", "bin"];

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
    #[error("`{program}` took too long and was killed")]
    Slow {
        /// The program's name.
        program: &'static str,
    },
    /// The task that looks for the program panicked or was canceled.
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

/// Where to find programs, and the environment in which they run.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// The root directory of the system. It is `/`, except in tests, which must not change this machine: they have programs of their own.
    pub(crate) root: PathBuf,
    /// The environment of the programs.
    pub(crate) environment: Environment,
}

impl Programs {
    fn find(&self, program: &str) -> Option<PathBuf> {
        // Search these directories first: packaging scripts may be able to write to other directories in `PATH`, such as `BASE/bosh/bin`.
        let mut system = SYSTEM_DIRECTORIES
            .iter()
            .map(|it| self.root.join(it).join(program));
        system.find(|path| path.is_file()).or_else(|| {
            let is_this_machine = self.root.parent().is_none();
            is_this_machine.then(|| process::find_program(program, &self.environment))?
        })
    }
}

/// Runs a program to its end.
///
/// # Errors
/// If the system lacks the program, or if the program cannot be started, fails or takes longer than `limit`.
pub(crate) async fn run_program(
    programs: &Programs,
    program: &'static str,
    arguments: Vec<OsString>,
    limit: Duration,
) -> Result<(), ProgramError> {
    let own = programs.clone();
    let finding = runtime::spawn_blocking("find program", move || own.find(program));
    let command = Program {
        file: finding.await?.ok_or(ProgramError::Missing { program })?,
        arguments,
        environment: programs.environment.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs;

    async fn ran(program: &'static str, argument: &str) -> Result<(), String> {
        let programs = Programs {
            root: "/".into(),
            environment: Environment::default(),
        };
        let limit = Duration::from_secs(30);
        let run = run_program(&programs, program, vec![argument.into()], limit);
        run.await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn slow_program_is_killed_and_named() {
        let root = tempfile::tempdir().unwrap();
        let process = root.path().join("process");
        let text = format!(
            "#!/bin/sh\necho $$ >{}\nexec sleep 1000\n",
            process.display()
        );
        let file = root.path().join("usr/sbin/slow");
        fs::create_dir_all(fs::parent(&file)).unwrap();
        fs::write(&file, text.as_bytes()).unwrap();
        fs::set_mode(&file, 0o755).unwrap();
        let programs = Programs {
            root: root.path().to_owned(),
            environment: Environment::default().with(&[("PATH", "/usr/bin:/bin".into())]),
        };
        // On a busy machine, the program may not have started within a short limit.
        for seconds in 1.. {
            let limit = Duration::from_secs(seconds);
            let error = run_program(&programs, "slow", Vec::new(), limit)
                .await
                .unwrap_err();
            assert!(matches!(error, ProgramError::Slow { .. }), "{error}");
            assert_eq!(error.to_string(), "`slow` took too long and was killed");
            if fs::read_lossy(&process).is_ok_and(|it| it.ends_with('\n')) {
                break;
            }
        }
        let process = fs::read_lossy(&process).unwrap();
        let status = PathBuf::from(format!("/proc/{}/stat", process.trim()));
        let ending = async {
            // A killed process may not be reaped yet.
            while fs::read_lossy(&status).is_ok_and(|it| !it.contains(") Z ")) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ending)
            .await
            .unwrap();
        // With another root directory, programs of this machine are not found.
        let missing = run_program(&programs, "test", Vec::new(), Duration::MAX).await;
        assert!(matches!(missing, Err(ProgramError::Missing { .. })));
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
