//! One child from start to end: its output read, its report taken, a wish to stop passed on.

use std::io::{self, Write};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::fork_server::{ForkServer, encode_orders};
use super::output::{Collected, Output, OutputSummary};
use super::tree;
use crate::config::Environment;
use crate::runtime;

/// How long a child may take beyond the grace time to end what its script left, before it is killed itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the output may stay open when the child is gone.
pub(super) const OUTPUT_PATIENCE: Duration = Duration::from_secs(5);

/// No report is longer.
const REPORT_LIMIT: u64 = 64 * 1024;

/// A child to be started: the parent of a script, which takes its orders on a socket.
#[derive(Debug, Clone)]
pub struct Child {
    /// Forks it.
    pub server: ForkServer,
    /// Its whole environment.
    pub environment: Environment,
    /// What it is to do.
    pub orders: Vec<u8>,
}

/// A child that has ended.
#[derive(Debug)]
pub struct Supervised {
    /// What it or, in its place, the fork server wrote on its socket. Empty when both were killed.
    pub report: Vec<u8>,
    /// What the script printed.
    pub output: OutputSummary,
}

/// Why a child could not be supervised.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// No socket or pipe.
    #[error("failed to make the channels to a child process")]
    Channels(#[source] io::Error),
    /// The program could not be started.
    #[error("failed to start `{}`", program.display())]
    Start {
        /// The program's file.
        program: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The reader of the output broke.
    #[error("failed to read the output of a child process")]
    Output(#[source] runtime::TaskFailed),
}

/// Starts a child and stays with it to its end. `held` is dropped as soon as the child has reported. When `cancel` is called, the child is told to end its script within `grace`;
/// the report then tells how the script ended. Where this future is dropped the socket ends, which tells the child the same.
///
/// # Errors
/// Only where the machinery fails: how the script ended is in the report.
pub async fn supervise(
    child: Child,
    output: Output,
    cancel: &CancellationToken,
    grace: Duration,
    held: impl Send,
) -> Result<Supervised, SuperviseError> {
    let (mut ours, theirs) = StdUnixStream::pair().map_err(SuperviseError::Channels)?;
    ours.set_nonblocking(true)
        .map_err(SuperviseError::Channels)?;
    let (readers, writers) = pipes(output.streams()).map_err(SuperviseError::Channels)?;
    let orders = encode_orders(&child.environment, &child.orders);
    // The child finds its orders when it starts and does not wait for them. What the socket cannot hold follows below.
    let sent = ours.write(&orders).unwrap_or(0);
    let socket = UnixStream::from_std(ours).map_err(SuperviseError::Channels)?;
    let [stdout, stderr] = writers;
    let number = {
        // They are the child's alone once the server has them.
        let descriptors = [theirs.into(), stdout.into(), stderr.into()];
        let forked = child.server.fork(&descriptors);
        forked.map_err(|source| SuperviseError::Start {
            program: child.server.program().to_owned(),
            source,
        })?
    };
    let collected = Arc::new(Collected::new(output.streams()));
    let reading = runtime::spawn_blocking("output", {
        let collected = Arc::clone(&collected);
        move || output.read_to_end(readers, &collected)
    });

    let (from_child, mut to_child) = socket.into_split();
    // A child that is already gone has its say in the report, or in its lack.
    let _ = to_child.write_all(&orders[sent..]).await;

    let mut report = Vec::new();
    {
        let mut lines = BufReader::new(from_child.take(REPORT_LIMIT));
        let talk = async {
            // The server's report begins with a line end, for a killed child may have been about to report.
            while report.trim_ascii().is_empty() {
                report.clear();
                if !matches!(lines.read_until(b'\n', &mut report).await, Ok(length) if length > 0) {
                    return;
                }
            }
        };
        tokio::pin!(talk);
        let is_reported = tokio::select! {
            // Cancel-safe: `talk` is polled on below.
            () = &mut talk => true,
            () = cancel.cancelled() => {
                let stop = format!("stop {}\n", grace.as_millis());
                let _ = to_child.write_all(stop.as_bytes()).await;
                timeout(grace + PATIENCE, &mut talk).await.is_ok()
            }
        };
        if !is_reported {
            tracing::error!(
                "the process that runs a packaging script did not end in time and is killed"
            );
            child.server.kill(number);
            // The server reports in its place.
            let _ = timeout(PATIENCE, &mut talk).await;
        }
    }
    drop(held);
    let is_closed = match timeout(OUTPUT_PATIENCE, reading).await {
        Ok(read) => read.map(|()| true).map_err(SuperviseError::Output)?,
        Err(_) => false,
    };
    let mut output = collected.summary();
    if !is_closed {
        output.log_failure.get_or_insert_with(|| {
            "a process that the agent cannot reach still has the output open".to_owned()
        });
    }
    Ok(Supervised { report, output })
}

/// The children that are supervised now.
static SUPERVISED: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A child on the list, as long as it is supervised.
#[derive(Debug)]
pub(super) struct Known(Option<Pid>);

impl Known {
    /// Starts a child. Nobody looks for orphans before it is on the list: it would be taken for one.
    pub(super) fn start<P, E>(
        start: impl FnOnce() -> Result<(P, Option<Pid>), E>,
    ) -> Result<(P, Self), E> {
        let mut supervised = supervised();
        let (process, id) = start()?;
        supervised.extend(id);
        Ok((process, Self(id)))
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        supervised().retain(|process| Some(*process) != self.0);
    }
}

fn supervised() -> MutexGuard<'static, Vec<Pid>> {
    SUPERVISED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes this process the parent of what a child leaves when it dies before its script.
///
/// # Errors
/// What the system answered.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Ends the processes that became ours because the child above them died.
pub fn end_orphans() {
    tree::kill_orphans(&supervised());
}

/// Kills every process below this one, the children that are supervised among them, without waiting for longer than `limit`. For
/// a program that ends then: whoever waits for a child does not hear of its end.
pub fn kill_all_below(limit: Duration) {
    tree::kill_all(limit, |_, _| {});
}

/// The pipes of a script's output: what we read, and standard output and standard error.
fn pipes(streams: usize) -> io::Result<(Vec<io::PipeReader>, [io::PipeWriter; 2])> {
    let (reader, stdout) = io::pipe()?;
    if streams == 1 {
        let stderr = stdout.try_clone()?;
        return Ok((vec![reader], [stdout, stderr]));
    }
    let (error_reader, stderr) = io::pipe()?;
    Ok((vec![reader, error_reader], [stdout, stderr]))
}
