//! Runs a program to its end, without a terminal and without input. This is for helper programs,
//! not for packaging scripts.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::fs::{Access, access};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

use super::open_files::{Execution, ExecutionFailure, limited_command};
use super::orphans::Known;
use super::status::Status;
use super::supervise::OUTPUT_PATIENCE;
use super::tail::Tail;
use crate::config::Environment;
use crate::fs;

/// A program to run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The executable file.
    pub file: PathBuf,
    pub arguments: Vec<OsString>,
    /// The complete environment.
    pub environment: Environment,
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit status.
    pub status: Status,
    /// The last lines of the program's output, 25 at most.
    pub tail: Vec<String>,
}

/// Why the exit status of a program is unknown.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The pipe for the output could not be created.
    #[error("failed to create a pipe for the output of `{}`", program.display())]
    Pipe {
        /// The program's file.
        program: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The program could not be started.
    #[error("failed to start `{}`", program.display())]
    Start {
        /// The program's file.
        program: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Waiting for the program failed.
    #[error("failed to wait for `{}`", program.display())]
    Wait {
        /// The program's file.
        program: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The program was killed after a cancellation.
    #[error("stopped")]
    Stopped,
}

/// Finds an executable file with this name in `PATH`.
#[must_use]
pub(crate) fn find_program(name: &str, environment: &Environment) -> Option<PathBuf> {
    std::env::split_paths(environment.get("PATH")?)
        .map(|directory| directory.join(name))
        .find(|file| {
            fs::metadata(file).is_ok_and(|metadata| {
                metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
            })
        })
}

/// Runs a program with empty stdin and waits for its end. A cancellation, or dropping this future,
/// kills the program's process group.
///
/// # Errors
/// The program could not be run, or it was killed. A non-zero exit code is not an error here.
pub(crate) async fn run_to_end(
    program: &Program,
    cancel: &CancellationToken,
) -> Result<Ended, RunError> {
    let pipe_error = |source| RunError::Pipe {
        program: program.file.clone(),
        source,
    };
    let (reader, writer) = io::pipe().map_err(pipe_error)?;
    let mut output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(pipe_error)?;
    let error_output = writer.try_clone().map_err(pipe_error)?;
    let ((mut process, execution), _known) = Known::start(|| {
        let (process, execution) = start(program, writer, error_output)?;
        let id = process.id().map(|id| Pid::from_raw(id.cast_signed()));
        Ok(((process, execution), id))
    })?;
    let mut group = Group::of(&process);

    let mut tail = Tail::of_program();
    let gone = CancellationToken::new();
    let reading = read_until(&gone, &mut output, &mut tail);
    let waiting = async {
        let status = process.wait().await;
        gone.cancel();
        status
    };
    let ended = async { tokio::join!(waiting, reading).0 };
    let status = cancel.run_until_cancelled(ended).await;
    let status = match status {
        Some(status) => status,
        None => {
            group.kill();
            // Wait for the program's end, so that it writes nothing after this function returns.
            // The wait has a limit because SIGKILL does not end a process in uninterruptible sleep.
            let _ = tokio::time::timeout(OUTPUT_PATIENCE, process.wait()).await;
            return Err(RunError::Stopped);
        }
    };
    group.forget();
    let status = status.map_err(|source| RunError::Wait {
        program: program.file.clone(),
        source,
    })?;
    if let Some(failure) = execution.failure() {
        return Err(execution_error(program, failure));
    }
    Ok(Ended {
        status: status.into(),
        tail: tail.into_lines(),
    })
}

/// Reads the output to its end, or until [`OUTPUT_PATIENCE`] after `gone` reports that the program
/// has ended: background processes of the program may keep the pipe open.
async fn read_until(gone: &CancellationToken, output: &mut pipe::Receiver, tail: &mut Tail) {
    let reading = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match output.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(length) => tail.push(0, &buffer[..length]),
            }
        }
    };
    let giving_up = async {
        gone.cancelled().await;
        tokio::time::sleep(OUTPUT_PATIENCE).await;
    };
    tokio::select! {
        () = reading => {}
        () = giving_up => {}
    }
}

/// A process group that is killed on drop.
struct Group(Option<Pid>);

impl Group {
    fn of(process: &tokio::process::Child) -> Self {
        Self(process.id().map(|id| Pid::from_raw(id.cast_signed())))
    }

    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            // The group may have ended already.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }

    fn forget(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a program with the limit of open files that the agent inherited.
fn start(
    program: &Program,
    output: io::PipeWriter,
    error_output: io::PipeWriter,
) -> Result<(tokio::process::Child, Execution), RunError> {
    let failed = |source| RunError::Start {
        program: program.file.clone(),
        source,
    };
    access(&program.file, Access::EXEC_OK).map_err(|error| failed(error.into()))?;
    let (command, execution) = limited_command(&program.file).map_err(failed)?;
    let process = tokio::process::Command::from(command)
        .args(&program.arguments)
        .env_clear()
        .envs(program.environment.iter())
        .stdout(output)
        .stderr(error_output)
        .process_group(0)
        .spawn()
        .map_err(|error| execution_error(program, execution.spawn_failure(error)))?;
    Ok((process, execution))
}

fn execution_error(program: &Program, failure: ExecutionFailure) -> RunError {
    let file = program.file.clone();
    let source = match failure {
        ExecutionFailure::Program(error) => explained(error, &file),
        ExecutionFailure::Other(error) => error,
    };
    RunError::Start {
        program: file,
        source,
    }
}

/// An error of a start, with an explanation where the system's text is misleading.
fn explained(error: io::Error, program: &Path) -> io::Error {
    let reason = match error.raw_os_error().map(Errno::from_raw) {
        // The program itself exists, so the missing file is its interpreter.
        Some(Errno::ENOENT) if fs::metadata(program).is_ok() => {
            "the interpreter in its first line, or its dynamic linker, is missing"
        }
        Some(Errno::ENOEXEC) => {
            "it is a program for another CPU architecture, or a script without `#!` in its first line"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}: {reason}"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::diag::Chain;

    fn shell(script: &str) -> Program {
        Program {
            file: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: Environment::default().with(&[("GREETING", "hello".into())]),
        }
    }

    #[tokio::test]
    async fn run_returns_exit_code_and_last_lines() {
        let script = "cat; echo $GREETING $HOME; echo to stderr >&2; exit 3";
        let ended = run_to_end(&shell(script), &CancellationToken::new())
            .await
            .unwrap();
        assert_eq!(ended.status, Status::Exited(3));
        assert_eq!(ended.tail, ["hello", "to stderr"]);
        let ended = run_to_end(&shell("kill -9 $$"), &CancellationToken::new()).await;
        assert_eq!(ended.unwrap().status, Status::Signaled(9));
    }

    #[tokio::test]
    async fn cancellation_kills_the_process_group() {
        let scratch = tempfile::tempdir().unwrap();
        let pids = scratch.path().join("pids");
        let script = format!(
            "sleep 1000 & echo $$ $! >{0}.new; mv {0}.new {0}; wait",
            pids.display()
        );
        let cancel = CancellationToken::new();
        let program = shell(&script);
        let start = Instant::now();
        let (ended, ()) = tokio::join!(run_to_end(&program, &cancel), async {
            while !pids.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            cancel.cancel();
        });
        assert!(matches!(ended, Err(RunError::Stopped)));
        assert!(start.elapsed() < Duration::from_secs(500));
        for pid in fs::read_lossy(&pids).unwrap().split_whitespace() {
            // A killed orphan may remain as a zombie until its new parent reaps it.
            let stat = format!("/proc/{pid}/stat");
            while fs::read_lossy(stat.as_ref()).is_ok_and(|stat| !stat.contains(") Z ")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    #[tokio::test]
    async fn missing_program_is_named() {
        let mut program = shell("");
        program.file = "/nowhere/at-all".into();
        let error = run_to_end(&program, &CancellationToken::new())
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "failed to start `/nowhere/at-all`");
    }

    #[tokio::test]
    async fn broken_programs_are_explained() {
        let scratch = tempfile::tempdir().unwrap();
        let mut program = shell("");
        program.file = scratch.path().join("tool");
        for (content, mode, reason) in [
            (
                "#!/no/interpreter\n",
                0o755,
                "No such file or directory (os error 2): the interpreter in its first line, or its dynamic linker, is missing",
            ),
            (
                "\u{7f}ELF",
                0o755,
                "Exec format error (os error 8): it is a program for another CPU architecture, or a script without `#!` in its first line",
            ),
            ("#!/bin/sh\n", 0o644, "Permission denied (os error 13)"),
        ] {
            fs::write(&program.file, content.as_bytes()).unwrap();
            fs::set_mode(&program.file, mode).unwrap();
            let error = run_to_end(&program, &CancellationToken::new()).await;
            let named = format!("failed to start `{}`: {reason}", program.file.display());
            assert_eq!(Chain(&error.unwrap_err()).to_string(), named);
        }
    }

    #[test]
    fn executable_program_is_found_in_path() {
        let scratch = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| scratch.path().join(name));
        for (directory, mode) in [(&first, 0o644), (&second, 0o755)] {
            fs::create_dir(directory).unwrap();
            fs::write(&directory.join("tool"), b"").unwrap();
            fs::set_mode(&directory.join("tool"), mode).unwrap();
        }
        let path = format!("{}:{}", first.display(), second.display());
        let environment = Environment::default().with(&[("PATH", path.into())]);
        assert_eq!(
            find_program("tool", &environment),
            Some(second.join("tool"))
        );
        assert_eq!(find_program("other", &environment), None);
        assert_eq!(find_program("tool", &Environment::default()), None);
    }
}
