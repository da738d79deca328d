//! The limit of open files: the agent raises its own, scripts and other programs keep that of the caller.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

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

/// A command that runs a program with the limit that this process inherited. If this process has raised it, the command first runs this
/// program again: only a new process can lower its limit without an effect on others.
#[expect(
    clippy::disallowed_methods,
    reason = "makes a command for one of the places that start processes"
)]
pub(super) fn limited_command(program: &Path) -> Command {
    let Some(limit) = inherited_limit_of_open_files() else {
        return Command::new(program);
    };
    let mut command = Command::new("/proc/self/exe");
    command.arg(LIMITED_ARGUMENT).arg(limit).arg(program);
    command
}

/// Becomes another program with a lower limit of open files. `arguments` are those after [`LIMITED_ARGUMENT`]. Returns why that failed.
#[expect(
    clippy::disallowed_methods,
    reason = "starts no process: this one becomes the program"
)]
pub(crate) fn become_limited(arguments: &[OsString]) -> io::Error {
    let [limit, program, arguments @ ..] = arguments else {
        return io::ErrorKind::InvalidInput.into();
    };
    restore_limit_of_open_files(Some(limit));
    Command::new(program).args(arguments).exec()
}

/// Restores the soft limit that the agent inherited. Called by the fork server, with its argument.
pub(crate) fn restore_limit_of_open_files(argument: Option<&OsString>) {
    let soft = argument.and_then(|argument| argument.to_str()?.parse().ok());
    if let (Some(soft), Ok((_, hard))) = (soft, getrlimit(Resource::RLIMIT_NOFILE)) {
        // Cannot fail: the soft limit was below the hard one.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
    }
}
