//! The system calls that need `unsafe`.
#![expect(
    unsafe_code,
    reason = "system calls without a safe wrapper; each says why it is sound"
)]

use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::Command;

use ::landlock::RulesetCreated;
use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::unistd::ForkResult;

use super::landlock;

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

/// Replaces the environment of this process, which must have one thread: a forked child's, which its script inherits.
#[expect(
    clippy::disallowed_methods,
    reason = "called in a process with one thread"
)]
pub(super) fn replace_environment(variables: Vec<(OsString, OsString)>) {
    for (name, _) in std::env::vars_os() {
        // SAFETY: with one thread nobody reads the environment meanwhile.
        unsafe { std::env::remove_var(name) }
    }
    for (name, value) in variables {
        // SAFETY: with one thread nobody reads the environment meanwhile.
        unsafe { std::env::set_var(name, value) }
    }
}

/// Forks this process, which must have one thread: the fork server and its children have, and the agent at its start.
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
/// background group of our session it would be stopped when it asks a question on the terminal, and wait for ever. It is
/// `nice` nicer than we are, and has the rules.
pub(super) fn detach(command: &mut Command, nice: i32, mut rules: Option<RulesetCreated>) {
    // SAFETY: this process has one thread, so that the closure may even allocate. It makes system calls, which are safe between fork and exec, and touches no memory but its own.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid().map_err(io::Error::from)?;
            if nice != 0 {
                rustix::process::nice(nice).map_err(io::Error::from)?;
            }
            SigSet::all().thread_unblock().map_err(io::Error::from)?;
            rules.take().map_or(Ok(()), landlock::restrict)
        });
    }
}

/// Starts the loopback of this process's network namespace. It has its addresses already.
pub(super) fn start_loopback() -> io::Result<()> {
    use nix::libc;

    // A socket of any family takes requests about interfaces.
    let socket = UnixDatagram::unbound()?;
    // SAFETY: all of its fields are numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request lives until the call returns, and is of the type that this call reads.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Ok(Errno::result(result).map(drop)?)
}
