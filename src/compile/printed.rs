//! Finds lines in a script's output that indicate a known problem. Ignores the lines in which bash shows the commands that it runs. These
//! lines begin with `+ `.

use memchr::memmem;
use serde::Serialize;

use super::denials::is_trace;

/// How many lines of each kind are kept.
const MAX_LINES: usize = 5;

/// The length to which lines are shortened, in characters.
const MAX_WIDTH: usize = 300;

/// A line of a script's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PrintedLine {
    /// The line's number in the log, from 1.
    pub number: usize,
    /// The line, shortened if it is long.
    pub text: String,
}

/// The first lines that indicate each kind of problem.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Printed {
    /// A file or a command does not exist.
    pub(super) missing: Vec<PrintedLine>,
    /// A link or a rename across mounts, or the removal of a mount point, failed.
    pub(super) across: Vec<PrintedLine>,
    /// An owner could not be set because it does not exist in this user namespace.
    pub(super) owners: Vec<PrintedLine>,
    /// A resource that only one process can use, such as a port, was in use.
    pub(super) in_use: Vec<PrintedLine>,
    /// Access was denied.
    pub(super) denied: Vec<PrintedLine>,
    /// A write failed because the file system is read-only.
    pub(super) read_only: Vec<PrintedLine>,
    /// How many lines were read.
    lines: usize,
}

const MISSING: [&str; 3] = ["No such file", "command not found", "cannot stat"];
const ACROSS: [&str; 5] = [
    "ross-device link",
    "EXDEV",
    "esource busy",
    "EBUSY",
    // On some systems, dependencies can be mounted only read-only. Then this is the error of a rename or a removal.
    READ_ONLY,
];
const READ_ONLY: &str = "ead-only file system";
const OWNERS: [&str; 3] = ["Cannot change ownership", "changing ownership", "chown"];
const INVALID: [&str; 2] = ["Invalid argument", "EINVAL"];
const IN_USE: [&str; 5] = [
    "ddress already in use",
    "EADDRINUSE",
    "ile exists",
    "EEXIST",
    "ext file busy",
];
const DENIED: [&str; 2] = ["ermission denied", "EACCES"];

impl Printed {
    /// Reads the next lines of a script's standard error, or of both streams.
    pub(super) fn read(&mut self, block: &str) {
        for line in block.split_inclusive('\n') {
            if !is_trace(line) {
                self.add(self.lines + 1, line);
            }
            self.lines += usize::from(line.ends_with('\n'));
        }
    }

    fn add(&mut self, number: usize, line: &str) {
        let has = |wanted: &[&str]| {
            wanted
                .iter()
                .any(|it| memmem::find(line.as_bytes(), it.as_bytes()).is_some())
        };
        let kinds = [
            (&mut self.missing, has(&MISSING)),
            (&mut self.across, has(&ACROSS)),
            (&mut self.owners, has(&OWNERS) && has(&INVALID)),
            (&mut self.in_use, has(&IN_USE) || mentions_a_lock(line)),
            (&mut self.denied, has(&DENIED)),
            (&mut self.read_only, has(&[READ_ONLY, "EROFS"])),
        ];
        for (lines, is_of_kind) in kinds {
            if is_of_kind && lines.len() < MAX_LINES {
                lines.push(PrintedLine {
                    number,
                    text: shortened(line),
                });
            }
        }
    }
}

/// Whether a line contains `lock`, `locked` or `lockfile` as a word.
fn mentions_a_lock(line: &str) -> bool {
    memmem::find(line.as_bytes(), b"ock").is_some()
        && line
            .split(|it: char| !it.is_ascii_alphanumeric())
            .any(|word| {
                ["lock", "locked", "lockfile"]
                    .iter()
                    .any(|lock| word.eq_ignore_ascii_case(lock))
            })
}

fn shortened(line: &str) -> String {
    line.trim_end()
        .chars()
        .map(|character| if character == '\t' { ' ' } else { character })
        .filter(|character| !character.is_control())
        .take(MAX_WIDTH)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_sorted_by_kind_and_the_trace_is_ignored() {
        let mut printed = Printed::default();
        for block in [
            "+ cp none /target\ncp: cannot stat 'none': No such file or directory\n\
              + echo 'command not found'\n++ cat none\n",
            "\
              ln: failed to create hard link 'a' => 'b': Invalid cross-device link\n\
              tar: x: Cannot change ownership to uid 70000, gid 0: Invalid argument\n\
              clock block: fine\nfatal: Unable to lock the cache\x1b[0m\tnow\n",
        ] {
            printed.read(block);
        }
        let numbers = |lines: &[PrintedLine]| lines.iter().map(|it| it.number).collect::<Vec<_>>();
        assert_eq!(numbers(&printed.missing), [2]);
        assert_eq!(numbers(&printed.across), [5]);
        assert_eq!(numbers(&printed.owners), [6]);
        assert_eq!(numbers(&printed.in_use), [8]);
        assert_eq!(numbers(&printed.denied), [0; 0]);
        assert_eq!(
            printed.in_use[0].text,
            "fatal: Unable to lock the cache[0m now"
        );
    }
}
