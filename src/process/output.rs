//! What a script prints: all of it into its log, the last lines kept for the report.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::fs;

/// How many of the last lines are kept.
pub const TAIL_LINES: usize = 25;

/// How much of a line is kept, in bytes. The log has the whole line.
const LINE_LIMIT: usize = 2000;

/// The last line is told no oftener than this.
const TELL_INTERVAL: Duration = Duration::from_millis(200);

/// As much as a pipe holds.
const BUFFER: usize = 64 * 1024;

/// How many of the last bytes of each stream are kept: as many as the Go agent reports of a script that failed.
pub const ENDING_LIMIT: usize = 10 * 1024;

/// Receives the output of one script: both streams through one pipe, in the order in which they were written, or each
/// through its own.
pub struct Output {
    logs: Vec<Log>,
    tell: Box<dyn Fn(&str) + Send>,
}

/// Where a stream is kept.
struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// What a person should know of a log that cannot be written.
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

/// What remains of a script's output when it has ended.
#[derive(Debug, Clone, Default)]
pub struct OutputSummary {
    /// The last lines, [`TAIL_LINES`] at most, without their line ends.
    pub tail: Vec<String>,
    /// Bytes printed.
    pub bytes: u64,
    /// Why the log is not complete, where it is not.
    pub log_failure: Option<String>,
    /// The end of each stream: one, or standard output and standard error.
    pub endings: Vec<Ending>,
}

/// The end of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ending {
    /// Its last bytes, [`ENDING_LIMIT`] at most.
    pub bytes: Vec<u8>,
    /// How long the stream was.
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
    /// Both streams into one new file at `path`; `tell` hears the last line from time to time.
    ///
    /// # Errors
    /// When the log cannot be created.
    pub fn to_log(path: &Path, tell: impl Fn(&str) + Send + 'static) -> fs::Result<Self> {
        Self::to_logs(&[path], tell)
    }

    /// Standard output and standard error each into a new file of its own.
    ///
    /// # Errors
    /// When a log cannot be created.
    pub fn to_two_logs(
        stdout: &Path,
        stderr: &Path,
        tell: impl Fn(&str) + Send + 'static,
    ) -> fs::Result<Self> {
        Self::to_logs(&[stdout, stderr], tell)
    }

    fn to_logs(paths: &[&Path], tell: impl Fn(&str) + Send + 'static) -> fs::Result<Self> {
        let log = |path: &&Path| {
            Ok(Log {
                path: path.to_path_buf(),
                file: fs::create(path)?,
            })
        };
        Ok(Self {
            logs: paths.iter().map(log).collect::<fs::Result<_>>()?,
            tell: Box::new(tell),
        })
    }

    /// How many pipes it is read from.
    pub(super) fn streams(&self) -> usize {
        self.logs.len()
    }

    /// Reads all pipes, one for each stream, to their ends. A log that cannot be written any more stops no script: the pipe
    /// is read on. `collected` has what was read so far at any time.
    pub(super) fn read_to_end<R: Read + AsFd>(mut self, pipes: Vec<R>, collected: &Collected) {
        let mut buffer = vec![0; BUFFER];
        let mut told: Option<Instant> = None;
        // The stream whose last line is not told yet.
        let mut untold: Option<usize> = None;
        let mut open: Vec<(usize, R)> = pipes.into_iter().enumerate().collect();
        while !open.is_empty() {
            let rest = told.map_or(Duration::ZERO, |told| {
                TELL_INTERVAL.saturating_sub(told.elapsed())
            });
            let Some(at) = ready(&open, untold.map(|_| rest)) else {
                let line = untold.take().and_then(|stream| collected.last_line(stream));
                if let Some(line) = line {
                    (self.tell)(&line);
                    told = Some(Instant::now());
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
                        Some(format!("the pipe cannot be read: {error}"));
                    break;
                }
            };
            let is_time_to_tell = told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL);
            let line = {
                let mut state = collected.state();
                let log = &mut self.logs[stream];
                if state.summary.log_failure.is_none()
                    && let Err(error) = log.file.write_all(chunk)
                {
                    state.summary.log_failure = Some(log.failure(error));
                }
                state.push(stream, chunk);
                is_time_to_tell
                    .then(|| state.tail.last_line(stream))
                    .flatten()
            };
            if let Some(line) = line {
                (self.tell)(&line);
                told = Some(Instant::now());
                untold = None;
            } else {
                untold = Some(stream);
            }
        }
    }
}

/// What was read of a script's output so far. It can be taken even where the pipe never ends, since a process outside our
/// reach keeps it open.
#[derive(Debug)]
pub(super) struct Collected(Mutex<CollectedState>);

#[derive(Debug)]
struct CollectedState {
    tail: Tail,
    summary: OutputSummary,
}

impl CollectedState {
    fn push(&mut self, stream: usize, chunk: &[u8]) {
        self.summary.bytes += chunk.len() as u64;
        self.summary.endings[stream].push(chunk);
        self.tail.push(stream, chunk);
    }
}

impl Collected {
    /// Nothing, of so many streams.
    pub(super) fn new(streams: usize) -> Self {
        Self(Mutex::new(CollectedState {
            tail: Tail::new(streams),
            summary: OutputSummary {
                endings: vec![Ending::default(); streams],
                ..OutputSummary::default()
            },
        }))
    }

    fn state(&self) -> MutexGuard<'_, CollectedState> {
        // Whole after each chunk, even where the reader has panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_line(&self, stream: usize) -> Option<String> {
        self.state().tail.last_line(stream)
    }

    /// What was read so far, with the last lines.
    pub(super) fn summary(&self) -> OutputSummary {
        let state = self.state();
        OutputSummary {
            tail: state.tail.clone().into_lines(),
            ..state.summary.clone()
        }
    }
}

/// Waits for a pipe that has something to read, and tells which. `None` when none has within `limit`.
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
        // One more round.
        Err(Errno::EINTR) => return None,
        // Then the first is read from, which waits as well.
        Err(_) => return Some(0),
    }
    sources
        .iter()
        .position(|source| source.any().unwrap_or(false))
}

/// The last lines of a script's output.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail {
    complete: VecDeque<Vec<u8>>,
    /// The line of each stream that has not ended yet.
    open: Vec<Vec<u8>>,
}

impl Tail {
    pub(super) fn new(streams: usize) -> Self {
        Self {
            complete: VecDeque::new(),
            open: vec![Vec::new(); streams],
        }
    }

    pub(super) fn push(&mut self, stream: usize, chunk: &[u8]) {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let open = &mut self.open[stream];
            let room = LINE_LIMIT.saturating_sub(open.len());
            open.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                let line = std::mem::take(open);
                self.keep(line);
            }
        }
    }

    fn keep(&mut self, line: Vec<u8>) {
        if self.complete.len() == TAIL_LINES {
            self.complete.pop_front();
        }
        self.complete.push_back(line);
    }

    fn last_line(&self, stream: usize) -> Option<String> {
        Some(&self.open[stream])
            .filter(|open| !open.is_empty())
            .or(self.complete.back())
            .map(|line| printable(line))
    }

    pub(super) fn into_lines(mut self) -> Vec<String> {
        for open in std::mem::take(&mut self.open) {
            if !open.is_empty() {
                self.keep(open);
            }
        }
        self.complete.iter().map(|line| printable(line)).collect()
    }
}

/// A line as it may go to a terminal: what a carriage return has overwritten, and every control character, is left out.
fn printable(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let shown = line.rsplit(|byte| *byte == b'\r').next().unwrap_or(line);
    String::from_utf8_lossy(shown)
        .chars()
        .map(|character| if character == '\t' { ' ' } else { character })
        .filter(|character| !character.is_control())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reading end of a pipe that has these bytes and nothing more to come.
    fn pipe_with(bytes: &[u8]) -> io::PipeReader {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(bytes).unwrap();
        reader
    }

    fn read(output: Output, pipes: Vec<io::PipeReader>) -> OutputSummary {
        let collected = Collected::new(output.streams());
        output.read_to_end(pipes, &collected);
        collected.summary()
    }

    fn tail_of(chunks: &[&[u8]]) -> Vec<String> {
        let mut tail = Tail::new(1);
        for chunk in chunks {
            tail.push(0, chunk);
        }
        tail.into_lines()
    }

    #[test]
    fn the_last_lines_are_kept_however_the_chunks_fall() {
        let text: Vec<u8> = (0..100)
            .flat_map(|number| format!("line {number}\n").into_bytes())
            .collect();
        let expected: Vec<String> = (75..100).map(|number| format!("line {number}")).collect();
        for size in [1, 3, 7, 64, text.len()] {
            assert_eq!(tail_of(&text.chunks(size).collect::<Vec<_>>()), expected);
        }
    }

    #[test]
    fn a_last_line_without_an_end_counts_and_long_lines_are_cut() {
        assert_eq!(tail_of(&[b"a\nb"]), ["a", "b"]);
        let long = [b'x'; 10_000];
        let lines = tail_of(&[&long, b"y\n", b"end"]);
        assert_eq!(lines[0].len(), LINE_LIMIT);
        assert_eq!(lines[1], "end");
    }

    #[test]
    fn nothing_that_steers_a_terminal_is_shown() {
        assert_eq!(tail_of(&[b"10%\r50%\r100%\r\n"]), ["100%"]);
        assert_eq!(
            tail_of(&[b"\x1b[31mred\x07\tx\xff\n"]),
            ["[31mred x\u{fffd}"]
        );
    }

    #[test]
    fn the_log_has_everything_and_the_listener_hears_of_it() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        let (sender, receiver) = std::sync::mpsc::channel();
        let output = Output::to_log(&path, move |line| sender.send(line.to_owned()).unwrap());
        let summary = read(output.unwrap(), vec![pipe_with(b"one\ntwo\n")]);
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
        assert_eq!(summary.tail, ["one", "two"]);
        assert_eq!(summary.bytes, 8);
        assert_eq!(receiver.recv().unwrap(), "two");
    }

    #[test]
    fn the_line_after_which_a_script_is_silent_is_told() {
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
        // Too soon after the first one to be told at once.
        writer.write_all(b"+ make\n").unwrap();
        assert_eq!(next(), "+ make");
        drop(writer);
        assert_eq!(reading.join().unwrap().tail, ["+ configure", "+ make"]);
    }

    #[test]
    fn lines_are_available_before_the_pipe_ends() {
        let scratch = tempfile::tempdir().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let output = Output::to_log(&scratch.path().join("log"), move |line| {
            sender.send(line.to_owned()).unwrap();
        });
        let (reader, mut writer) = io::pipe().unwrap();
        let (output, collected) = (output.unwrap(), Collected::new(1));
        std::thread::scope(|scope| {
            scope.spawn(|| output.read_to_end(vec![reader], &collected));
            writer.write_all(b"the reason\n").unwrap();
            receiver.recv_timeout(Duration::from_secs(30)).unwrap();
            let summary = collected.summary();
            assert_eq!(summary.tail, ["the reason"]);
            assert_eq!(summary.endings[0].bytes, b"the reason\n");
            drop(writer);
        });
    }

    #[test]
    fn two_streams_keep_their_own_logs_and_endings_and_share_the_tail() {
        let scratch = tempfile::tempdir().unwrap();
        let (out, err) = (scratch.path().join("out"), scratch.path().join("err"));
        let output = Output::to_two_logs(&out, &err, |_| {}).unwrap();
        let summary = read(output, vec![pipe_with(b"one\nopen"), pipe_with(b"two\n")]);
        assert_eq!(fs::read(&out).unwrap(), b"one\nopen");
        assert_eq!(fs::read(&err).unwrap(), b"two\n");
        assert_eq!(summary.tail, ["one", "two", "open"]);
        assert_eq!(summary.endings[1].bytes, b"two\n");
        assert_eq!(summary.endings[0].total, 8);
    }

    #[test]
    fn an_ending_has_the_last_bytes_however_the_chunks_fall() {
        let text: Vec<u8> = (0..3 * ENDING_LIMIT).map(|at| (at % 251) as u8).collect();
        for size in [1, 1000, ENDING_LIMIT, ENDING_LIMIT + 1, text.len()] {
            let mut ending = Ending::default();
            text.chunks(size).for_each(|chunk| ending.push(chunk));
            assert_eq!(ending.bytes, text[text.len() - ENDING_LIMIT..]);
            assert_eq!(ending.total, text.len() as u64);
        }
    }
}
