//! The system calls that need `unsafe`.
#![expect(
    unsafe_code,
    reason = "system calls without a safe wrapper; each says why it is sound"
)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::SigSet;
use nix::unistd::ForkResult;

/// Sets a variable in the environment of this process, which must have one thread. Only what a library reads by itself is set
/// so: everything of ours is handed its `config::Environment`.
#[expect(
    clippy::disallowed_methods,
    reason = "called before there is another thread that could read the environment"
)]
pub(crate) fn set_variable_before_threads(name: &str, value: &str) {
    // SAFETY: with one thread nobody reads the environment meanwhile.
    unsafe { std::env::set_var(name, value) }
}

/// Forks this process, which must have one thread: the sandbox child has.
pub(super) fn fork() -> nix::Result<ForkResult> {
    // SAFETY: with one thread there are no locks that another one could hold in the copy.
    unsafe { nix::unistd::fork() }
}

/// Ends this process without running what was to be run at its end: that is the business of the process it was forked from.
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: `_exit` has no conditions.
    unsafe { nix::libc::_exit(code) }
}

/// Has a command start in a session of its own, without a terminal, and with no signal blocked, whatever is blocked here. In a
/// background group of our session it would be stopped when it asks a question on the terminal, and wait for ever.
pub(super) fn detach(command: &mut Command) {
    // SAFETY: the closure makes two system calls, which are safe between fork and exec, and touches no memory but its own.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid().map_err(io::Error::from)?;
            SigSet::all().thread_unblock().map_err(io::Error::from)
        });
    }
}
