//! The start of a script: a fork of its parent that becomes the script. Whatever may have to wait for a file system is done by
//! this process, so that its parent can report what does not answer.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::SigSet;
use nix::unistd::{ForkResult, Pid, dup2_stdin, pipe2, setpgid};
use serde::{Deserialize, Serialize};

use super::child::StepResult;
use super::spec::{Spec, Step, StepError};
use super::{landlock, protect, sys};
use crate::config::Environment;
use crate::fs;

/// How long the start of a script may take, with its mounts and rules. It takes milliseconds.
pub(super) const START_LIMIT: Duration = Duration::from_secs(60);

/// The exit code of a process that could not become the script. Its parent reports why.
const FAILED: i32 = 127;

/// Programs are looked for here without a `PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// What the starting process does. One message is in the pipe at most: the writer takes the last one out before it writes another. The
/// last writing end closes when the script is executed.
#[derive(Debug)]
pub(super) struct Progress {
    reader: File,
    writer: File,
}

/// The reading end of a [`Progress`].
#[derive(Debug)]
pub(super) struct Watched(File);

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// This step may have to wait for a file system.
    In(Step),
    /// This step has failed.
    Failed(StepError),
}

impl Progress {
    pub(super) fn new() -> Result<Self, StepError> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).step(Step::Fork)?;
        Ok(Self {
            reader: reader.into(),
            writer: writer.into(),
        })
    }

    /// The other end, for the process that only watches.
    pub(super) fn watch(self) -> Watched {
        Watched(self.reader)
    }

    /// Says what comes next. Best effort: it explains a failure, and is none itself.
    pub(super) fn enter(&self, step: &Step) {
        self.say(&Stage::In(step.clone()));
    }

    fn say(&self, stage: &Stage) {
        let _ = last(&self.reader);
        let _ = (&self.writer).write_all(&serde_json::to_vec(stage).unwrap_or_default());
    }
}

impl Watched {
    /// Hangs up when the script has been executed, or its starting process has ended.
    pub(super) fn end(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The last message, once.
    pub(super) fn stage(&self) -> Option<Stage> {
        last(&self.0)
    }
}

/// Takes a message out of the pipe, if there is one.
fn last(mut reader: &File) -> Option<Stage> {
    let mut message = Vec::new();
    // Without a writer it ends, with one it would block: either way everything has been read.
    let _ = reader.read_to_end(&mut message);
    serde_json::from_slice(&message).ok()
}

/// Forks the process that becomes the script. Does not wait until it has.
pub(super) fn start_script(
    spec: &Spec,
    environment: &Environment,
    progress: &Progress,
) -> Result<Pid, StepError> {
    match sys::fork().step(Step::Fork)? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let error = become_script(spec, environment, progress);
            progress.say(&Stage::Failed(error));
            sys::exit(FAILED)
        }
    }
}

/// Becomes the script, with nothing to read and no signal blocked. Its rules are its own: its parent has to reach more. Returns why
/// it could not.
fn become_script(spec: &Spec, environment: &Environment, progress: &Progress) -> StepError {
    match prepare(spec, progress) {
        Ok(()) => execute(spec, environment, progress),
        Err(error) => error,
    }
}

fn prepare(spec: &Spec, progress: &Progress) -> Result<(), StepError> {
    let start = || Step::Start(spec.program.clone());
    setpgid(Pid::from_raw(0), Pid::from_raw(0)).step(start())?;
    let nothing = fs::open("/dev/null".as_ref()).step(start())?;
    dup2_stdin(&nothing).step(start())?;
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
        protect::give_up_capabilities().step(start())?;
    }
    rules
        .map_or(Ok(()), landlock::restrict)
        .step(Step::Restrict)
}

/// Executes the first file of the program's name in `PATH` that can be. Each one is tried by itself, so that the one that does not
/// answer is known.
#[expect(
    clippy::disallowed_methods,
    reason = "one of the two places that start processes"
)]
fn execute(spec: &Spec, environment: &Environment, progress: &Progress) -> StepError {
    let mut is_refused = false;
    for file in files(&spec.program, environment.get("PATH")) {
        progress.enter(&Step::Start(file.display().to_string()));
        let mut command = Command::new(&file);
        command.arg0(&spec.program).args(&spec.arguments);
        let error = command.exec();
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EACCES) => is_refused = true,
            // As the C library does.
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

/// The files that a program's name may stand for. All have a slash.
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
    fn last_message_replaces_earlier_ones() {
        let progress = Progress::new().unwrap();
        for number in 0..2000 {
            progress.enter(&Step::Enter(PathBuf::from(format!("/{number}"))));
        }
        let watched = progress.watch();
        let expected = Step::Enter(PathBuf::from("/1999"));
        assert_eq!(watched.stage(), Some(Stage::In(expected)));
        assert_eq!(watched.stage(), None);
    }

    #[test]
    fn programs_are_looked_for_in_the_path_in_its_order() {
        let found = files("bash", Some("/a::/b".as_ref()));
        assert_eq!(found, ["/a/bash", "./bash", "/b/bash"].map(PathBuf::from));
        assert_eq!(files("bash", None).len(), 2);
        assert_eq!(files("./x", Some("/a".as_ref())), [PathBuf::from("./x")]);
    }
}
