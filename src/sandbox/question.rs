//! Questions about paths, as plain data, and the process that answers one: a fork of the child.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::unistd::{ForkResult, Pid};
use serde::{Deserialize, Serialize};

use super::copy::{CopyOrder, copy};
use super::progress::StartProgress;
use super::rules::{Rules, closed};
use super::seen::{SeenPaths, resolve};
use super::step::{Step, StepError, StepResult};
use super::sys;
use super::wire;
use crate::fs;

/// The exit code of a process that could not answer.
const FAILED: i32 = 1;

/// A question about paths that a script or a source controls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Question {
    /// The kind of file that a path leads to: a [`FileKind`].
    Kind(#[serde(with = "wire")] PathBuf),
    /// Whether the file system of a path responds: a `bool`. The path need not exist.
    Responds(#[serde(with = "wire")] PathBuf),
    /// The contents of a file, without JSON around them. They are empty if the file is larger than the limit or cannot be read.
    Contents {
        /// The file.
        #[serde(with = "wire")]
        path: PathBuf,
        /// In bytes.
        limit: u64,
    },
    /// The path that an absolute path of a script leads to: a `FileResult<Resolved>`.
    Seen {
        /// A path as the script sees it.
        #[serde(with = "wire")]
        path: PathBuf,
        /// Where the agent finds its files.
        paths: SeenPaths,
    },
    /// Whether and why rules close each path: a line with an `Option<Closed>` for each.
    Closed {
        /// The rules.
        rules: Rules,
        /// Absolute paths.
        #[serde(with = "wire")]
        paths: Vec<PathBuf>,
    },
    /// Copy a tree: a `FileResult<CopyEnd>`.
    Copy(CopyOrder),
}

/// The result of file operations, as plain data.
pub(super) type FileResult<T> = Result<T, FileFailure>;

/// A failed file operation, as plain data.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FileFailure {
    #[serde(with = "wire")]
    path: PathBuf,
    errno: i32,
}

impl From<fs::Error> for FileFailure {
    fn from(error: fs::Error) -> Self {
        Self {
            errno: error.source.raw_os_error().unwrap_or(Errno::EIO as i32),
            path: error.path,
        }
    }
}

impl FileFailure {
    /// The error, for the agent. `action` reads after "failed to".
    pub(super) fn into_error(self, action: &'static str) -> fs::Error {
        let source = io::Error::from_raw_os_error(self.errno);
        fs::Error::new(action, &self.path, source)
    }
}

/// The kind of file that a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A block or character device.
    Device,
    /// No file has this path.
    Missing,
    /// It cannot be examined.
    Inaccessible,
}

impl FileKind {
    /// The kind of file that a path leads to. Blocks if its file system does not respond.
    pub(crate) fn behind(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(metadata) => metadata.file_type().into(),
            Err(error) if error.is_not_found() => Self::Missing,
            Err(_) => Self::Inaccessible,
        }
    }
}

impl From<std::fs::FileType> for FileKind {
    fn from(kind: std::fs::FileType) -> Self {
        if kind.is_file() {
            Self::File
        } else if kind.is_dir() {
            Self::Directory
        } else if kind.is_fifo() {
            Self::Fifo
        } else if kind.is_socket() {
            Self::Socket
        } else {
            Self::Device
        }
    }
}

/// Forks the process that answers on standard output, and reports each path to `progress` before it is looked up.
pub(super) fn start_answer(
    question: &Question,
    progress: &StartProgress,
) -> Result<Pid, StepError> {
    match sys::fork().step(Step::Fork)? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let answered = SigSet::all()
                .thread_unblock()
                .map_err(io::Error::from)
                .and_then(|()| answer(question, progress));
            sys::exit(match answered {
                Ok(()) => 0,
                Err(_) => FAILED,
            })
        }
    }
}

fn answer(question: &Question, progress: &StartProgress) -> io::Result<()> {
    let mut output = std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let look_up = |path: &Path| progress.enter(&Step::LookUp(path.to_owned()));
    match question {
        Question::Kind(path) => {
            look_up(path);
            look_up(&target(path));
            serde_json::to_writer(&output, &FileKind::behind(path))?;
        }
        Question::Responds(path) => {
            look_up(path);
            serde_json::to_writer(&output, &responds(path))?;
        }
        Question::Contents { path, limit } => {
            look_up(path);
            let is_small =
                fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= *limit);
            if is_small {
                progress.enter(&Step::Read(target(path)));
                output.write_all(&fs::read(path).unwrap_or_default())?;
            }
        }
        Question::Seen { path, paths } => {
            let found = resolve(path, paths, &look_up);
            serde_json::to_writer(&output, &found.map_err(FileFailure::from))?;
        }
        Question::Closed { rules, paths } => {
            for path in paths {
                look_up(path);
                let mut line = serde_json::to_vec(&closed(rules, path))?;
                line.push(b'\n');
                output.write_all(&line)?;
            }
        }
        Question::Copy(order) => {
            let enter = |path: &Path| progress.enter(&Step::Copy(path.to_owned()));
            let copied = copy(order, &enter);
            serde_json::to_writer(&output, &copied.map_err(FileFailure::from))?;
        }
    }
    Ok(())
}

/// Whether the server of a path's file system exists. Blocks if it does not respond.
fn responds(path: &Path) -> bool {
    const GONE: [Errno; 3] = [Errno::ENOTCONN, Errno::ECONNABORTED, Errno::ESTALE];
    let error = fs::lookup(path).err();
    let code = error.and_then(|error| error.source.raw_os_error());
    GONE.iter().all(|gone| code != Some(*gone as i32))
}

/// The path for messages: the target of a link, or any other path itself.
fn target(path: &Path) -> PathBuf {
    fs::read_link(path).map_or_else(|_| path.to_owned(), |target| fs::parent(path).join(target))
}
