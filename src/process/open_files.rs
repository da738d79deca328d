//! The limit of open files (`RLIMIT_NOFILE`). The agent raises its own soft limit to the hard
//! limit. Scripts and other programs get the soft limit that the agent inherited.

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

/// The argument that makes this program lower its limit and then execute another program. The
/// limit, the program and its arguments follow.
pub(crate) const LIMITED_ARGUMENT: &str = "__limited";

/// The soft limit that this process inherited, if it was raised.
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

/// A command that runs a program with the inherited limit and with empty stdin. If this process has
/// raised its limit, the command first runs this program again, because only a new process can
/// lower its limit without affecting others. Then `spawn` does not report whether the program could
/// be executed, but the returned [`Execution`] does.
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

/// The reading end of a pipe. A process that cannot execute its program writes the error to the
/// pipe.
#[derive(Debug)]
pub(super) struct Execution(Option<File>);

impl Execution {
    /// The error, if the program could not be executed. Call this after the process has ended. Does
    /// not wait.
    pub(super) fn failure(self) -> Option<io::Error> {
        let mut code = [0; size_of::<i32>()];
        self.0?.read_exact(&mut code).ok()?;
        Some(io::Error::from_raw_os_error(i32::from_le_bytes(code)))
    }
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
    let error = execute(arguments);
    if let Ok(report) = report {
        let code = error.raw_os_error().unwrap_or(Errno::EIO as i32);
        // If this write fails, the exit code still shows that the program was not executed.
        let _ = File::from(report).write_all(&code.to_le_bytes());
    }
    error
}

/// Replaces this process by a program with empty stdin. If the kernel cannot execute the file, this
/// fails, whereas the standard library would run the file with a shell.
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

/// Restores the inherited soft limit in the fork server. `argument` is from
/// [`inherited_limit_of_open_files`].
pub(crate) fn restore_limit_of_open_files(argument: Option<&OsString>) {
    let soft = argument.and_then(|argument| argument.to_str()?.parse().ok());
    if let (Some(soft), Ok((_, hard))) = (soft, getrlimit(Resource::RLIMIT_NOFILE)) {
        // This cannot fail, because the inherited soft limit is below the hard limit.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
    }
}
