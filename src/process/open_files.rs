//! The limit of open files (`RLIMIT_NOFILE`). The agent raises its own soft limit to the hard
//! limit. Scripts and other programs get the soft limit that the agent inherited.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::unistd::{dup2_stdin, execv, pipe2};

use crate::fs;

/// The argument that makes this program lower its limit and then execute another program. The
/// limit, the program and its arguments follow.
pub(crate) const LIMITED_ARGUMENT: &str = "__limited";

/// The soft limit that this process inherited, if this process has raised its limit.
static INHERITED: OnceLock<rlim_t> = OnceLock::new();

/// Raises the soft limit to the hard limit. The inherited soft limit may be too low for the
/// descriptors of concurrent packages.
pub(crate) fn raise_limit_of_open_files() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    // Keep the first value: a second call would read the raised limit.
    if INHERITED.set(soft).is_ok() {
        // If the system refuses, the inherited limit remains.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The argument that makes the fork server restore the inherited limit. `None` if this process has
/// not raised its limit.
pub(super) fn inherited_limit_of_open_files() -> Option<OsString> {
    INHERITED.get().map(|soft| soft.to_string().into())
}

/// A command that runs a program with the inherited limit and with empty stdin.
///
/// If this process has raised its limit, the command starts a second process of this executable,
/// which lowers its own limit and then executes the program (see [`become_limited`]). In this case,
/// `spawn` does not report whether the program could be executed, but the returned [`Execution`]
/// does.
#[expect(
    clippy::disallowed_methods,
    reason = "makes a command for one of the places that start processes"
)]
pub(super) fn limited_command(program: &Path) -> io::Result<(Command, Execution)> {
    let Some(limit) = inherited_limit_of_open_files() else {
        let mut command = Command::new(program);
        command.stdin(null()?);
        return Ok((command, Execution(None)));
    };
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let mut command = Command::new(OWN);
    command.arg(LIMITED_ARGUMENT).arg(limit).arg(program);
    command.stdin(writer);
    Ok((command, Execution(Some(reader.into()))))
}

/// The reading end of a pipe. A process that cannot execute its program writes the error to the
/// pipe.
#[derive(Debug)]
pub(super) struct Execution(Option<File>);

/// Why a program could not be executed.
#[derive(Debug)]
pub(super) enum ExecutionFailure {
    /// The system cannot execute it.
    Program(io::Error),
    /// A file that is needed before that cannot be used. The error names it.
    Other(io::Error),
}

/// The stages that a process reports: what failed.
const PROGRAM_FAILED: u8 = 0;
const NULL_FAILED: u8 = 1;

impl Execution {
    /// Explains the error of `spawn` for a command of [`limited_command`].
    pub(super) fn spawn_failure(&self, error: io::Error) -> ExecutionFailure {
        match self.0 {
            None => ExecutionFailure::Program(error),
            Some(_) => ExecutionFailure::Other(named("execute", OWN, error)),
        }
    }

    /// The error, if the program could not be executed. Call this after the process has ended. Does
    /// not wait.
    pub(super) fn failure(self) -> Option<ExecutionFailure> {
        let mut report = [0; size_of::<i32>() + 1];
        self.0?.read_exact(&mut report).ok()?;
        let [code @ .., stage] = report;
        let error = io::Error::from_raw_os_error(i32::from_le_bytes(code));
        Some(match stage {
            NULL_FAILED => ExecutionFailure::Other(named("open", NULL, error)),
            _ => ExecutionFailure::Program(error),
        })
    }
}

/// This program, and the empty input of the others.
const OWN: &str = "/proc/self/exe";
const NULL: &str = "/dev/null";

fn named(action: &'static str, path: &str, error: io::Error) -> io::Error {
    let kind = error.kind();
    io::Error::new(kind, fs::Error::new(action, path.as_ref(), error))
}

fn null() -> io::Result<File> {
    let opened = fs::open(NULL.as_ref());
    opened.map_err(|error| named("open", NULL, error.source))
}

/// Lowers the limit of open files and replaces this process by another program. `arguments` are
/// those after [`LIMITED_ARGUMENT`]. Standard input is the pipe of an [`Execution`]. Returns only
/// if that failed, with the error.
pub(crate) fn become_limited(arguments: &[OsString]) -> io::Error {
    let [limit, arguments @ ..] = arguments else {
        return io::ErrorKind::InvalidInput.into();
    };
    restore_limit_of_open_files(Some(limit));
    // A successful `execv` closes this descriptor.
    let report = io::stdin().as_fd().try_clone_to_owned();
    let (stage, error) = execute(arguments);
    if let Ok(report) = report {
        let code = error.raw_os_error().unwrap_or(Errno::EIO as i32);
        let [first, second, third, fourth] = code.to_le_bytes();
        // If this write fails, the exit code still shows that the program was not executed.
        let _ = File::from(report).write_all(&[first, second, third, fourth, stage]);
    }
    error
}

/// Replaces this process by a program with empty stdin. If the kernel cannot execute the file, this
/// fails, whereas the standard library would run the file with a shell. Returns what failed, and the error.
fn execute(arguments: &[OsString]) -> (u8, io::Error) {
    let text = |argument: &OsString| CString::new(argument.as_bytes());
    let arguments: Result<Vec<CString>, _> = arguments.iter().map(text).collect();
    let arguments = match arguments {
        Ok(arguments) => arguments,
        Err(error) => return (PROGRAM_FAILED, error.into()),
    };
    let Some(program) = arguments.first() else {
        return (PROGRAM_FAILED, io::ErrorKind::InvalidInput.into());
    };
    let replaced = fs::open(NULL.as_ref())
        .map_err(|error| error.source)
        .and_then(|null| Ok(dup2_stdin(&null)?));
    if let Err(error) = replaced {
        return (NULL_FAILED, error);
    }
    let Err(error) = execv(program, &arguments);
    (PROGRAM_FAILED, error.into())
}

/// Restores the inherited soft limit, before this process executes another program.
pub(crate) fn restore_inherited_limit_of_open_files() {
    restore_limit_of_open_files(inherited_limit_of_open_files().as_ref());
}

/// Restores the inherited soft limit in the fork server. `argument` is from
/// [`inherited_limit_of_open_files`].
pub(crate) fn restore_limit_of_open_files(argument: Option<&OsString>) {
    let soft = argument.and_then(|argument| argument.to_str()?.parse().ok());
    if let (Some(soft), Ok((_, hard))) = (soft, getrlimit(Resource::RLIMIT_NOFILE)) {
        // This cannot fail, because the inherited soft limit is below the hard limit.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(stage: u8) -> ExecutionFailure {
        let (reader, mut writer) = io::pipe().unwrap();
        let code = (Errno::ENOENT as i32).to_le_bytes();
        writer.write_all(&code).unwrap();
        writer.write_all(&[stage]).unwrap();
        let reader = std::os::fd::OwnedFd::from(reader);
        Execution(Some(reader.into())).failure().unwrap()
    }

    #[test]
    fn missing_file_of_the_agent_is_not_the_programs() {
        let of_program = failure(PROGRAM_FAILED);
        assert!(matches!(of_program, ExecutionFailure::Program(_)));
        let ExecutionFailure::Other(error) = failure(NULL_FAILED) else {
            panic!("it is the program's");
        };
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(
            crate::diag::Chain(&error).to_string(),
            "failed to open `/dev/null`: No such file or directory (os error 2)"
        );
        let (reader, _writer) = io::pipe().unwrap();
        let limited = Execution(Some(std::os::fd::OwnedFd::from(reader).into()));
        let not_found = || io::ErrorKind::NotFound.into();
        let ExecutionFailure::Other(error) = limited.spawn_failure(not_found()) else {
            panic!("it is the program's");
        };
        assert!(error.to_string().contains("`/proc/self/exe`"), "{error}");
        let direct = Execution(None).spawn_failure(not_found());
        assert!(matches!(direct, ExecutionFailure::Program(_)));
    }
}
