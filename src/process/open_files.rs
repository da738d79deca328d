//! The limit of open files: the agent raises its own, scripts and other programs keep that of the caller.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::unistd::{dup2_stdin, execv, pipe2};

use crate::fs;

/// The argument with which this program becomes another one with a lower limit: the limit, the program and its arguments follow.
pub(crate) const LIMITED_ARGUMENT: &str = "__limited";

/// The soft limit that this process inherited.
static INHERITED: OnceLock<rlim_t> = OnceLock::new();

/// Raises the soft limit of open files to the hard limit. A caller may have a low soft limit, and concurrent packages need descriptors.
pub(crate) fn raise_limit_of_open_files() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    // A later call would read the limit of the first one.
    if INHERITED.set(soft).is_ok() {
        // If this is refused, the inherited limit has to suffice.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The argument of the fork server that has it restore the inherited limit, if this process has raised it.
pub(super) fn inherited_limit_of_open_files() -> Option<OsString> {
    INHERITED.get().map(|soft| soft.to_string().into())
}

/// A command that runs a program with the limit that this process inherited, and with empty stdin. If this process has raised the limit,
/// the command first runs this program again: only a new process can lower its limit without an effect on others. `spawn` then does not
/// report whether the program could be executed; the [`Execution`] does.
#[expect(
    clippy::disallowed_methods,
    reason = "makes a command for one of the places that start processes"
)]
pub(super) fn limited_command(program: &Path) -> io::Result<(Command, Execution)> {
    let Some(limit) = inherited_limit_of_open_files() else {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        return Ok((command, Execution(None)));
    };
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(LIMITED_ARGUMENT).arg(limit).arg(program);
    command.stdin(writer);
    Ok((command, Execution(Some(reader.into()))))
}

/// The reading end of a pipe, into which a process that could not become a program writes the error.
#[derive(Debug)]
pub(super) struct Execution(Option<File>);

impl Execution {
    /// Why the program could not be executed, if the process has ended because of that. Does not wait.
    pub(super) fn failure(self) -> Option<io::Error> {
        let mut code = [0; size_of::<i32>()];
        self.0?.read_exact(&mut code).ok()?;
        Some(io::Error::from_raw_os_error(i32::from_le_bytes(code)))
    }
}

/// Becomes another program with a lower limit of open files. `arguments` are those after [`LIMITED_ARGUMENT`]. Standard input is the pipe
/// of an [`Execution`]. Returns why that failed.
pub(crate) fn become_limited(arguments: &[OsString]) -> io::Error {
    let [limit, arguments @ ..] = arguments else {
        return io::ErrorKind::InvalidInput.into();
    };
    restore_limit_of_open_files(Some(limit));
    // Closed by the `execv` of the program.
    let report = io::stdin().as_fd().try_clone_to_owned();
    let error = execute(arguments);
    if let Ok(report) = report {
        let code = error.raw_os_error().unwrap_or(Errno::EIO as i32);
        // The exit code says that the program was not executed, too.
        let _ = File::from(report).write_all(&code.to_le_bytes());
    }
    error
}

/// Becomes a program, with empty stdin. Unlike the standard library, has no shell read a file that the kernel cannot execute.
fn execute(arguments: &[OsString]) -> io::Error {
    let text = |argument: &OsString| CString::new(argument.as_bytes());
    let arguments: Result<Vec<CString>, _> = arguments.iter().map(text).collect();
    let arguments = match arguments {
        Ok(arguments) => arguments,
        Err(error) => return error.into(),
    };
    let Some(program) = arguments.first() else {
        return io::ErrorKind::InvalidInput.into();
    };
    let become_it = || -> io::Result<Infallible> {
        let null = fs::open("/dev/null".as_ref()).map_err(|error| error.source)?;
        dup2_stdin(&null)?;
        drop(null);
        execv(program, &arguments).map_err(io::Error::from)
    };
    let Err(error) = become_it();
    error
}

/// Restores the soft limit that the agent inherited. Called by the fork server, with its argument.
pub(crate) fn restore_limit_of_open_files(argument: Option<&OsString>) {
    let soft = argument.and_then(|argument| argument.to_str()?.parse().ok());
    if let (Some(soft), Ok((_, hard))) = (soft, getrlimit(Resource::RLIMIT_NOFILE)) {
        // Cannot fail: the soft limit was below the hard one.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
    }
}
