//! Supervises one child of the fork server. Most children start a script and are its parent; others open a shell or examine files. This
//! module sends the child its instructions (the *orders*), reads the script's output, receives the child's *report*, and forwards
//! cancellation.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::de::IgnoredAny;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::fork_server::{ForkServer, encode_orders};
use super::output::{Output, OutputSummary};
use super::time_limits::{Exceeded, TimeLimits};
use crate::config::Environment;
use crate::runtime;

/// How long a child may take, in addition to the grace time, to stop its script's processes. After
/// that, the child is killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long to wait for the end of the output after the child has reported or was killed.
pub(super) const OUTPUT_PATIENCE: Duration = Duration::from_secs(5);

/// The size limit of a report in bytes.
const REPORT_LIMIT: u64 = 1 << 20;

/// What a child needs to start. It receives its orders over a socket.
#[derive(Debug, Clone)]
pub(crate) struct ChildSpec {
    /// The fork server that forks the child.
    pub server: ForkServer,
    /// All environment variables of the child and its script.
    pub environment: Environment,
    /// The orders in the format that the child expects.
    pub orders: Vec<u8>,
    /// The time limits of the script.
    pub limits: TimeLimits,
    /// The time between SIGTERM and SIGKILL when the script is stopped.
    pub grace: Duration,
}

/// A child that has ended.
#[derive(Debug)]
pub(crate) struct Supervised {
    /// A line of JSON: the report of the child, or the report of the fork server if the child died without one. Empty if there is neither,
    /// for example because both were killed.
    pub report: Vec<u8>,
    /// The script's output.
    pub output: OutputSummary,
    /// The time limit that the script has exceeded, if any.
    pub exceeded: Option<Exceeded>,
}

/// Why a child could not be supervised.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The socket or a pipe could not be created.
    #[error("failed to create the socket and pipes of a child process")]
    Channels(#[source] io::Error),
    /// The pseudo-terminal could not be created.
    #[error("failed to open a terminal for a shell")]
    Terminal(#[source] io::Error),
    /// The fork server could not be started, or did not take the request to fork the child.
    #[error("failed to start the helper process `{}`", program.display())]
    Start {
        /// The fork server's program: this program itself.
        program: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The task that reads the output panicked.
    #[error("failed to read the output of a child process")]
    Output(#[source] runtime::TaskFailed),
}

/// Starts a child and supervises it to its end. Drops the caller's resource `held` as soon as the
/// child has reported or was killed.
///
/// After a cancellation, and when a time limit is exceeded, the child sends SIGTERM to its script and,
/// after the grace time, SIGKILL. Then it reports the script's status. Dropping this future closes the
/// socket, which also makes the child stop the script.
///
/// # Errors
/// The child could not be started, or the task that reads the output panicked. A failed script is not
/// an error here; its status is in the report.
pub(crate) async fn supervise(
    child: ChildSpec,
    output: Output,
    cancel: &CancellationToken,
    held: impl Send,
) -> Result<Supervised, SuperviseError> {
    let Started {
        connected: Connected {
            number,
            socket,
            unsent,
        },
        readers,
    } = start(&child, output.streams())?;
    let collected = Arc::new(output.collected());
    let reading = runtime::spawn_blocking("output", {
        let collected = Arc::clone(&collected);
        move || output.read_to_end(readers, &collected)
    });

    let (from_child, mut to_child) = socket.into_split();
    // Ignore the error: it means that the child has ended, which its report (or the missing report)
    // shows.
    let _ = to_child.write_all(&unsent).await;
    let exceeded = child.limits.exceeded(&collected);
    let (report, exceeded) =
        report_or_kill(&child, number, (from_child, to_child), cancel, exceeded).await;
    drop(held);

    let is_closed = match timeout(OUTPUT_PATIENCE, reading).await {
        Ok(read) => read.map(|()| true).map_err(SuperviseError::Output)?,
        Err(_) => false,
    };
    let mut output = collected.summary();
    if !is_closed {
        output.log_failure.get_or_insert_with(|| {
            "the output did not end: probably, a process that bosh-agent cannot stop still has it open".to_owned()
        });
    }
    Ok(Supervised {
        report,
        output,
        exceeded,
    })
}

/// A child that has just been forked.
struct Started {
    connected: Connected,
    /// The reading ends of the pipes for the output.
    readers: Vec<io::PipeReader>,
}

/// Makes the fork server fork a child whose output goes to one pipe, or to two pipes if `streams`
/// is 2.
fn start(child: &ChildSpec, streams: usize) -> Result<Started, SuperviseError> {
    let (readers, [stdout, stderr]) = pipes(streams).map_err(SuperviseError::Channels)?;
    let connected = connect(child, [stdout.into(), stderr.into()])?;
    Ok(Started { connected, readers })
}

/// The connection to a child that has just been forked.
pub(super) struct Connected {
    /// The child's number in the fork server.
    pub(super) number: u32,
    /// The socket to the child.
    pub(super) socket: UnixStream,
    /// The rest of the child's orders, which did not fit into the socket's buffer.
    pub(super) unsent: Vec<u8>,
}

/// Makes the fork server fork a child with this standard output and standard error. Sends the child
/// as much of its orders as the socket's buffer holds.
pub(super) fn connect(
    child: &ChildSpec,
    [stdout, stderr]: [OwnedFd; 2],
) -> Result<Connected, SuperviseError> {
    let (mut ours, theirs) = StdUnixStream::pair().map_err(SuperviseError::Channels)?;
    ours.set_nonblocking(true)
        .map_err(SuperviseError::Channels)?;
    let mut orders = encode_orders(&child.environment, &child.orders);
    // Send the orders before the child starts, so that it does not have to wait for them.
    let sent = ours.write(&orders).unwrap_or(0);
    let socket = UnixStream::from_std(ours).map_err(SuperviseError::Channels)?;
    // This process closes its copies of the descriptors at the end of this function.
    let descriptors = [theirs.into(), stdout, stderr];
    let number = child
        .server
        .fork(&descriptors)
        .map_err(|source| SuperviseError::Start {
            program: child.server.program().to_owned(),
            source,
        })?;
    Ok(Connected {
        number,
        socket,
        unsent: orders.split_off(sent),
    })
}

/// Receives the report of a child. After a cancellation, and when a time limit is `exceeded`, stops
/// the child. If the child does not report in time, kills it; the fork server then sends a report.
pub(super) async fn report_or_kill(
    child: &ChildSpec,
    number: u32,
    (from_child, mut to_child): (OwnedReadHalf, OwnedWriteHalf),
    cancel: &CancellationToken,
    exceeded: impl Future<Output = Exceeded>,
) -> (Vec<u8>, Option<Exceeded>) {
    let mut report = Vec::new();
    let mut limit = None;
    {
        let receive = receive_report(from_child, &mut report);
        tokio::pin!(receive);
        let order = tokio::select! {
            // Cancel-safe: `receive` is polled again below.
            () = &mut receive => None,
            () = cancel.cancelled() => Some("stop"),
            exceeded = exceeded => {
                limit = Some(exceeded);
                // After this order, the report also contains a list of the processes that existed before the stop.
                Some("hung")
            }
        };
        let is_reported = match order {
            None => true,
            Some(order) => {
                let order = format!("{order} {}\n", child.grace.as_millis());
                let _ = to_child.write_all(order.as_bytes()).await;
                let patience = child.grace + PATIENCE;
                timeout(patience, &mut receive).await.is_ok()
            }
        };
        if !is_reported {
            tracing::error!("killing a helper process of bosh-agent that did not stop in time");
            child.server.kill(number);
            let _ = timeout(PATIENCE, &mut receive).await;
        }
    }
    (report, limit)
}

/// Reads the first line of JSON into `report`, which stays empty if the socket ends before that.
///
/// A killed child may have written a part of its report. The fork server's report starts with a newline, which separates the two.
async fn receive_report(from_child: impl AsyncRead + Unpin, report: &mut Vec<u8>) {
    let mut lines = BufReader::new(from_child.take(REPORT_LIMIT));
    let mut line = Vec::new();
    while matches!(lines.read_until(b'\n', &mut line).await, Ok(length) if length > 0) {
        if serde_json::from_slice::<IgnoredAny>(&line).is_ok() {
            *report = line;
            return;
        }
        line.clear();
    }
}

/// Creates the pipes for a script's output: the reading ends, and stdout and stderr.
fn pipes(streams: usize) -> io::Result<(Vec<io::PipeReader>, [io::PipeWriter; 2])> {
    let (reader, stdout) = io::pipe()?;
    if streams == 1 {
        let stderr = stdout.try_clone()?;
        return Ok((vec![reader], [stdout, stderr]));
    }
    let (error_reader, stderr) = io::pipe()?;
    Ok((vec![reader, error_reader], [stdout, stderr]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn report_follows_a_part_of_another_one() {
        for (sent, expected) in [
            ("", ""),
            ("\n", ""),
            ("{\"a\":1}\n", "{\"a\":1}\n"),
            ("\n{\"a\":1}\n", "{\"a\":1}\n"),
            ("{\"status\":{\"exi\n{\"a\":1}\n", "{\"a\":1}\n"),
            ("{\"a\":1}\n{\"b\":1}\n", "{\"a\":1}\n"),
            ("{\"status\":{\"exi", ""),
        ] {
            let mut report = Vec::new();
            receive_report(sent.as_bytes(), &mut report).await;
            assert_eq!(String::from_utf8_lossy(&report), expected, "{sent:?}");
        }
    }
}
