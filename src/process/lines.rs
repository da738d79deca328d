//! Hands the complete lines of a script's output to a listener, as they arrive.

use super::tail::printable;

/// The maximum length of a line in bytes. The log has the whole line.
const LINE_LIMIT: usize = 2000;

/// Receives the lines of one script.
pub type LineSink = Box<dyn FnMut(String) + Send>;

/// Cuts the output of a script into lines.
pub(super) struct Lines {
    sink: LineSink,
    /// The unfinished line of each stream, and whether its end was cut off.
    open: Vec<(Vec<u8>, bool)>,
}

impl Lines {
    pub(super) fn new(streams: usize, sink: LineSink) -> Self {
        Self {
            sink,
            open: vec![(Vec::new(), false); streams],
        }
    }

    pub(super) fn push(&mut self, stream: usize, chunk: &[u8]) {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let (open, is_cut) = &mut self.open[stream];
            let room = LINE_LIMIT.saturating_sub(open.len());
            open.extend_from_slice(&text[..text.len().min(room)]);
            *is_cut |= text.len() > room;
            if text.len() < piece.len() {
                self.end_line(stream);
            }
        }
    }

    fn end_line(&mut self, stream: usize) {
        let (line, is_cut) = std::mem::take(&mut self.open[stream]);
        let mut text = printable(&line);
        if is_cut {
            text.push_str(" ...");
        }
        (self.sink)(text);
    }

    /// Hands over the lines without an end.
    pub(super) fn finish(mut self) {
        for stream in 0..self.open.len() {
            if !self.open[stream].0.is_empty() {
                self.end_line(stream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

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
