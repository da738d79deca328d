//! Formats errors, sizes and times for people, and finds the intended name for a misspelled one.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Write as _};

/// An error with its sources, joined by colons: `failed to write `/out/a.tgz`: No space left on
/// device`.
///
/// Errors of this crate do not include their source in their own text, so printing one without
/// `Chain` loses the cause.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// The maximum length of a text from another machine, in characters.
const LONGEST_FOREIGN: usize = 1000;

/// Prepares a text from another machine for a terminal: escapes control characters and limits the
/// length.
pub(crate) fn printable(text: &dyn fmt::Display) -> String {
    printable_up_to(LONGEST_FOREIGN, text)
}

/// Like [`printable`], with another limit in characters.
pub(crate) fn printable_up_to(limit: usize, text: &dyn fmt::Display) -> String {
    let text = text.to_string();
    let mut characters = text.chars();
    let mut shown = String::new();
    for character in characters.by_ref().take(limit) {
        match is_control(character) {
            true => shown.extend(character.escape_debug()),
            false => shown.push(character),
        }
    }
    if characters.next().is_some() {
        shown.push_str("...");
    }
    shown
}

/// Escapes control characters in lines for a terminal. The lines may contain a path that a script
/// has chosen.
pub(crate) fn printable_lines(text: &str) -> Cow<'_, str> {
    let is_shown = |character| matches!(character, '\n' | '\t') || !is_control(character);
    if text.chars().all(is_shown) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match is_shown(character) {
            true => shown.push(character),
            false => shown.extend(character.escape_debug()),
        }
    }
    Cow::Owned(shown)
}

/// Whether a character controls a terminal or changes the order in which a line is displayed.
pub(crate) fn is_control(character: char) -> bool {
    let is_direction = matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    character.is_control() || is_direction
}

/// Escapes all control characters in the strings of a JSON text for a terminal. The values stay the
/// same. JSON itself requires this only for the characters below U+0020.
pub(crate) fn printable_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        match is_control(character) && character != '\n' {
            true => {
                let _ = write!(shown, "\\u{:04x}", u32::from(character));
            }
            false => shown.push(character),
        }
    }
    shown
}

/// A number of bytes with a binary unit: `512 B`, `1.5 GiB`.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut unit = 0;
        let mut scaled = self.0 as f64;
        while scaled >= 1024.0 && unit + 1 < UNITS.len() {
            scaled /= 1024.0;
            unit += 1;
        }
        if unit == 0 {
            write!(f, "{} B", self.0)
        } else {
            write!(f, "{scaled:.1} {}", UNITS[unit])
        }
    }
}

/// A duration: `3.2s`, `2m05s`, `1h02m`.
#[derive(Debug, Clone, Copy)]
pub struct Elapsed(pub std::time::Duration);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Round first: 59.96 seconds are displayed as a minute.
        let seconds = self
            .0
            .saturating_add(std::time::Duration::from_millis(50))
            .as_secs();
        if seconds < 60 {
            write!(f, "{:.1}s", self.0.as_secs_f64())
        } else if seconds < 3600 {
            write!(f, "{}m{:02}s", seconds / 60, seconds % 60)
        } else {
            write!(f, "{}h{:02}m", seconds / 3600, seconds % 3600 / 60)
        }
    }
}

/// A table with one line per row and two spaces between columns. The columns in `right` are
/// right-aligned.
pub(crate) fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]], right: &[usize]) -> String {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(widths).enumerate();
        // Pad without `format!`, which panics if the width exceeds `u16::MAX`.
        let cells = cells.map(|(column, (cell, width))| {
            let padding = width - cell.chars().count();
            match right.contains(&column) {
                true => " ".repeat(padding) + cell,
                false if column + 1 == COLUMNS => cell.clone(),
                false => cell.clone() + &" ".repeat(padding),
            }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        line.trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// The candidate of which `name` is probably a misspelling. At most a third of the letters may
/// differ.
pub fn most_similar<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let distances = candidates.into_iter().map(|candidate| {
        let distance = strsim::damerau_levenshtein(&lower, &candidate.to_lowercase());
        (distance, candidate)
    });
    let limit = lower.chars().count().div_ceil(3);
    distances
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::fs::Context as _;

    #[test]
    fn chain_has_every_source_once() {
        let error = Err::<(), _>(io::Error::from_raw_os_error(28))
            .at("write", Path::new("/out/a.tgz"))
            .unwrap_err();
        assert_eq!(
            Chain(&error).to_string(),
            "failed to write `/out/a.tgz`: No space left on device (os error 28)"
        );
        assert!(crate::fs::is_no_space_behind(&error));
    }

    #[test]
    fn misspelled_name_has_a_most_similar_candidate() {
        let commands = ["compile", "help"];
        for (name, expected) in [
            ("compiel", Some("compile")),
            ("Compile", Some("compile")),
            ("hlep", Some("help")),
            ("x", None),
            ("install", None),
        ] {
            assert_eq!(most_similar(name, commands), expected, "{name}");
        }
    }

    #[test]
    fn sizes_and_times_have_suitable_units() {
        assert_eq!(Bytes(512).to_string(), "512 B");
        assert_eq!(Bytes(3 << 29).to_string(), "1.5 GiB");
        assert_eq!(Elapsed(Duration::from_millis(3210)).to_string(), "3.2s");
        assert_eq!(Elapsed(Duration::from_millis(59_960)).to_string(), "1m00s");
        assert_eq!(Elapsed(Duration::from_secs(125)).to_string(), "2m05s");
        assert_eq!(Elapsed(Duration::from_secs(3725)).to_string(), "1h02m");
    }

    #[test]
    fn cells_of_a_table_may_be_long() {
        let long = "n".repeat(70_000);
        let rows = [
            [long.as_str(), "1", long.as_str()],
            ["é", "20", "b"],
            ["", "3", ""],
        ];
        let text = table(&rows.map(|row| row.map(str::to_owned)), &[1]);
        let pad = |count| " ".repeat(count);
        let second = format!("é{}  20  b", pad(69_999));
        let third = format!("{}   3", pad(70_000));
        assert!(text == format!("{long}   1  {long}\n{second}\n{third}\n"));
    }

    #[test]
    fn lines_keep_only_their_ends() {
        let text = "`a\u{1b}]0;x\u{7}\r`:\n\té\u{202e}\n";
        let shown = "`a\\u{1b}]0;x\\u{7}\\r`:\n\té\\u{202e}\n";
        assert_eq!(printable_lines(text), shown);
        assert!(matches!(printable_lines("é\n"), Cow::Borrowed("é\n")));
    }

    #[test]
    fn foreign_text_cannot_control_a_terminal() {
        let text = "a\u{1b}[2J\r\u{9b}\u{202e}\"é";
        assert_eq!(printable(&text), "a\\u{1b}[2J\\r\\u{9b}\\u{202e}\"é");
        let long = printable(&"é".repeat(LONGEST_FOREIGN + 1));
        assert_eq!(long.chars().count(), LONGEST_FOREIGN + 3);
        assert!(long.ends_with("é..."));
        let value = vec!["a\u{1b}\u{7f}\u{9b}\u{2066}é"];
        let json = printable_json(&serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(json, "[\n  \"a\\u001b\\u007f\\u009b\\u2066é\"\n]");
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), value);
    }
}
