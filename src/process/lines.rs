//! Passes the complete lines of a script's output to a listener as soon as they arrive.

use super::open_lines::{Line, OpenLines};
use super::tail::printable;

/// A function that receives the lines of one script.
pub type LineSink = Box<dyn FnMut(String) + Send>;

/// Splits the output of a script into lines.
pub(super) struct Lines {
    sink: LineSink,
    open: OpenLines,
}

impl Lines {
    pub(super) fn new(streams: usize, sink: LineSink) -> Self {
        Self {
            sink,
            open: OpenLines::of(streams),
        }
    }

    pub(super) fn push(&mut self, stream: usize, chunk: &[u8]) {
        let sink = &mut self.sink;
        self.open.push(stream, chunk, |line| sink(shown(&line)));
    }

    /// Passes on the last line of each stream that does not end with a newline.
    pub(super) fn finish(mut self) {
        for (_, line) in self.open.finish() {
            (self.sink)(shown(&line));
        }
    }
}

fn shown(line: &Line) -> String {
    let text = printable(&line.bytes);
    match line.is_cut {
        true => text + " ...",
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::process::open_lines::LINE_LIMIT;

    fn lines_of(chunks: &[(usize, &[u8])]) -> Vec<String> {
        let (sender, receiver) = mpsc::channel();
        let mut lines = Lines::new(2, Box::new(move |line| sender.send(line).unwrap()));
        for (stream, chunk) in chunks {
            lines.push(*stream, chunk);
        }
        lines.finish();
        receiver.into_iter().collect()
    }

    #[test]
    fn lines_of_two_streams_are_not_mixed() {
        let chunks: [(usize, &[u8]); 4] = [(0, b"o"), (1, b"err\nend"), (0, b"ut\n\n"), (1, b"")];
        assert_eq!(lines_of(&chunks), ["err", "out", "", "end"]);
    }

    #[test]
    fn long_line_is_cut() {
        let long = [b'x'; 5000];
        let lines = lines_of(&[(0, &long), (0, &long), (0, b"\nnext\n")]);
        assert_eq!(lines[0].len(), LINE_LIMIT + 4);
        assert!(lines[0].ends_with("x ..."));
        assert_eq!(lines[1], "next");
    }
}
