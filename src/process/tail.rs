//! Keeps the last lines of a program's output. A *traced command* is a line that `bash -x` prints
//! before it runs a command.

use std::collections::VecDeque;

use super::open_lines::{Line, OpenLines};
use super::trace::{LineKind, Trace, is_traced, traced};
use crate::diag::is_control;

/// The number of last lines to keep by default.
pub(crate) const TAIL_LINES: usize = 25;

/// The last lines of the output so far.
#[derive(Debug, Clone)]
pub(super) struct Tail {
    /// The number of lines that are kept.
    limit: usize,
    complete: VecDeque<Vec<u8>>,
    open: OpenLines,
    /// Recognizes the traced commands of each stream, to leave them out. Empty if traced commands
    /// are kept like other lines.
    traces: Vec<Trace>,
    /// The last traced command with its prefix, if nothing was printed after it.
    command: Option<Vec<u8>>,
}

/// The end of a script's output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastLines {
    /// The last lines without traced commands and without line ends.
    pub lines: Vec<String>,
    /// Whether the script printed anything other than traced commands.
    pub is_printed: bool,
    /// The last traced command, if nothing was printed after it. It may have failed without a
    /// message.
    pub command: Option<String>,
}

impl LastLines {
    /// Keeps at most the last `count` lines.
    #[must_use]
    pub fn shortened(mut self, count: usize) -> Self {
        self.lines.drain(..self.lines.len().saturating_sub(count));
        self
    }
}

impl Tail {
    /// Keeps the last lines of a program with one stream, including traced commands.
    pub(super) fn of_program() -> Self {
        Self {
            limit: TAIL_LINES,
            complete: VecDeque::new(),
            open: OpenLines::of(1),
            traces: Vec::new(),
            command: None,
        }
    }

    /// Keeps the last lines of a script, without traced commands.
    pub(super) fn of_script(streams: usize, limit: usize) -> Self {
        Self {
            limit: limit.max(TAIL_LINES),
            open: OpenLines::of(streams),
            traces: vec![Trace::default(); streams],
            ..Self::of_program()
        }
    }

    pub(super) fn push(&mut self, stream: usize, chunk: &[u8]) {
        let mut open = std::mem::take(&mut self.open);
        open.push(stream, chunk, |line| self.keep(stream, line));
        self.open = open;
    }

    fn keep(&mut self, stream: usize, line: Line) {
        let kind = match self.traces.get_mut(stream) {
            Some(trace) => trace.read(&line.bytes, line.is_cut),
            None => LineKind::Printed,
        };
        match kind {
            LineKind::Command => self.command = Some(line.bytes),
            LineKind::Continuation => {}
            LineKind::Printed => {
                self.command = None;
                if self.complete.len() == self.limit {
                    self.complete.pop_front();
                }
                self.complete.push_back(line.bytes);
            }
        }
    }

    /// The latest line of a stream. If the streams have separate pipes, a traced command is reported
    /// only until something else was printed: then the order of commands and output is unknown.
    pub(super) fn last_line(&self, stream: usize) -> Option<String> {
        let open = Some(self.open.of_stream(stream)).filter(|open| !open.is_empty());
        let printed = self.complete.back().map(Vec::as_slice);
        let line = if self.traces.len() > 1 && printed.is_some() {
            open.filter(|open| !is_traced(open)).or(printed)
        } else {
            open.or(self.command.as_deref()).or(printed)
        };
        line.map(printable)
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        self.into_last_lines().lines
    }

    pub(super) fn into_last_lines(mut self) -> LastLines {
        for (stream, line) in std::mem::take(&mut self.open).finish() {
            self.keep(stream, line);
        }
        LastLines {
            is_printed: !self.complete.is_empty(),
            command: self.command.as_deref().and_then(command),
            lines: self.complete.iter().map(|line| printable(line)).collect(),
        }
    }
}

/// The command in a traced line; `None` for the command that turns the trace off, because later
/// commands are unknown.
fn command(line: &[u8]) -> Option<String> {
    let command = printable(traced(line)?);
    (!["set +x", "set +o xtrace"].contains(&command.as_str())).then_some(command)
}

/// The line without control characters, escape sequences, and text that a carriage return
/// overwrote.
pub(crate) fn printable(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let shown = line.rsplit(|byte| *byte == b'\r').next().unwrap_or(line);
    let text = String::from_utf8_lossy(shown);
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            // An escape sequence, for example a color: `ESC [ 1 ; 31 m`.
            '\x1b' if characters.next_if_eq(&'[').is_some() => {
                while characters.next_if(|it| (' '..='?').contains(it)).is_some() {}
                characters.next_if(|it| ('@'..='~').contains(it));
            }
            '\t' => shown.push(' '),
            other if is_control(other) => {}
            other => shown.push(other),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::open_lines::LINE_LIMIT;

    fn tail_of(chunks: &[&[u8]]) -> Vec<String> {
        end_of(chunks, TAIL_LINES).lines
    }

    fn end_of(chunks: &[&[u8]], limit: usize) -> LastLines {
        let mut tail = Tail::of_script(1, limit);
        for chunk in chunks {
            tail.push(0, chunk);
        }
        tail.into_last_lines()
    }

    #[test]
    fn last_lines_do_not_depend_on_chunk_sizes() {
        let text: Vec<u8> = (0..100)
            .flat_map(|number| format!("line {number}\n").into_bytes())
            .collect();
        let expected: Vec<String> = (75..100).map(|number| format!("line {number}")).collect();
        for size in [1, 3, 7, 64, text.len()] {
            assert_eq!(tail_of(&text.chunks(size).collect::<Vec<_>>()), expected);
        }
    }

    #[test]
    fn unfinished_line_is_kept_and_long_line_is_cut() {
        assert_eq!(tail_of(&[b"a\nb"]), ["a", "b"]);
        let long = [b'x'; 10_000];
        let lines = tail_of(&[&long, b"y\n", b"end"]);
        assert_eq!(lines[0].len(), LINE_LIMIT);
        assert_eq!(lines[1], "end");
    }

    #[test]
    fn control_characters_are_removed() {
        assert_eq!(tail_of(&[b"10%\r50%\r100%\r\n"]), ["100%"]);
        assert_eq!(
            tail_of(&[b"\x1b[1;31mred\x1b[m\x07\tx\xff\x1b[\n"]),
            ["red x\u{fffd}"]
        );
    }

    #[test]
    fn trace_is_left_out_and_does_not_push_out_lines() {
        let trace = "+ true\n".repeat(100);
        let text = format!("the reason\n{trace}last\n{trace}");
        let end = end_of(&[text.as_bytes()], TAIL_LINES);
        assert_eq!(end.lines, ["the reason", "last"]);
        assert_eq!(end.command.as_deref(), Some("true"));
        assert_eq!(end_of(&[b"+ ls x\nls: x\n"], TAIL_LINES).command, None);
    }

    #[test]
    fn silent_failure_has_its_last_command() {
        let end = end_of(&[b"+ set -e\n++ id -u\n+ test 0 =", b" 1\n"], TAIL_LINES);
        assert!(end.lines.is_empty() && !end.is_printed);
        assert_eq!(end.command.as_deref(), Some("test 0 = 1"));
        let end = end_of(&[b"+ cp -a '\n' \xff"], TAIL_LINES);
        assert_eq!(end.command.as_deref(), Some("cp -a '"));
        assert_eq!(end_of(&[b"+ set +x\n"], TAIL_LINES).command, None);
    }

    #[test]
    fn output_is_preferred_to_commands_of_another_pipe() {
        let mut tail = Tail::of_script(2, TAIL_LINES);
        let mut last = |stream, chunk: &[u8]| {
            tail.push(stream, chunk);
            tail.last_line(stream).unwrap()
        };
        assert_eq!(last(1, b"+ make\n"), "+ make");
        assert_eq!(last(0, b"compiling\n"), "compiling");
        assert_eq!(last(1, b"+ sleep 1\n"), "compiling");
        assert_eq!(last(1, b"+ sle"), "compiling");
        assert_eq!(last(0, b"more"), "more");
        let mut tail = Tail::of_script(1, TAIL_LINES);
        tail.push(0, b"compiling\n+ sleep 1\n");
        assert_eq!(tail.last_line(0).unwrap(), "+ sleep 1");
    }

    #[test]
    fn number_of_lines_is_adjustable() {
        let text = "line\n".repeat(300);
        let end = end_of(&[text.as_bytes()], 100);
        assert_eq!(end.lines.len(), 100);
        let none = end.shortened(0);
        assert!(none.lines.is_empty() && none.is_printed);
    }

    #[test]
    fn programs_other_than_scripts_keep_their_trace() {
        let mut tail = Tail::of_program();
        tail.push(0, b"+ curl\nend\n");
        assert_eq!(tail.into_lines(), ["+ curl", "end"]);
    }
}
