//! Draws the bars: lines at the bottom of a terminal that are drawn repeatedly, one for each running package, and a summary.

use std::time::Duration;

use std::fmt::Write as _;

/// The characters of a moving bar.
const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// How long each character of the bar is shown.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);

/// The character of a bar after `elapsed`.
pub(super) fn spinner(elapsed: Duration) -> char {
    let step = elapsed.as_millis() / INTERVAL.as_millis();
    SPINNER[(step % SPINNER.len() as u128) as usize]
}

/// The last line, with the number of compiled, running and waiting packages, and the time.
pub(super) fn bottom_line(
    (done, total): (usize, usize),
    (running, waiting): (usize, usize),
    elapsed: Duration,
) -> String {
    let waiting = match waiting {
        0 => String::new(),
        waiting => format!(", {waiting} waiting"),
    };
    format!(
        "{done} of {total} · {running} running{waiting} · {}",
        clock(elapsed)
    )
}

/// A duration as a clock shows it: `0:07`, `1:02:03`.
pub(super) fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        hours => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// The text that removes `shown` lines from a terminal. It moves the cursor from the last line to the place of the first.
pub(super) fn clear(shown: usize) -> String {
    match shown {
        0 => String::new(),
        shown => format!("{}\u{1b}[J", to_first(shown)),
    }
}

/// The text that replaces the `shown` lines of a terminal by `lines`. It leaves the cursor at the start of the last line, so that later
/// text overwrites the `^C` of a terminal.
pub(super) fn draw(shown: usize, lines: &[String], columns: usize) -> String {
    if lines.is_empty() {
        return clear(shown);
    }
    let mut text = to_first(shown);
    // Turn off wrapping, so that the terminal cuts lines with wide characters at the margin.
    text.push_str("\u{1b}[?7l");
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        let _ = write!(text, "{}\u{1b}[K", fitting(line, columns));
    }
    if lines.len() < shown {
        // Clear from the next line to the end of the screen.
        text.push_str("\n\u{1b}[J\u{1b}[A");
    }
    text.push_str("\u{1b}[?7h\r");
    text
}

/// Moves the cursor from the last of `shown` lines to the start of the first.
fn to_first(shown: usize) -> String {
    match shown {
        0 | 1 => "\r".to_owned(),
        more => format!("\r\u{1b}[{}A", more - 1),
    }
}

/// The start of a line that fits into a terminal, without control characters.
fn fitting(line: &str, columns: usize) -> String {
    let mut fitting = String::new();
    let mut characters = line.chars();
    let mut length = 0;
    while let Some(character) = characters.next() {
        if length + 1 >= columns {
            break;
        }
        match character {
            '\u{1b}' => skip_sequence(&mut characters),
            control if control.is_control() => {
                fitting.push(' ');
                length += 1;
            }
            visible => {
                fitting.push(visible);
                length += 1;
            }
        }
    }
    fitting
}

/// Skips the rest of a control sequence, such as a color of a compiler.
fn skip_sequence(characters: &mut std::str::Chars<'_>) {
    if characters.next() == Some('[') {
        characters.find(|it| matches!(it, '@'..='~'));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bottom_line_counts_packages_and_time() {
        for (seconds, clock) in [(0, "0:00"), (14, "0:14"), (754, "12:34"), (3723, "1:02:03")] {
            assert_eq!(
                bottom_line((5, 11), (2, 0), Duration::from_secs(seconds)),
                format!("5 of 11 · 2 running · {clock}")
            );
        }
        assert_eq!(
            bottom_line((5, 11), (1, 3), Duration::ZERO),
            "5 of 11 · 1 running, 3 waiting · 0:00"
        );
    }

    #[test]
    fn lines_fit_without_control_characters() {
        assert_eq!(fitting("gcc\t-c a.c", 80), "gcc -c a.c");
        assert_eq!(fitting("\u{1b}[1;31merror\u{1b}[0m: x\r", 80), "error: x ");
        assert_eq!(fitting("0123456789", 5), "0123");
        assert_eq!(fitting("anything", 0), "");
    }

    #[test]
    fn new_lines_replace_those_that_are_shown() {
        let lines = ["a".to_owned(), "b".to_owned()];
        assert_eq!(
            draw(0, &lines, 80),
            "\r\u{1b}[?7la\u{1b}[K\nb\u{1b}[K\u{1b}[?7h\r"
        );
        assert!(draw(2, &lines, 80).starts_with("\r\u{1b}[1A\u{1b}[?7la"));
        assert!(draw(3, &lines, 80).contains("b\u{1b}[K\n\u{1b}[J\u{1b}[A"));
        assert_eq!(draw(3, &[], 80), "\r\u{1b}[2A\u{1b}[J");
        assert_eq!(clear(0), "");
    }
}
