//! Runs a child that computes an answer. The child writes the answer to a file in memory.

use std::fs::File;
use std::io::{self, Read, Seek};

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::output::OutputSummary;
use super::supervise::{ChildSpec, Connected, SuperviseError, Supervised, connect, report_or_kill};

/// A child that has ended, with or without an answer.
#[derive(Debug)]
pub(crate) struct Answered {
    /// The child's report, with an empty summary of its output.
    pub(crate) ended: Supervised,
    /// The bytes that the child has written to its standard output.
    pub(crate) answer: Vec<u8>,
}

/// Starts a child, whose standard output is the answer, and supervises it to its end.
///
/// Reading the file in memory never blocks, even if a child that does not respond still has the
/// file open.
///
/// # Errors
/// The file in memory cannot be created, or the child could not be started.
pub(crate) async fn ask(
    child: ChildSpec,
    cancel: &CancellationToken,
) -> Result<Answered, SuperviseError> {
    let files = || Ok::<_, io::Error>((memory()?, memory()?));
    let (mut answer, messages) = files().map_err(SuperviseError::Channels)?;
    let theirs = answer.try_clone().map_err(SuperviseError::Channels)?;
    let Connected {
        number,
        socket,
        unsent,
    } = connect(&child, [theirs.into(), messages.into()])?;
    let (from_child, mut to_child) = socket.into_split();
    // Ignore the error: it means that the child has ended, which its report (or the missing report)
    // shows.
    let _ = to_child.write_all(&unsent).await;
    let never = std::future::pending();
    let (report, exceeded) =
        report_or_kill(&child, number, (from_child, to_child), cancel, never).await;
    let mut written = Vec::new();
    let read = answer
        .rewind()
        .and_then(|()| answer.read_to_end(&mut written));
    read.map_err(SuperviseError::Channels)?;
    Ok(Answered {
        ended: Supervised {
            report,
            output: OutputSummary::default(),
            exceeded,
        },
        answer: written,
    })
}

/// A file in memory.
fn memory() -> io::Result<File> {
    Ok(memfd_create(c"answer", MemfdFlags::CLOEXEC)?.into())
}
