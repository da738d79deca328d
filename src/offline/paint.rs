//! Formats messages for a terminal, with colors and short fingerprints.

use std::borrow::Cow;
use std::fmt::Write;

use anstyle::{AnsiColor, Style};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();
const SUCCESS: Style = AnsiColor::Green.on_default().bold();

/// How many digits of a fingerprint or digest a terminal shows.
const SHOWN: usize = 8;

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A step of a run that goes well.
    Step,
    /// A result of a run that goes well.
    Success,
    /// A warning, or a message about a failure that `--quiet` must not hide.
    Notice,
    /// The first lines about a failure. The report follows at the end of the run.
    Failure,
}

impl Kind {
    /// Whether `--quiet` leaves the message out.
    pub(super) fn is_progress(self) -> bool {
        matches!(self, Self::Step | Self::Success)
    }
}

/// How stderr shows messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Paint {
    /// Whether messages have colors.
    pub has_colors: bool,
}

impl Paint {
    /// The text with colored labels: `Error:`, `Warning:`, `Hint:` at the start of a line.
    #[must_use]
    pub fn labels(self, text: &str) -> Cow<'_, str> {
        self.message(Kind::Notice, text)
    }

    /// The text of a message with colors.
    pub(super) fn message(self, kind: Kind, text: &str) -> Cow<'_, str> {
        if !self.has_colors {
            return Cow::Borrowed(text);
        }
        let mut painted = String::with_capacity(text.len() + 16);
        for line in text.split_inclusive('\n') {
            let (length, style) = start(kind, line);
            let (label, rest) = line.split_at(length);
            if label.is_empty() {
                painted.push_str(line);
            } else {
                let _ = write!(painted, "{style}{label}{style:#}{rest}");
            }
        }
        Cow::Owned(painted)
    }
}

/// The length and the style of the colored start of a line.
fn start(kind: Kind, line: &str) -> (usize, Style) {
    for (label, style) in [
        ("Error:", ERROR),
        ("Warning:", WARNING),
        ("Hint:", HINT),
        ("Usage:", SUCCESS),
    ] {
        if line.starts_with(label) {
            return (label.len(), style);
        }
    }
    match kind {
        Kind::Success => (line.find([' ', '\n']).unwrap_or(line.len()), SUCCESS),
        Kind::Failure => (line.find(": ").map_or(0, |colon| colon + 1), ERROR),
        Kind::Step | Kind::Notice => (0, Style::new()),
    }
}

/// The text with short fingerprints and digests after the names of packages and for blobs. Other digests, such as those in paths and in
/// errors about digests, are not changed.
pub(super) fn with_short_digests(text: &str) -> Cow<'_, str> {
    if !text.contains('/') && !text.contains('=') {
        return Cow::Borrowed(text);
    }
    let mut short = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        // This line is output of a script, which is not changed.
        if line.starts_with("  | ") {
            short.push_str(line);
            continue;
        }
        for word in line.split_inclusive(' ') {
            match shortened(word) {
                Some((kept, rest)) => {
                    short.push_str(kept);
                    short.push_str(rest);
                }
                None => short.push_str(word),
            }
        }
    }
    Cow::Owned(short)
}

/// If a word contains a digest to be shortened, the parts before and after the omitted digits.
fn shortened(word: &str) -> Option<(&str, &str)> {
    let at = match word.strip_prefix("BlobstoreID=") {
        Some(_) => word.find('=')? + 1,
        None => word.find('/').filter(|slash| is_name(&word[..*slash]))? + 1,
    };
    let digest = &word[at..];
    let at = at
        + digest
            .strip_prefix("sha256:")
            .map_or(0, |_| "sha256:".len());
    let digits = word[at..].bytes().take_while(u8::is_ascii_hexdigit).count();
    let rest = &word[at + digits..];
    let is_end = |rest: &str| {
        let punctuation = [':', ',', ';', ')', '`', '.', ' ', '\n'];
        rest.trim_end_matches(punctuation).is_empty()
    };
    (matches!(digits, 40 | 64) && is_end(rest)).then(|| (&word[..at + SHOWN], rest))
}

/// Whether a package or release may have this name, in contrast to a directory of a relative path.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().any(|byte| byte != b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA1: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn fingerprints_and_blobs_are_shortened() {
        let sha256 = format!("{SHA1}89abcdef0123456789abcdef");
        for (text, expected) in [
            (
                format!("Compiling package app/{SHA1} (1 of 4)\n"),
                "Compiling package app/01234567 (1 of 4)\n",
            ),
            (
                format!(
                    "Finished compiling release app/{sha256} BlobstoreID=sha256:{sha256} after 1s"
                ),
                "Finished compiling release app/01234567 BlobstoreID=sha256:01234567 after 1s",
            ),
            (format!("package app/{SHA1}: x"), "package app/01234567: x"),
            (format!("BlobstoreID={SHA1}"), "BlobstoreID=01234567"),
        ] {
            assert_eq!(with_short_digests(&text), expected);
        }
    }

    #[test]
    fn paths_and_other_digests_stay_whole() {
        for text in [
            format!("in /tmp/{SHA1}"),
            format!("out/app/{SHA1}"),
            format!("app/{SHA1}.tgz"),
            format!("app/{SHA1}0"),
            format!("expected {SHA1}, got sha256:{SHA1}89abcdef0123456789abcdef"),
            "app/1.2 and no digest".to_owned(),
        ] {
            assert_eq!(with_short_digests(&text), text);
        }
    }

    #[test]
    fn labels_are_colored_only_on_request() {
        let text = "Error: it failed\nHint: fix it\nsome Error: more";
        assert_eq!(Paint::default().labels(text), text);
        assert_eq!(
            Paint { has_colors: true }.labels(text),
            "\u{1b}[1m\u{1b}[31mError:\u{1b}[0m it failed\n\u{1b}[1m\u{1b}[36mHint:\u{1b}[0m fix it\nsome Error: more"
        );
    }

    #[test]
    fn message_is_colored_by_its_kind() {
        let paint = Paint { has_colors: true };
        let of = |kind| paint.message(kind, "Package app failed: why").into_owned();
        assert_eq!(of(Kind::Step), "Package app failed: why");
        assert!(of(Kind::Failure).ends_with("Package app failed:\u{1b}[0m why"));
        assert!(of(Kind::Success).ends_with("Package\u{1b}[0m app failed: why"));
    }
}
