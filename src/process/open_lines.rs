//! Splits the output of a program into lines.

/// The maximum length of a line in bytes; the rest of a longer line is dropped. The log has the
/// whole line.
pub(super) const LINE_LIMIT: usize = 2000;

/// A line of output, or the beginning of a long line.
#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    pub(super) bytes: Vec<u8>,
    /// Whether the rest of the line was dropped.
    pub(super) is_cut: bool,
}

/// The unfinished line of each stream.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenLines(Vec<Line>);

impl OpenLines {
    pub(super) fn of(streams: usize) -> Self {
        Self(vec![Line::default(); streams])
    }

    /// Adds output of a stream. Passes each line that is now complete to `ended`.
    pub(super) fn push(&mut self, stream: usize, chunk: &[u8], mut ended: impl FnMut(Line)) {
        let open = &mut self.0[stream];
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let room = LINE_LIMIT.saturating_sub(open.bytes.len());
            open.bytes.extend_from_slice(&text[..text.len().min(room)]);
            open.is_cut |= text.len() > room;
            if text.len() < piece.len() {
                ended(std::mem::take(open));
            }
        }
    }

    /// The unfinished line of a stream; empty if there is none.
    pub(super) fn of_stream(&self, stream: usize) -> &[u8] {
        &self.0[stream].bytes
    }

    /// The last line of each stream that does not end with a newline, with the stream's number.
    pub(super) fn finish(self) -> impl Iterator<Item = (usize, Line)> {
        let lines = self.0.into_iter().enumerate();
        lines.filter(|(_, line)| !line.bytes.is_empty())
    }
}
