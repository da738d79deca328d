//! Lines in a script's output that say that the system denied it something, and the paths that such lines name. Pure.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::sandbox::Closed;

/// How many denials of each kind are kept of one run.
const KEPT: usize = 50;

/// How many different lines are looked at closely, as each may take a look at the disk.
const EXAMINED: usize = 10_000;

/// How much of a line is kept, in characters.
const LINE_LIMIT: usize = 300;

/// What the system answers, without the first letter: C programs write it as a capital, Go and Node do not. The flag tells
/// whether Landlock's rules on files are answered so.
const ANSWERS: [(&str, bool); 4] = [
    ("ermission denied", true),
    ("nvalid cross-device link", true),
    ("peration not permitted", false),
    ("ead-only file system", false),
];

/// A line of a script's output that reads as a denial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The line, shortened, without control characters.
    pub line: String,
    /// The paths in it that rules close to the script, and how.
    pub closed: Vec<(PathBuf, Closed)>,
    /// Whether it may be about something closed although it names no absolute path.
    pub is_unclear: bool,
}

impl Denial {
    /// Whether the rules can have caused it: it names a path that they close, or it is worded as their answers are and names
    /// no absolute path at all.
    #[must_use]
    pub fn may_be_for_rules(&self) -> bool {
        !self.closed.is_empty() || self.is_unclear
    }
}

/// Collects the denials of one run from blocks of whole lines.
pub(super) struct Search<'a> {
    /// How the rules close a path.
    closed: &'a dyn Fn(&Path) -> Option<Closed>,
    seen: HashSet<String>,
    for_rules: Vec<Denial>,
    others: Vec<Denial>,
}

impl<'a> Search<'a> {
    pub(super) fn new(closed: &'a dyn Fn(&Path) -> Option<Closed>) -> Self {
        Self {
            closed,
            seen: HashSet::new(),
            for_rules: Vec::new(),
            others: Vec::new(),
        }
    }

    pub(super) fn read(&mut self, block: &str) {
        // Most blocks have none, and logs are long.
        if !ANSWERS.iter().any(|(answer, _)| block.contains(answer)) {
            return;
        }
        for line in block.lines().filter(|line| !is_trace(line)) {
            let Some((_, is_of_rules)) = ANSWERS.iter().find(|(answer, _)| line.contains(answer))
            else {
                continue;
            };
            let line = shortened(line);
            if self.seen.len() < EXAMINED && self.seen.insert(line.clone()) {
                self.keep(line, *is_of_rules);
            }
        }
    }

    fn keep(&mut self, line: String, is_of_rules: bool) {
        let paths = absolute_paths(&line);
        let is_unclear = is_of_rules && paths.is_empty();
        let closed = paths
            .into_iter()
            .filter_map(|path| Some((PathBuf::from(path), (self.closed)(Path::new(path))?)))
            .collect();
        let denial = Denial {
            line,
            closed,
            is_unclear,
        };
        let kept = match denial.may_be_for_rules() {
            true => &mut self.for_rules,
            false => &mut self.others,
        };
        if kept.len() < KEPT {
            kept.push(denial);
        }
    }

    /// The denials in the order of the output, those first that the rules can have caused.
    pub(super) fn into_denials(self) -> Vec<Denial> {
        let mut all = self.for_rules;
        all.extend(self.others);
        all
    }
}

/// Whether a line is bash's trace of a command: it shows what the script says, not what became of it.
pub(super) fn is_trace(line: &str) -> bool {
    let after = line.trim_start_matches('+');
    after.len() < line.len() && after.starts_with(' ')
}

fn shortened(line: &str) -> String {
    let shown = line
        .trim()
        .chars()
        .filter(|character| !character.is_control());
    shown.take(LINE_LIMIT).collect()
}

/// The absolute paths that a line names. Paths within options (`-L/a`, `--with-x=/a`) and assignments (`PATH=/a:/b`) are left
/// out: a line that has them shows a command.
pub(super) fn absolute_paths(line: &str) -> Vec<&str> {
    let mut paths = Vec::new();
    let mut from = 0;
    while let Some(at) = line[from..].find('/').map(|at| from + at) {
        let before = line[..at].chars().next_back();
        let begins = before
            .is_none_or(|it| it.is_whitespace() || QUOTES.contains(it) || "([{<:".contains(it));
        let end = end_of_path(line, at, before);
        // `https://`
        let is_address = before == Some(':') && line[at..].starts_with("//");
        if begins && !is_address && !is_in_command(line, at) {
            let path = line[at..end].trim_end_matches(['.', ',']);
            if path.len() > 1 {
                paths.push(path);
            }
        }
        from = end.max(at + 1);
    }
    paths
}

/// The quotes around paths in messages, opening and closing.
const QUOTES: &str = "'\"`‘’“”";

fn end_of_path(line: &str, at: usize, before: Option<char>) -> usize {
    let closing = match before {
        Some('\'' | '`') => Some('\''),
        Some('‘') => Some('’'),
        Some('"') => Some('"'),
        Some('“') => Some('”'),
        _ => None,
    };
    if let Some(end) = closing.and_then(|quote| line[at..].find(quote)) {
        return at + end;
    }
    let ends = |it: char| it.is_whitespace() || QUOTES.contains(it) || ")]}>,;:|".contains(it);
    line[at..].find(ends).map_or(line.len(), |end| at + end)
}

fn is_in_command(line: &str, at: usize) -> bool {
    let start = line[..at]
        .rfind(char::is_whitespace)
        .map_or(0, |space| space + 1);
    let word = line[start.min(at)..at].trim_start();
    let word = word.trim_start_matches(|it| QUOTES.contains(it) || "([{<".contains(it));
    word.starts_with('-') || word.contains('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(text: &str) -> Vec<Denial> {
        let closed = |path: &Path| path.starts_with("/closed").then_some(Closed::Guarded);
        let mut search = Search::new(&closed);
        search.read(text);
        search.into_denials()
    }

    #[test]
    fn paths_are_read_from_the_messages_of_common_tools() {
        for (line, expected) in [
            (
                "mkdir: cannot create directory ‘/a/b c’: Permission denied",
                &["/a/b c"][..],
            ),
            ("touch: cannot touch '/a/b': Permission denied", &["/a/b"]),
            (
                "ln: failed to create hard link '/a' => '/b': Invalid cross-device link",
                &["/a", "/b"],
            ),
            ("packaging: line 7: /a/b: Permission denied", &["/a/b"]),
            ("mkdir /a/go: permission denied", &["/a/go"]),
            (
                "PermissionError: [Errno 13] Permission denied: '/a'",
                &["/a"],
            ),
            (
                "java.io.FileNotFoundException: /a/b (Permission denied)",
                &["/a/b"],
            ),
            ("Error: EACCES: permission denied, open '/a'", &["/a"]),
            (
                "Permission denied @ rb_sysopen - /a/b (Errno::EACCES)",
                &["/a/b"],
            ),
            ("cp: `/a/b' is denied.", &["/a/b"]),
            ("cannot write to /a/b.", &["/a/b"]),
            (
                "cc -L/a/lib -I'/a/x' --with=/a/y P=/a/z:/a/w https://a/b ./a ../b",
                &[],
            ),
            (
                "libtool: cannot find the library or unhandled argument '-L/a/lib'",
                &[],
            ),
            ("/", &[]),
        ] {
            assert_eq!(absolute_paths(line), expected, "{line}");
        }
    }

    #[test]
    fn denials_are_found_in_either_case_and_once_each() {
        let found = search(
            "+ echo 'Permission denied'\n++ test Read-only file system\nmkdir /closed/a: permission denied\n\
             cat: /open: Permission denied\nmkdir /closed/a: permission denied\r\nmv: x: Invalid cross-device link\n\
             chown: x: Operation not permitted\nfine\n",
        );
        let lines: Vec<(&str, bool)> = found
            .iter()
            .map(|denial| (denial.line.as_str(), denial.may_be_for_rules()))
            .collect();
        assert_eq!(
            lines,
            [
                ("mkdir /closed/a: permission denied", true),
                ("mv: x: Invalid cross-device link", true),
                ("cat: /open: Permission denied", false),
                ("chown: x: Operation not permitted", false),
            ]
        );
        assert_eq!(
            found[0].closed,
            [(PathBuf::from("/closed/a"), Closed::Guarded)]
        );
    }

    #[test]
    fn many_denials_of_open_paths_hide_none_of_a_closed_one() {
        let mut text: String = (0..200)
            .map(|number| format!("find: '/open/{number}': Permission denied\n"))
            .collect();
        text.push_str("touch: cannot touch '/closed/x': Permission denied\n");
        let found = search(&text);
        assert_eq!(found.len(), KEPT + 1);
        assert!(found[0].may_be_for_rules());
    }
}
