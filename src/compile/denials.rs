//! Finds lines in a script's output that report denied access (*denials*), and the paths in these lines. A path is *closed* if Landlock
//! rules deny the script some access to it. No I/O.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use crate::process;
use crate::sandbox::Closed;

/// How many denials of each kind are kept for one run.
const MAX_DENIALS: usize = 50;

/// How many different lines are examined. The limit exists because looking up their paths may need many file system calls.
const MAX_EXAMINED: usize = 10_000;

/// The length to which lines are shortened, in characters.
const LINE_LIMIT: usize = 300;

/// Texts of system errors, without the first letter, because C programs capitalize it and Go and Node do not. The flag is `true` for errors
/// that Landlock rules can cause.
const ERROR_TEXTS: [(&str, bool); 4] = [
    ("ermission denied", true),
    ("nvalid cross-device link", true),
    ("peration not permitted", false),
    ("ead-only file system", false),
];

/// A line of a script's output that reports denied access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The line, shortened, without control characters.
    pub line: String,
    /// The closed paths in the line, and how the rules close each.
    pub closed: Vec<(PathBuf, Closed)>,
    /// Whether the rules may be the cause although the line contains no absolute path, or only paths that could not be looked up.
    pub is_unclear: bool,
}

impl Denial {
    /// Whether the rules may have caused the denial: the line contains a closed path, or [`is_unclear`](Self::is_unclear) is set.
    #[must_use]
    pub fn may_be_caused_by_rules(&self) -> bool {
        !self.closed.is_empty() || self.is_unclear
    }
}

/// The result of looking up the paths of denials.
#[derive(Debug, Default)]
pub(super) struct ClosedPaths {
    pub(super) closed: HashMap<PathBuf, Closed>,
    /// Paths that could not be looked up, because a file system does not respond.
    pub(super) unknown: HashSet<PathBuf>,
}

/// Collects the denials of one run of a script. The output arrives in blocks of whole lines.
#[derive(Debug, Default)]
pub(super) struct Search {
    seen: HashSet<String>,
    found: Vec<Found>,
}

/// A line that reports denied access.
#[derive(Debug)]
struct Found {
    line: String,
    paths: Vec<PathBuf>,
    is_landlock_error: bool,
}

impl Search {
    pub(super) fn read(&mut self, block: &str) {
        // Logs are long, and most blocks contain no denial: skip these blocks quickly.
        if !ERROR_TEXTS.iter().any(|(text, _)| block.contains(text)) {
            return;
        }
        for line in block.lines().filter(|line| !is_trace(line)) {
            let Some((_, is_landlock_error)) =
                ERROR_TEXTS.iter().find(|(text, _)| line.contains(text))
            else {
                continue;
            };
            let line = shortened(line);
            if self.seen.len() < MAX_EXAMINED && self.seen.insert(line.clone()) {
                let paths = absolute_paths(&line).into_iter().map(PathBuf::from);
                self.found.push(Found {
                    paths: paths.collect(),
                    line,
                    is_landlock_error: *is_landlock_error,
                });
            }
        }
    }

    /// The denials that the rules may have caused, then the other ones, both in the order of the output. `look_up` returns which of the
    /// given paths are closed. It is called at most once, with all paths of the denials.
    pub(super) fn into_denials(
        self,
        look_up: impl FnOnce(Vec<PathBuf>) -> ClosedPaths,
    ) -> Vec<Denial> {
        let mut known = HashSet::new();
        let paths = self.found.iter().flat_map(|found| &found.paths);
        let paths: Vec<PathBuf> = paths.filter(|path| known.insert(*path)).cloned().collect();
        let lookup = match paths.is_empty() {
            true => ClosedPaths::default(),
            false => look_up(paths),
        };
        let denials = self.found.into_iter().map(|found| found.denial(&lookup));
        let (mut by_rules, mut others): (Vec<Denial>, Vec<Denial>) =
            denials.partition(Denial::may_be_caused_by_rules);
        by_rules.truncate(MAX_DENIALS);
        others.truncate(MAX_DENIALS);
        by_rules.extend(others);
        by_rules
    }
}

impl Found {
    fn denial(self, lookup: &ClosedPaths) -> Denial {
        let is_unknown = self.paths.iter().all(|path| lookup.unknown.contains(path));
        let closed = self.paths.into_iter().filter_map(|path| {
            let closed = *lookup.closed.get(&path)?;
            Some((path, closed))
        });
        Denial {
            line: self.line,
            closed: closed.collect(),
            is_unclear: self.is_landlock_error && is_unknown,
        }
    }
}

/// Whether bash printed the line to show a command before running it (`set -x`).
pub(super) fn is_trace(line: &str) -> bool {
    process::is_traced(line.as_bytes())
}

fn shortened(line: &str) -> String {
    let shown = line
        .trim()
        .chars()
        .filter(|character| !character.is_control());
    shown.take(LINE_LIMIT).collect()
}

/// The absolute paths in a line. Leaves out paths in options (`-L/a`, `--with-x=/a`) and assignments (`PATH=/a:/b`), because these are
/// parts of a command and not of an error message.
pub(super) fn absolute_paths(line: &str) -> Vec<&str> {
    let mut paths = Vec::new();
    let mut from = 0;
    while let Some(at) = line[from..].find('/').map(|at| from + at) {
        let before = line[..at].chars().next_back();
        let begins = before
            .is_none_or(|it| it.is_whitespace() || QUOTES.contains(it) || "([{<:".contains(it));
        let end = end_of_path(line, at, before);
        // The `//` in `https://host` does not begin a path.
        let is_url = before == Some(':') && line[at..].starts_with("//");
        if begins && !is_url && !is_in_command(line, at) {
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

/// Whether the word up to `at` is the beginning of an option or of an assignment.
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
        let mut search = Search::default();
        search.read(text);
        search.into_denials(|paths| {
            let (unknown, known): (HashSet<PathBuf>, Vec<PathBuf>) = (
                paths
                    .iter()
                    .filter(|path| path.starts_with("/hanging"))
                    .cloned()
                    .collect(),
                paths,
            );
            let closed = known.into_iter();
            let closed = closed.filter(|path| path.starts_with("/closed"));
            ClosedPaths {
                closed: closed.map(|path| (path, Closed::Guarded)).collect(),
                unknown,
            }
        })
    }

    #[test]
    fn line_with_a_path_that_does_not_respond_is_unclear() {
        let found = search("touch: cannot touch '/hanging/x': Permission denied\n");
        assert!(found[0].is_unclear && found[0].closed.is_empty());
        let found = search("cp: cannot copy '/hanging/x' to '/closed/x': Permission denied\n");
        assert!(!found[0].is_unclear && found[0].closed.len() == 1);
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
    fn each_denial_is_found_once_in_upper_or_lower_case() {
        let found = search(
            "+ echo 'Permission denied'\n++ test Read-only file system\nmkdir /closed/a: permission denied\n\
             cat: /open: Permission denied\nmkdir /closed/a: permission denied\r\nmv: x: Invalid cross-device link\n\
             chown: x: Operation not permitted\nfine\n",
        );
        let lines: Vec<(&str, bool)> = found
            .iter()
            .map(|denial| (denial.line.as_str(), denial.may_be_caused_by_rules()))
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
    fn denial_of_a_closed_path_is_kept_among_many_others() {
        let mut text: String = (0..200)
            .map(|number| format!("find: '/open/{number}': Permission denied\n"))
            .collect();
        text.push_str("touch: cannot touch '/closed/x': Permission denied\n");
        let found = search(&text);
        assert_eq!(found.len(), MAX_DENIALS + 1);
        assert!(found[0].may_be_caused_by_rules());
    }
}
