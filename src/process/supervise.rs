//! Supervises one child: reads its output, receives its report, forwards cancellation.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::fork_server::{ForkServer, encode_orders};
use super::output::{Output, OutputSummary};
use super::time_limits::{Exceeded, TimeLimits};
use crate::config::Environment;
use crate::runtime;

/// How long a child may take after the grace time to stop its script's processes, before the child
/// itself is killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long to wait for the end of the output after the child has ended.
pub(super) const OUTPUT_PATIENCE: Duration = Duration::from_secs(5);

/// The size limit of a report in bytes.
const REPORT_LIMIT: u64 = 1 << 20;

/// A child to start: the parent of a script, which receives its orders on a socket.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    /// The server that forks it.
    pub server: ForkServer,
    /// The complete environment.
    pub environment: Environment,
    /// The orders, in the child's format.
    pub orders: Vec<u8>,
    /// The time limits of the script.
    pub limits: TimeLimits,
    /// The time between SIGTERM and SIGKILL when the script is stopped.
    pub grace: Duration,
}

/// A child that has ended.
#[derive(Debug)]
pub(crate) struct Supervised {
    /// The report of the child, or of the fork server in its place. Empty if both were killed.
    pub report: Vec<u8>,
    /// The script's output.
    pub output: OutputSummary,
    /// The time limit that ended the script.
    pub exceeded: Option<Exceeded>,
}

/// Why a child could not be supervised.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// No socket or pipe.
    #[error("failed to create the socket and pipes of a child process")]
    Channels(#[source] io::Error),
    /// No pseudo-terminal.
    #[error("failed to open a terminal for a shell")]
    Terminal(#[source] io::Error),
    /// The program could not be started.
    #[error("failed to start `{}`", program.display())]
    Start {
        /// The program's file.
        program: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The task that reads the output panicked.
    #[error("failed to read the output of a child process")]
    Output(#[source] runtime::TaskFailed),
}

/// Starts a child and supervises it to its end. `held` is dropped as soon as the child has
/// reported.
///
/// After a cancellation, and when a time limit is exceeded, the child stops its script within the grace time,
/// and the report has the script's status. Dropping this future closes the socket, with the same effect on the child.
///
/// # Errors
/// The child could not be started or its output not be read. The script's own failure is in the
/// report.
pub(crate) async fn supervise(
    child: Child,
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
    // If the child has already ended, its report or the missing report says so.
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
            "a process that bosh-agent cannot stop keeps the output open".to_owned()
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
    /// The reading ends of its output.
    readers: Vec<io::PipeReader>,
}

/// Makes the fork server fork a child whose output goes to this many pipes.
fn start(child: &Child, streams: usize) -> Result<Started, SuperviseError> {
    let (readers, [stdout, stderr]) = pipes(streams).map_err(SuperviseError::Channels)?;
    let connected = connect(child, [stdout.into(), stderr.into()])?;
    Ok(Started { connected, readers })
}

/// The connection to a child that has just been forked.
pub(super) struct Connected {
    /// Its number in the fork server.
    pub(super) number: u32,
    /// The socket to it.
    pub(super) socket: UnixStream,
    /// The rest of its orders.
    pub(super) unsent: Vec<u8>,
}

/// Makes the fork server fork a child with this standard output and standard error, and sends the child its orders as far as they fit
/// into the socket's buffer.
pub(super) fn connect(
    child: &Child,
    [stdout, stderr]: [OwnedFd; 2],
) -> Result<Connected, SuperviseError> {
    let (mut ours, theirs) = StdUnixStream::pair().map_err(SuperviseError::Channels)?;
    ours.set_nonblocking(true)
        .map_err(SuperviseError::Channels)?;
    let mut orders = encode_orders(&child.environment, &child.orders);
    // Write the orders before the child starts, so that it does not wait.
    let sent = ours.write(&orders).unwrap_or(0);
    let socket = UnixStream::from_std(ours).map_err(SuperviseError::Channels)?;
    // Dropped at the end of this function, so that only the child has them open.
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

/// Receives the report of a child. After a cancellation, and when a time limit is `exceeded`, stops the child, and kills it if it
/// does not report in time: then the server reports in its place.
pub(super) async fn report_or_kill(
    child: &Child,
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
            // Cancel-safe: `receive` is polled on below.
            () = &mut receive => None,
            () = cancel.cancelled() => Some("stop"),
            exceeded = exceeded => {
                limit = Some(exceeded);
                // The report then lists the processes from before the stop.
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
            tracing::error!(
                "killing the parent process of a packaging script, which did not stop in time"
            );
            child.server.kill(number);
            let _ = timeout(PATIENCE, &mut receive).await;
        }
    }
    (report, limit)
}

/// Reads one line that is not empty into `report`. It stays empty if the socket ends before that.
async fn receive_report(from_child: OwnedReadHalf, report: &mut Vec<u8>) {
    let mut lines = BufReader::new(from_child.take(REPORT_LIMIT));
    // The server's report starts with a line end, as a killed child may have written a partial one.
    while report.trim_ascii().is_empty() {
        report.clear();
        if !matches!(lines.read_until(b'\n', report).await, Ok(length) if length > 0) {
            return;
        }
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
