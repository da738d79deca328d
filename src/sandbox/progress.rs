//! Progress of the process that becomes a script, through a pipe to its parent.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use serde::{Deserialize, Serialize};

use super::step::{Step, StepError, StepResult};

/// The name of a process below a fork server until it executes a program.
pub(super) const NAME: &CStr = c"sandbox-child";

/// Reports the steps of the starting process. The pipe holds at most one message: the writer removes the previous one before it writes. The
/// last writing end closes when the script is executed.
#[derive(Debug)]
pub(super) struct StartProgress {
    reader: File,
    writer: File,
    /// A pipe that gets a byte with each message. It becomes full unless it is read.
    beats: (File, File),
}

/// The reading ends of a [`StartProgress`].
#[derive(Debug)]
pub(super) struct Watched {
    messages: File,
    beats: File,
}

/// A message of the starting process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// The process is in this step, which may block on a file system.
    In(Step),
    /// This step has failed.
    Failed(StepError),
}

impl StartProgress {
    pub(super) fn new() -> Result<Self, StepError> {
        let pipe = || pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).step(Step::Fork);
        let ((reader, writer), beats) = (pipe()?, pipe()?);
        Ok(Self {
            reader: reader.into(),
            writer: writer.into(),
            beats: (beats.0.into(), beats.1.into()),
        })
    }

    /// The reading ends, for the parent.
    pub(super) fn watch(self) -> Watched {
        Watched {
            messages: self.reader,
            beats: self.beats.0,
        }
    }

    /// Reports the next step. Errors are ignored: the report only explains a failure.
    pub(super) fn enter(&self, step: &Step) {
        self.send(&Stage::In(step.clone()));
    }

    pub(super) fn send(&self, stage: &Stage) {
        let _ = receive(&self.reader);
        let _ = (&self.beats.1).write_all(&[0]);
        let _ = (&self.writer).write_all(&serde_json::to_vec(stage).unwrap_or_default());
    }
}

impl Watched {
    /// A descriptor that hangs up when the script has been executed, or when its starting process has exited.
    pub(super) fn end(&self) -> BorrowedFd<'_> {
        self.messages.as_fd()
    }

    /// Whether there was a message since the last call.
    pub(super) fn has_moved(&self) -> bool {
        let mut beats = Vec::new();
        // The read ends as in `receive`.
        let _ = (&self.beats).read_to_end(&mut beats);
        !beats.is_empty()
    }

    /// The last message. A second call returns `None`.
    pub(super) fn stage(&self) -> Option<Stage> {
        receive(&self.messages)
    }
}

/// Removes the message from the pipe, if there is one.
fn receive(mut reader: &File) -> Option<Stage> {
    let mut message = Vec::new();
    // The read ends at the end of the pipe or, while there is a writer, with `WouldBlock`. Then everything has been read.
    let _ = reader.read_to_end(&mut message);
    serde_json::from_slice(&message).ok()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn last_message_replaces_earlier_ones() {
        let progress = StartProgress::new().unwrap();
        for number in 0..2000 {
            progress.enter(&Step::Enter(PathBuf::from(format!("/{number}"))));
        }
        let watched = progress.watch();
        let expected = Step::Enter(PathBuf::from("/1999"));
        assert_eq!(watched.stage(), Some(Stage::In(expected)));
        assert_eq!(watched.stage(), None);
    }

    #[test]
    fn movement_is_seen_also_after_many_steps() {
        let progress = StartProgress::new().unwrap();
        let step = Step::MakeView;
        let watched = Watched {
            messages: progress.reader.try_clone().unwrap(),
            beats: progress.beats.0.try_clone().unwrap(),
        };
        assert!(!watched.has_moved());
        for steps in [1, 2, 100_000] {
            for _ in 0..steps {
                progress.enter(&step);
            }
            assert!(watched.has_moved(), "{steps}");
            assert!(!watched.has_moved(), "{steps}");
        }
        assert_eq!(watched.stage(), Some(Stage::In(step)));
    }
}
