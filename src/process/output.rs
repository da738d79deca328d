//! What a script prints: all of it into its log, the last lines kept for the report.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::fs;

/// How many of the last lines are kept.
pub const TAIL_LINES: usize = 25;

/// How much of a line is kept, in bytes. The log has the whole line.
const LINE_LIMIT: usize = 2000;

/// The last line is told no oftener than this.
const TELL_INTERVAL: Duration = Duration::from_millis(200);

/// As much as a pipe holds.
const BUFFER: usize = 64 * 1024;

/// Receives the output of one script. Standard output and standard error come through one pipe, in the order in which they
/// were written.
pub struct Output {
    path: PathBuf,
    log: File,
    tell: Box<dyn Fn(&str) + Send>,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("path", &self.path).finish()
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
}

impl Output {
    /// Output that goes into a new file at `path`; `tell` hears the last line from time to time.
    ///
    /// # Errors
    /// When the log cannot be created.
    pub fn to_log(path: &Path, tell: impl Fn(&str) + Send + 'static) -> fs::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            log: fs::create(path)?,
            tell: Box::new(tell),
        })
    }

    /// Reads to the end. A log that cannot be written any more stops no script: the pipe is read on.
    pub(super) fn read_to_end(mut self, mut from: impl Read) -> OutputSummary {
        let mut buffer = vec![0; BUFFER];
        let mut tail = Tail::default();
        let mut summary = OutputSummary::default();
        let mut told: Option<Instant> = None;
        loop {
            let chunk = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => &buffer[..length],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    summary.log_failure = Some(format!("the pipe cannot be read: {error}"));
                    break;
                }
            };
            summary.bytes += chunk.len() as u64;
            if summary.log_failure.is_none()
                && let Err(error) = self.log.write_all(chunk)
            {
                summary.log_failure = Some(format!("`{}`: {error}", self.path.display()));
            }
            tail.push(chunk);
            if told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL)
                && let Some(line) = tail.last_line()
            {
                (self.tell)(&line);
                told = Some(Instant::now());
            }
        }
        summary.tail = tail.into_lines();
        summary
    }
}

/// The last lines of a stream.
#[derive(Debug, Default)]
pub(super) struct Tail {
    complete: VecDeque<Vec<u8>>,
    /// The line that has not ended yet.
    open: Vec<u8>,
}

impl Tail {
    pub(super) fn push(&mut self, chunk: &[u8]) {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let room = LINE_LIMIT.saturating_sub(self.open.len());
            self.open.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                if self.complete.len() == TAIL_LINES {
                    self.complete.pop_front();
                }
                self.complete.push_back(std::mem::take(&mut self.open));
            }
        }
    }

    fn last_line(&self) -> Option<String> {
        Some(&self.open)
            .filter(|open| !open.is_empty())
            .or(self.complete.back())
            .map(|line| printable(line))
    }

    pub(super) fn into_lines(mut self) -> Vec<String> {
        if !self.open.is_empty() {
            self.complete.push_back(self.open);
            if self.complete.len() > TAIL_LINES {
                self.complete.pop_front();
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

    fn tail_of(chunks: &[&[u8]]) -> Vec<String> {
        let mut tail = Tail::default();
        for chunk in chunks {
            tail.push(chunk);
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
        let summary = output.unwrap().read_to_end(&b"one\ntwo\n"[..]);
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
        assert_eq!(summary.tail, ["one", "two"]);
        assert_eq!(summary.bytes, 8);
        assert_eq!(receiver.recv().unwrap(), "two");
    }
}
