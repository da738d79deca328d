//! The start of a script: a fork of its parent that becomes the script. This process does all operations that may block on a file
//! system, so that its parent can report a path that does not respond.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::unistd::{ForkResult, Pid, dup2_stdin, setpgid, setsid};

use super::progress::{Stage, StartProgress};
use super::spec::Spec;
use super::step::{Step, StepError, StepResult};
use super::{landlock, protect, sys};
use crate::config::Environment;
use crate::fs;

/// The exit code of a process that could not become the script. Its parent reports the reason.
const FAILED: i32 = 127;

/// Where programs are searched for if `PATH` is not set.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Forks the process that becomes the script. Does not wait for its `exec`.
pub(super) fn start_script(
    spec: &Spec,
    environment: &Environment,
    progress: &StartProgress,
) -> Result<Pid, StepError> {
    match sys::fork().step(Step::Fork)? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let error = become_script(spec, environment, progress);
            progress.send(&Stage::Failed(error));
            sys::exit(FAILED)
        }
    }
}

/// Becomes the script, with empty stdin and no blocked signals. The Landlock rules apply to this process only, because its parent needs
/// other paths. Returns the error if it fails.
fn become_script(spec: &Spec, environment: &Environment, progress: &StartProgress) -> StepError {
    match prepare(spec, progress) {
        Ok(()) => execute(spec, environment, progress),
        Err(error) => error,
    }
}

fn prepare(spec: &Spec, progress: &StartProgress) -> Result<(), StepError> {
    let start = || Step::Start(spec.program.clone());
    match spec.terminal {
        true => take_terminal().step(Step::TakeTerminal)?,
        false => {
            setpgid(Pid::from_raw(0), Pid::from_raw(0)).step(start())?;
            let null = fs::open("/dev/null".as_ref()).step(start())?;
            dup2_stdin(&null).step(start())?;
        }
    }
    let rules = spec.rules.as_ref();
    let rules = rules.map(|rules| landlock::prepare(rules, progress));
    let rules = rules.transpose()?;
    let enter = Step::Enter(spec.directory.clone());
    progress.enter(&enter);
    std::env::set_current_dir(&spec.directory).step(enter)?;
    if spec.nice != 0 {
        rustix::process::nice(spec.nice)
            .map_err(io::Error::from)
            .step(start())?;
    }
    SigSet::all().thread_unblock().step(start())?;
    if spec.view.as_ref().is_some_and(|it| it.protection.is_some()) {
        protect::drop_capabilities().step(start())?;
    }
    rules
        .map_or(Ok(()), landlock::restrict)
        .step(Step::Restrict)
}

/// Makes the terminal at standard output the controlling terminal of this process, in a session of its own, and its input.
fn take_terminal() -> io::Result<()> {
    setsid()?;
    rustix::process::ioctl_tiocsctty(io::stdout())?;
    dup2_stdin(io::stdout())?;
    Ok(())
}

/// Executes the first executable file with the program's name in `PATH`. Each file is a step of its own, so that one that does not
/// respond is reported.
#[expect(
    clippy::disallowed_methods,
    reason = "one of the two places that start processes"
)]
fn execute(spec: &Spec, environment: &Environment, progress: &StartProgress) -> StepError {
    let mut is_refused = false;
    for file in files(&spec.program, environment.get("PATH")) {
        progress.enter(&Step::Start(file.display().to_string()));
        let mut command = Command::new(&file);
        command.arg0(&spec.program).args(&spec.arguments);
        let error = command.exec();
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EACCES) => is_refused = true,
            // Try the next file, as the C library does.
            Some(
                Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE | Errno::ENODEV | Errno::ETIMEDOUT,
            ) => {}
            _ => return failed(spec, error),
        }
    }
    let errno = match is_refused {
        true => Errno::EACCES,
        false => Errno::ENOENT,
    };
    failed(spec, errno.into())
}

fn failed(spec: &Spec, error: io::Error) -> StepError {
    StepError {
        step: Step::Start(spec.program.clone()),
        errno: error.raw_os_error().unwrap_or(Errno::EIO as i32),
    }
}

/// The files that a program's name may refer to. Each path contains a slash.
fn files(program: &str, path: Option<&OsStr>) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![program.into()];
    }
    let path = path.map_or_else(|| OsString::from(DEFAULT_PATH), OsStr::to_owned);
    let directories = std::env::split_paths(&path);
    let file = |directory: PathBuf| match directory == Path::new("") {
        true => Path::new(".").join(program),
        false => directory.join(program),
    };
    directories.map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_searched_in_the_order_of_path() {
        let found = files("bash", Some("/a::/b".as_ref()));
        assert_eq!(found, ["/a/bash", "./bash", "/b/bash"].map(PathBuf::from));
        assert_eq!(files("bash", None).len(), 2);
        assert_eq!(files("./x", Some("/a".as_ref())), [PathBuf::from("./x")]);
    }
}
