//! Finds the first error in the output of a packaging script: hundreds of lines of other jobs may follow it.

use std::path::Path;

use crate::fs;

/// No more of a line is kept, in characters.
const LINE_LIMIT: usize = 400;

/// The line of a log that most likely says why a script failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorLine {
    /// Counted from 1.
    pub number: usize,
    /// The line; the end of a long one is cut off.
    pub text: String,
}

/// Reads a log for the first error of a build tool, or else the last error of the shell or of a basic command: scripts often continue
/// after a basic command fails.
///
/// # Errors
/// What the system answered.
pub(super) fn find(log: &Path) -> fs::Result<Option<ErrorLine>> {
    let (mut before, mut of_tool, mut of_shell) = (0, None, None);
    fs::for_each_block(log, |block| {
        if of_tool.is_none() {
            of_tool = lines(block, before)
                .find(|(_, line)| has(TOOLS, line))
                .map(error_line);
        }
        if of_tool.is_none() {
            let last = lines(block, before)
                .filter(|(_, line)| has(SHELL, line))
                .last();
            of_shell = last.map(error_line).or(of_shell.take());
        }
        before += block.matches('\n').count();
    })?;
    Ok(of_tool.or(of_shell))
}

/// The lines of a block with their numbers, without those that cannot report an error.
fn lines(block: &str, before: usize) -> impl Iterator<Item = (usize, &str)> {
    let lines = block.lines().map(str::trim_end).enumerate();
    lines
        .map(move |(index, line)| (before + index + 1, line))
        // Commands that `bash -x` traces contain anything; failures that make ignores are expected.
        .filter(|(_, line)| !line.starts_with('+') && !line.ends_with("(ignored)"))
}

fn error_line((number, text): (usize, &str)) -> ErrorLine {
    ErrorLine {
        number,
        text: text.chars().take(LINE_LIMIT).collect(),
    }
}

/// How tools mark the lines that report an error.
enum Mark {
    /// The line starts with this.
    Start(&'static str),
    /// The line contains this.
    Within(&'static str),
    /// The line ends with this.
    End(&'static str),
    /// The line starts with `go: ` and is not about progress.
    Go,
    /// The line is `FILE.go:LINE:COLUMN: MESSAGE`: Go's compiler has no word for an error.
    GoPosition,
    /// The line is `SCRIPT: line NUMBER: MESSAGE`.
    Bash,
}

use Mark::{Bash, End, Go, GoPosition, Start, Within};

/// Build tools. A line that is not an error must not match: warnings and the names of files often contain the word.
const TOOLS: &[Mark] = &[
    // GCC, Clang, rustc's linker, ld
    Within(": error: "),
    Within(": fatal error: "),
    Start("fatal error: "),
    Within(": undefined reference to "),
    Within("ld: cannot find "),
    Start("collect2: error: "),
    // make
    Within(": *** "),
    // CMake, Ninja, Meson
    Start("CMake Error"),
    Start("ninja: error: "),
    Start("ninja: fatal: "),
    Within(": ERROR: "),
    // Go
    GoPosition,
    Go,
    Within(": cannot find module providing package "),
    Within(" is not in std"),
    // Cargo, rustc, pip, general
    Start("error: "),
    Start("error["),
    Start("Error: "),
    Start("ERROR: "),
    Start("fatal: "),
    Start("FATAL: "),
    // npm, yarn
    Start("npm ERR! "),
    Start("npm error "),
    // configure
    Start("configure: error: "),
    // Python, Java, Ruby
    Start("Traceback (most recent call last):"),
    Start("Exception in thread "),
    Within(": syntax error"),
    // tar, gzip, unzip
    Start("tar: Error "),
    Start("tar: This does not look like a tar archive"),
    Within(": not in gzip format"),
    Start("gzip: "),
];

/// The shell and basic commands.
const SHELL: &[Mark] = &[
    // bash, coreutils
    Bash,
    Within(": cannot stat "),
    Within(": cannot create "),
    Within(": cannot open "),
    End(": command not found"),
    End(": No such file or directory"),
    End(": Permission denied"),
    End(": Read-only file system"),
    End(": Operation not permitted"),
    End(": No space left on device"),
    // curl, wget, apt
    Start("curl: ("),
    Start("wget: unable "),
    Start("E: "),
];

/// What `go` prints while it downloads modules.
const GO_PROGRESS: [&str; 4] = ["downloading ", "finding ", "extracting ", "added "];

/// Whether one of these marks is in a line.
fn has(marks: &[Mark], line: &str) -> bool {
    marks.iter().any(|mark| match mark {
        Start(text) => line.starts_with(text),
        Within(text) => line.contains(text),
        End(text) => line.ends_with(text),
        Go => line
            .strip_prefix("go: ")
            .is_some_and(|rest| !is_go_progress(rest)),
        GoPosition => is_go_position(line),
        Bash => is_of_bash(line),
    })
}

fn is_go_progress(rest: &str) -> bool {
    GO_PROGRESS.iter().any(|start| rest.starts_with(start))
}

fn is_go_position(line: &str) -> bool {
    let Some((_, rest)) = line.split_once(".go:") else {
        return false;
    };
    let mut parts = rest.splitn(3, ':');
    let mut is_number = || parts.next().is_some_and(is_decimal);
    is_number() && is_number() && parts.next().is_some_and(|it| it.starts_with(' '))
}

fn is_of_bash(line: &str) -> bool {
    let Some((script, rest)) = line.split_once(": line ") else {
        return false;
    };
    let number = rest.split_once(": ").map(|(number, _)| number);
    !script.contains(' ') && number.is_some_and(is_decimal)
}

fn is_decimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_text(text: &str) -> Option<ErrorLine> {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log");
        fs::write(&log, text.as_bytes()).unwrap();
        find(&log).unwrap()
    }

    fn found(line: &str) -> bool {
        in_text(line).is_some()
    }

    #[test]
    fn errors_of_common_tools_are_found() {
        for line in [
            "src/main.c:12:10: fatal error: openssl/ssl.h: No such file or directory",
            "src/main.c:3:5: error: expected ';' before '}' token",
            "/usr/bin/ld: main.o: in function `main': main.c:(.text+0x9): undefined reference to `seven'",
            "/usr/bin/ld: cannot find -lssl: No such file or directory",
            "collect2: error: ld returned 1 exit status",
            "make: *** No rule to make target 'all'.  Stop.",
            "make[2]: *** [Makefile:12: main.o] Error 1",
            "CMake Error at CMakeLists.txt:3 (find_package):",
            "ninja: error: loading 'build.ninja': No such file or directory",
            "meson.build:1:0: ERROR: Unknown compiler(s): [['cc']]",
            "./main.go:7:2: undefined: fmt.Printn",
            "main.go:4:2: package golang.org/x/net is not in std",
            "go: go.mod file not found in current directory or any parent directory",
            "error: could not compile `demo` (bin \"demo\") due to 1 previous error",
            "error[E0432]: unresolved import `nope`",
            "ERROR: Could not find a version that satisfies the requirement nope",
            "npm ERR! code ENOENT",
            "npm error code ENOENT",
            "configure: error: no acceptable C compiler found in $PATH",
            "Traceback (most recent call last):",
            "tar: nope.tgz: Cannot open: No such file or directory",
            "tar: This does not look like a tar archive",
            "gzip: stdin: not in gzip format",
            "packaging: line 4: cmake: command not found",
            "/var/vcap/data/compile/app/build.sh: line 12: unexpected EOF while looking for matching `\"'",
            "cp: cannot stat 'nope': No such file or directory",
            "mkdir: cannot create directory '/etc/x': Read-only file system",
            "curl: (6) Could not resolve host: example.com",
            "fatal: not a git repository (or any of the parent directories): .git",
            "E: Unable to locate package nope",
        ] {
            assert!(found(line), "{line}");
        }
    }

    #[test]
    fn other_lines_are_not_errors() {
        for line in [
            "",
            "+ echo 'error: not one'",
            "++ cp: cannot stat nothing",
            "gcc -Werror -o error.o -c error.c",
            "main.c:3:5: warning: unused variable 'error' [-Wunused-variable]",
            "make: [Makefile:3: clean] Error 1 (ignored)",
            "make[1]: *** [Makefile:3: test] Error 1 (ignored)",
            "checking for strerror... yes",
            "go: downloading golang.org/x/net v0.1.0",
            "compiling main.go",
            "   Compiling thiserror v2.0.0",
            "0 errors, 0 warnings",
            "copying the command line: 4 files",
            "see https://example.com/main.go:8080 for more",
        ] {
            assert!(!found(line), "{line}");
        }
    }

    #[test]
    fn first_error_is_found_far_above_the_end() {
        let noise = "a line of another job that runs for a while\n";
        let text = format!(
            "{}main.c:1:1: error: the reason\n{}make: *** [all] Error 1\n",
            noise.repeat(3_000),
            noise.repeat(9_000)
        );
        let error = in_text(&text).unwrap();
        assert_eq!(error.number, 3_001);
        assert_eq!(error.text, "main.c:1:1: error: the reason");
        assert_eq!(in_text(noise), None);
    }

    #[test]
    fn last_error_of_the_shell_is_found_without_one_of_a_tool() {
        let text = "rm: cannot remove 'a': No such file or directory\n\
                    working\n\
                    cp: cannot stat 'b': No such file or directory\n\
                    done\n";
        assert_eq!(in_text(text).unwrap().number, 3);
    }
}
