//! Reads the output of a script, writes it to a log, and keeps the last lines for the report.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::lines::{LineSink, Lines};
use super::tail::{LastLines, TAIL_LINES, Tail};
use crate::fs;

/// The minimum interval between two notifications about the last line of output.
const NOTIFY_INTERVAL: Duration = Duration::from_millis(200);

/// The size of the read buffer in bytes. It is the capacity of a pipe.
const BUFFER: usize = 64 * 1024;

/// The number of bytes that are kept from the end of each stream. The Go agent reports the same
/// number for a failed script.
pub(crate) const ENDING_LIMIT: usize = 10 * 1024;

/// Receives the output of one script. Stdout and stderr share one pipe, so that their order is
/// kept, or each has its own pipe.
pub struct Output {
    logs: Vec<Log>,
    /// The number of last lines that are kept.
    kept: usize,
    /// Passes all lines to a listener, if there is one.
    lines: Option<Lines>,
    notify: Box<dyn Fn(&str) + Send>,
}

/// The log file of a stream.
struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// The message about a log that cannot be written. It contains the free space if the disk is
    /// full.
    fn failure(&self, error: io::Error) -> String {
        let text = format!("`{}`: {error}", self.path.display());
        let error = fs::Error::new("write", &self.path, error);
        match fs::space(fs::parent(&self.path)) {
            Ok(space) if error.is_no_space() => format!("{text}: {space}"),
            _ => text,
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.logs.iter().map(|log| &log.path))
            .finish()
    }
}

/// A summary of a script's output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutputSummary {
    /// The last lines, as many as the output keeps.
    pub tail: LastLines,
    /// The number of bytes printed.
    pub bytes: u64,
    /// Why the log is incomplete; `None` if it is complete.
    pub log_failure: Option<String>,
    /// The end of each stream: one for a shared pipe, or one for stdout and one for stderr.
    pub endings: Vec<Ending>,
}

/// The end of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ending {
    /// The last bytes, at most [`ENDING_LIMIT`].
    pub bytes: Vec<u8>,
    /// The length of the whole stream.
    pub total: u64,
}

impl Ending {
    fn push(&mut self, chunk: &[u8]) {
        self.total += chunk.len() as u64;
        let chunk = &chunk[chunk.len().saturating_sub(ENDING_LIMIT)..];
        let excess = (self.bytes.len() + chunk.len()).saturating_sub(ENDING_LIMIT);
        self.bytes.drain(..excess);
        self.bytes.extend_from_slice(chunk);
    }
}

impl Output {
    /// Writes both streams to one new file at `path`. `notify` receives the last line from time to
    /// time.
    ///
    /// # Errors
    /// If the log cannot be created.
    pub fn to_log(path: &Path, notify: impl Fn(&str) + Send + 'static) -> fs::Result<Self> {
        Self::to_logs(&[path], notify)
    }

    /// Writes stdout and stderr to one new file each.
    ///
    /// # Errors
    /// If a log cannot be created.
    pub fn to_two_logs(
        stdout: &Path,
        stderr: &Path,
        notify: impl Fn(&str) + Send + 'static,
    ) -> fs::Result<Self> {
        Self::to_logs(&[stdout, stderr], notify)
    }

    fn to_logs(paths: &[&Path], notify: impl Fn(&str) + Send + 'static) -> fs::Result<Self> {
        let log = |path: &&Path| {
            Ok(Log {
                path: path.to_path_buf(),
                file: fs::create_file(path)?,
            })
        };
        Ok(Self {
            logs: paths.iter().map(log).collect::<fs::Result<_>>()?,
            kept: TAIL_LINES,
            lines: None,
            notify: Box::new(notify),
        })
    }

    /// Keeps the last `kept` lines for the report of a failure.
    #[must_use]
    pub fn keeping(self, kept: usize) -> Self {
        Self { kept, ..self }
    }

    /// Passes each line to `sink`, if there is one.
    #[must_use]
    pub fn streaming(self, sink: Option<LineSink>) -> Self {
        let lines = sink.map(|sink| Lines::new(self.streams(), sink));
        Self { lines, ..self }
    }

    /// The output so far, shared with the reader.
    pub(super) fn collected(&self) -> Collected {
        Collected::new(self.streams(), self.kept)
    }

    /// The number of pipes.
    pub(super) fn streams(&self) -> usize {
        self.logs.len()
    }

    /// Reads all pipes to their ends and updates `collected` continuously. If writing the log
    /// fails, reading continues, so that the script does not block.
    pub(super) fn read_to_end<R: Read + AsFd>(mut self, pipes: Vec<R>, collected: &Collected) {
        let mut buffer = vec![0; BUFFER];
        let mut notified: Option<Instant> = None;
        // The stream whose last line was not passed to `notify` yet.
        let mut pending: Option<usize> = None;
        let mut open: Vec<(usize, R)> = pipes.into_iter().enumerate().collect();
        while !open.is_empty() {
            let pause = notified.map_or(Duration::ZERO, |notified| {
                NOTIFY_INTERVAL.saturating_sub(notified.elapsed())
            });
            let Some(at) = ready(&open, pending.map(|_| pause)) else {
                let line = pending
                    .take()
                    .and_then(|stream| collected.last_line(stream));
                if let Some(line) = line {
                    (self.notify)(&line);
                    notified = Some(Instant::now());
                }
                continue;
            };
            let (stream, pipe) = &mut open[at];
            let stream = *stream;
            let chunk = match pipe.read(&mut buffer) {
                Ok(0) => {
                    open.remove(at);
                    continue;
                }
                Ok(length) => &buffer[..length],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    collected.state().summary.log_failure =
                        Some(format!("failed to read the output: {error}"));
                    break;
                }
            };
            let is_due = notified.is_none_or(|notified| notified.elapsed() >= NOTIFY_INTERVAL);
            self.record(stream, chunk, collected);
            let line = is_due.then(|| collected.last_line(stream)).flatten();
            if let Some(line) = line {
                (self.notify)(&line);
                notified = Some(Instant::now());
                pending = None;
            } else {
                pending = Some(stream);
            }
        }
        if let Some(lines) = self.lines {
            lines.finish();
        }
    }
}

impl Output {
    /// Writes output to the log, and passes it on.
    fn record(&mut self, stream: usize, chunk: &[u8], collected: &Collected) {
        {
            let mut state = collected.state();
            let log = &mut self.logs[stream];
            if state.summary.log_failure.is_none()
                && let Err(error) = log.file.write_all(chunk)
            {
                state.summary.log_failure = Some(log.failure(error));
            }
            state.push(stream, chunk);
        }
        // Do this without the lock, because it may wait for a slow reader.
        if let Some(lines) = &mut self.lines {
            lines.push(stream, chunk);
        }
    }
}

/// The output so far. It can be read while the pipe is still open, for example because a process
/// that cannot be killed keeps it open.
#[derive(Debug)]
pub(super) struct Collected(Mutex<CollectedState>);

#[derive(Debug)]
struct CollectedState {
    tail: Tail,
    summary: OutputSummary,
    /// The time of the last output, or of the script's start.
    last_output: tokio::time::Instant,
}

impl CollectedState {
    fn push(&mut self, stream: usize, chunk: &[u8]) {
        self.summary.bytes += chunk.len() as u64;
        self.summary.endings[stream].push(chunk);
        self.tail.push(stream, chunk);
        self.last_output = tokio::time::Instant::now();
    }
}

impl Collected {
    /// Starts without output. The last `lines` lines will be kept.
    pub(super) fn new(streams: usize, lines: usize) -> Self {
        Self(Mutex::new(CollectedState {
            tail: Tail::of_script(streams, lines),
            summary: OutputSummary {
                endings: vec![Ending::default(); streams],
                ..OutputSummary::default()
            },
            last_output: tokio::time::Instant::now(),
        }))
    }

    /// Adds output of a stream.
    #[cfg(test)]
    pub(super) fn push(&self, stream: usize, chunk: &[u8]) {
        self.state().push(stream, chunk);
    }

    fn state(&self) -> MutexGuard<'_, CollectedState> {
        // A poisoned lock is usable: the state is consistent after each chunk, even if the reader
        // panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time since the last output, or since the script's start.
    pub(super) fn silent_for(&self) -> Duration {
        self.state().last_output.elapsed()
    }

    fn last_line(&self, stream: usize) -> Option<String> {
        self.state().tail.last_line(stream)
    }

    /// A summary of the output so far.
    pub(super) fn summary(&self) -> OutputSummary {
        let state = self.state();
        OutputSummary {
            tail: state.tail.clone().into_last_lines(),
            ..state.summary.clone()
        }
    }
}

/// Waits for a readable pipe and returns its index. `None` after `limit`, or if a signal interrupts
/// the wait. A single pipe without a limit is returned at once, because reading it also waits.
fn ready<R: AsFd>(open: &[(usize, R)], limit: Option<Duration>) -> Option<usize> {
    if open.len() == 1 && limit.is_none() {
        return Some(0);
    }
    let limit = limit.map_or(PollTimeout::NONE, |limit| {
        PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)
    });
    let mut sources: Vec<PollFd> = open
        .iter()
        .map(|(_, pipe)| PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
        .collect();
    match poll(&mut sources, limit) {
        Ok(_) => {}
        Err(Errno::EINTR) => return None,
        // If `poll` does not work, read from the first pipe and block.
        Err(_) => return Some(0),
    }
    sources
        .iter()
        .position(|source| source.any().unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reading end of a closed pipe with these bytes.
    fn pipe_with(bytes: &[u8]) -> io::PipeReader {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(bytes).unwrap();
        reader
    }

    fn read(output: Output, pipes: Vec<io::PipeReader>) -> OutputSummary {
        let collected = output.collected();
        output.read_to_end(pipes, &collected);
        collected.summary()
    }

    #[test]
    fn log_has_the_whole_output() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        let (sender, receiver) = std::sync::mpsc::channel();
        let output = Output::to_log(&path, move |line| sender.send(line.to_owned()).unwrap());
        let summary = read(output.unwrap(), vec![pipe_with(b"one\ntwo\n")]);
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
        assert_eq!(summary.tail.lines, ["one", "two"]);
        assert_eq!(summary.bytes, 8);
        assert_eq!(receiver.recv().unwrap(), "two");
    }

    #[test]
    fn last_line_before_a_silence_is_notified() {
        let scratch = tempfile::tempdir().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let output = Output::to_log(&scratch.path().join("log"), move |line| {
            sender.send(line.to_owned()).unwrap();
        });
        let (reader, mut writer) = io::pipe().unwrap();
        let output = output.unwrap();
        let reading = std::thread::spawn(move || read(output, vec![reader]));
        let next = || receiver.recv_timeout(Duration::from_secs(30)).unwrap();
        writer.write_all(b"+ configure\n").unwrap();
        assert_eq!(next(), "+ configure");
        // Within the interval, so it is delayed.
        writer.write_all(b"+ make\n").unwrap();
        assert_eq!(next(), "+ make");
        drop(writer);
        assert_eq!(
            reading.join().unwrap().tail.command.as_deref(),
            Some("make")
        );
    }

    #[test]
    fn lines_are_available_before_the_pipe_ends() {
        let scratch = tempfile::tempdir().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let output = Output::to_log(&scratch.path().join("log"), move |line| {
            sender.send(line.to_owned()).unwrap();
        });
        let (reader, mut writer) = io::pipe().unwrap();
        let output = output.unwrap();
        let collected = output.collected();
        std::thread::scope(|scope| {
            scope.spawn(|| output.read_to_end(vec![reader], &collected));
            writer.write_all(b"the reason\n").unwrap();
            receiver.recv_timeout(Duration::from_secs(30)).unwrap();
            let summary = collected.summary();
            assert_eq!(summary.tail.lines, ["the reason"]);
            assert_eq!(summary.endings[0].bytes, b"the reason\n");
            drop(writer);
        });
    }

    #[test]
    fn two_streams_have_own_logs_and_one_tail() {
        let scratch = tempfile::tempdir().unwrap();
        let (out, err) = (scratch.path().join("out"), scratch.path().join("err"));
        let output = Output::to_two_logs(&out, &err, |_| {}).unwrap();
        let summary = read(output, vec![pipe_with(b"one\nopen"), pipe_with(b"two\n")]);
        assert_eq!(fs::read(&out).unwrap(), b"one\nopen");
        assert_eq!(fs::read(&err).unwrap(), b"two\n");
        assert_eq!(summary.tail.lines, ["one", "two", "open"]);
        assert_eq!(summary.endings[1].bytes, b"two\n");
        assert_eq!(summary.endings[0].total, 8);
    }

    #[test]
    fn ending_does_not_depend_on_chunk_sizes() {
        let text: Vec<u8> = (0..3 * ENDING_LIMIT).map(|at| (at % 251) as u8).collect();
        for size in [1, 1000, ENDING_LIMIT, ENDING_LIMIT + 1, text.len()] {
            let mut ending = Ending::default();
            text.chunks(size).for_each(|chunk| ending.push(chunk));
            assert_eq!(ending.bytes, text[text.len() - ENDING_LIMIT..]);
            assert_eq!(ending.total, text.len() as u64);
        }
    }
}
