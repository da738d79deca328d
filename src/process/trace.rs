//! Recognizes traced commands in the output of a script: lines that `bash -x` prints before it runs
//! a command. They start with `+ `, `++ ` and so on, and a command with newlines in its arguments
//! has several lines.

/// The maximum number of further lines of a traced command. The limit prevents a misread quote from
/// hiding other output.
const CONTINUATION_LIMIT: usize = 100;

/// The classification of a line of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineKind {
    /// The script or a command printed the line.
    Printed,
    /// The first or only line of a traced command.
    Command,
    /// A further line of a traced command, whose arguments contain newlines.
    Continuation,
}

/// Classifies the lines of one stream in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace {
    /// What is missing to end the last traced command, and the maximum number of further lines.
    open: Option<(Open, usize)>,
    /// How many lines of the old and of the new file are still missing in the current hunk of a
    /// unified diff. An added line in a diff may start with `+ `, like a traced command.
    diff: (usize, usize),
}

/// What is missing to end a traced command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    /// A closing single quote.
    Single,
    /// The closing quote of `$'...'`, in which a backslash escapes the next character.
    Escaped,
    Double,
    /// The next line, because this one ends with a backslash.
    Backslash,
    /// `]]` or `))` at the end of a line. Bash does not quote the words of commands that start with
    /// `[[` or `((`.
    Bracket(&'static [u8]),
}

impl Trace {
    /// Classifies the next line, given without its newline. `is_cut` means that the end of the line
    /// is missing.
    pub(crate) fn read(&mut self, line: &[u8], is_cut: bool) -> LineKind {
        if self.is_in_diff(line) {
            return LineKind::Printed;
        }
        if let Some(command) = traced(line) {
            self.open = (!is_cut)
                .then(|| end_of_first(command))
                .flatten()
                .map(|open| (open, CONTINUATION_LIMIT));
            return LineKind::Command;
        }
        match self.open.take() {
            Some((open, left)) => {
                let open = (!is_cut && left > 1).then(|| end_of(open, line)).flatten();
                self.open = open.map(|open| (open, left - 1));
                LineKind::Continuation
            }
            None => LineKind::Printed,
        }
    }

    /// Whether a line belongs to a unified diff that a command prints, and updates the counts.
    fn is_in_diff(&mut self, line: &[u8]) -> bool {
        if let Some(counts) = diff_counts(line) {
            self.diff = counts;
            return true;
        }
        let (old, new) = self.diff;
        let left = match line.first() {
            Some(b' ') | None => old.checked_sub(1).zip(new.checked_sub(1)),
            Some(b'-') => old.checked_sub(1).map(|old| (old, new)),
            Some(b'+') => new.checked_sub(1).map(|new| (old, new)),
            // `\ No newline at end of file`.
            Some(b'\\') if self.diff != (0, 0) => Some(self.diff),
            _ => None,
        };
        self.diff = left.unwrap_or_default();
        left.is_some()
    }
}

/// Whether a line alone, without the lines before it, looks like a traced command.
#[must_use]
pub(crate) fn is_traced(line: &[u8]) -> bool {
    traced(line).is_some()
}

/// The command in a traced line. Bash prints one space before the command.
pub(super) fn traced(line: &[u8]) -> Option<&[u8]> {
    let depth = line.iter().take_while(|byte| **byte == b'+').count();
    let command = line[depth..].strip_prefix(b" ").filter(|_| depth > 0)?;
    let is_command = command.first().is_some_and(|it| !it.is_ascii_whitespace());
    is_command.then_some(command)
}

/// What is missing to end a command after its first line.
fn end_of_first(command: &[u8]) -> Option<Open> {
    for (start, end) in [(b"[[ ", b" ]]".as_slice()), (b"(( ", b" ))")] {
        if command.starts_with(start) {
            return end_of(Open::Bracket(end), command);
        }
    }
    scan(None, command)
}

fn end_of(open: Open, line: &[u8]) -> Option<Open> {
    match open {
        Open::Bracket(end) => (!line.trim_ascii_end().ends_with(end)).then_some(open),
        Open::Backslash => scan(None, line),
        Open::Single | Open::Escaped | Open::Double => scan(Some(open), line),
    }
}

/// Reads the quotes in a line. `open` is the quote that is open at the start of the line.
fn scan(mut open: Option<Open>, line: &[u8]) -> Option<Open> {
    let mut bytes = line.iter().copied();
    let mut before = b' ';
    while let Some(byte) = bytes.next() {
        if byte == b'\\' && open != Some(Open::Single) {
            if bytes.next().is_none() {
                return Some(open.unwrap_or(Open::Backslash));
            }
            before = byte;
            continue;
        }
        match (open, byte) {
            (None, b'\'') if before == b'$' => open = Some(Open::Escaped),
            // Bash starts a quote only at the start of a word or after an operator. So this is an
            // apostrophe in a line that only looks like a traced command, and the next line is not
            // its continuation.
            (None, b'\'') if before.is_ascii_alphanumeric() => return None,
            (None, b'\'') => open = Some(Open::Single),
            (None, b'"') => open = Some(Open::Double),
            (Some(Open::Single | Open::Escaped), b'\'') | (Some(Open::Double), b'"') => open = None,
            _ => {}
        }
        before = byte;
    }
    open
}

/// The numbers of lines in the header of a hunk of a unified diff, such as `@@ -1,7 +1,8 @@`.
fn diff_counts(line: &[u8]) -> Option<(usize, usize)> {
    let line = line.strip_prefix(b"@@ -")?;
    let end = line.windows(3).position(|it| it == b" @@")?;
    let ranges = str::from_utf8(&line[..end]).ok()?;
    let (old, new) = ranges.split_once(" +")?;
    let count = |range: &str| match range.split_once(',') {
        Some((_, count)) => count.parse().ok(),
        None => range.parse::<usize>().ok().map(|_| 1),
    };
    count(old).zip(count(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that are printed, not traced.
    fn printed(text: &str) -> Vec<&str> {
        let mut trace = Trace::default();
        text.lines()
            .filter(|line| trace.read(line.as_bytes(), false) == LineKind::Printed)
            .collect()
    }

    /// Real output of bash 5.2.
    #[test]
    fn traced_commands_of_several_lines_are_recognized() {
        let text = "+ x='a\nb'\n++ echo 'q\nr'\n+ echo 'a\nb' 'it'\\''s\nc' q r\na\nb it's\nc q r\n\
                    + for i in 1\n+ [[ a\nb == \\a\\\n\\b ]]\n+ y=(\"a b\" \"c\nd\")\n+ case $x in\n+ printf %s ''\n+ cat\nend\n\
                    + printf $'a\\tit\\'s'\nlast\n+ (( 1\n+ 2 ))\n+++ : it\\'s\nvery last";
        assert_eq!(
            printed(text),
            ["a", "b it's", "c q r", "end", "last", "very last"]
        );
    }

    #[test]
    fn lines_that_only_resemble_a_trace_are_printed() {
        for line in [
            "+",
            "+ ",
            "+x",
            "+    indented",
            "+\tx",
            " + x",
            "C++ x",
            "",
        ] {
            assert_eq!(printed(&format!("{line}\n")), [line]);
        }
    }

    /// Real output of `git diff`.
    #[test]
    fn added_lines_of_a_diff_are_printed() {
        let diff = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,3 +1,4 @@ fn\n one\n-two\n+ 2\n+ 3\n three\n";
        let text = format!("+ git diff --exit-code\n{diff}+ exit 1\n");
        // The line `+++ b/x` is mistaken for a traced command, whose depth has three levels.
        let shown: Vec<&str> = diff.lines().filter(|it| !it.starts_with("+++")).collect();
        assert_eq!(printed(&text), shown);
        assert_eq!(
            printed("@@ -1 +1 @@\n-a\n+ b\n+ c\n"),
            ["@@ -1 +1 @@", "-a", "+ b"]
        );
        assert_eq!(
            printed("@@ -9,2 +9,2 @@ eine Funktion f\u{fc}r \u{e4}ltere\n-a\n\\ No newline\n+ b\n c\n+ d\n").len(),
            5
        );
    }

    #[test]
    fn apostrophe_does_not_hide_the_next_line() {
        assert_eq!(
            printed("+ left-pad isn't maintained\nerror: no\n"),
            ["error: no"]
        );
    }

    #[test]
    fn open_quote_does_not_hide_everything() {
        let text = format!("+ echo 'open\n{}+ false\nshown\n", "x\n".repeat(150));
        assert_eq!(printed(&text).len(), 51);
        let mut trace = Trace::default();
        assert_eq!(trace.read(b"+ echo 'cut", true), LineKind::Command);
        assert_eq!(trace.read(b"shown", false), LineKind::Printed);
    }
}
