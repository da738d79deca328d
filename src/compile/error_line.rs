//! Finds the line that explains a failure in the output of a packaging script. It is not always near the end, because hundreds of lines of
//! concurrent make jobs may follow it.

use std::path::Path;

use super::printed::PrintedLine;
use crate::fs;
use crate::process::{LineKind, Trace, printable};

/// The maximum length of a line, in characters. The rest is cut off.
const LINE_LIMIT: usize = 400;

/// The maximum number of lines between an error of the shell or of a basic command and the line in which `make` reports the failure of
/// that command.
const CONSEQUENCE: usize = 10;

/// Searches a log for the line that most likely says why a script failed. This is the first error of a build tool, or else the last error
/// of the shell or a basic command, because scripts often continue after these. The last choice is a line in which a tool reports that a
/// command failed.
///
/// # Errors
/// The log cannot be read.
pub(crate) fn find_error(log: &Path) -> fs::Result<Option<PrintedLine>> {
    Ok(search(log)?.found())
}

/// Searches several logs of one script, such as those of stderr and stdout. Returns the index of the log with the line, and the line. Among
/// equally likely lines, that of the first log is chosen.
///
/// # Errors
/// A log cannot be read.
pub(crate) fn find_error_in(logs: &[&Path]) -> fs::Result<Option<(usize, PrintedLine)>> {
    let searches = logs.iter().map(|log| search(log));
    let searches: Vec<Search> = searches.collect::<fs::Result<_>>()?;
    let best = searches.iter().enumerate().min_by_key(|(_, it)| it.rank());
    let best = best.map(|(index, _)| index);
    let found = searches.into_iter().nth(best.unwrap_or_default());
    Ok(best.zip(found.and_then(Search::found)))
}

fn search(log: &Path) -> fs::Result<Search> {
    let (mut search, mut trace) = (Search::default(), Trace::default());
    fs::for_each_block(log, |block| {
        for line in block.split_inclusive('\n') {
            search.lines += 1;
            let line = line.trim_end();
            // Skip commands that `bash -x` traces, because they can contain any text.
            if trace.read(line.as_bytes(), false) == LineKind::Printed {
                search.read(line);
            }
        }
    })?;
    Ok(search)
}

/// The errors found so far.
#[derive(Default)]
struct Search {
    /// How many lines were read.
    lines: usize,
    /// The first error of a tool.
    of_tool: Option<PrintedLine>,
    /// The last error of the shell, before the first failure of a command that a tool reports.
    of_shell: Option<PrintedLine>,
    /// The first line that reports the failure of a command.
    of_command: Option<PrintedLine>,
}

impl Search {
    fn read(&mut self, line: &str) {
        if self.of_tool.is_some() {
            return;
        }
        let shown;
        let line = match line.contains('\x1b') {
            // Some tools print colors to files, too.
            true => {
                shown = printable(line.as_bytes());
                shown.as_str()
            }
            false => line,
        };
        if is_no_error(line) {
        } else if has(COMMANDS, line) {
            self.of_command
                .get_or_insert_with(|| error_line(self.lines, line));
        } else if has(TOOLS, line) {
            self.of_tool = Some(error_line(self.lines, line));
        } else if self.of_command.is_none() && has(SHELL, line) {
            self.of_shell = Some(error_line(self.lines, line));
        }
    }

    /// The less, the more likely the line that [`found`](Self::found) returns is the reason.
    fn rank(&self) -> u8 {
        match (&self.of_tool, &self.of_shell, &self.of_command) {
            (Some(_), _, _) => 0,
            (None, Some(_), _) => 1,
            (None, None, Some(_)) => 2,
            (None, None, None) => 3,
        }
    }

    fn found(self) -> Option<PrintedLine> {
        let of_shell = match &self.of_command {
            Some(command) => self
                .of_shell
                .filter(|it| command.number - it.number <= CONSEQUENCE),
            None => self.of_shell,
        };
        self.of_tool.or(of_shell).or(self.of_command)
    }
}

/// Whether a line only looks like an error: a failure that make ignores, or the directory that configure prints before the error.
fn is_no_error(line: &str) -> bool {
    line.ends_with("(ignored)") || line.starts_with("configure: error: in `")
}

fn error_line(number: usize, text: &str) -> PrintedLine {
    let text = printable(text.as_bytes());
    PrintedLine {
        number,
        text: text.chars().take(LINE_LIMIT).collect(),
    }
}

/// How a tool marks a line that reports an error.
enum Mark {
    /// The line starts with this.
    Start(&'static str),
    /// The line contains this.
    Within(&'static str),
    /// The line ends with this.
    End(&'static str),
    /// The line starts with the first text and contains the second.
    Of(&'static str, &'static str),
    /// The line starts with `go: ` and is not about progress.
    Go,
    /// The line is `FILE.go:LINE:COLUMN: MESSAGE`. Go's compiler marks errors in no other way.
    GoPosition,
    /// The line is `SCRIPT: line NUMBER: MESSAGE`.
    Bash,
    /// The line is `SCRIPT: NUMBER: COMMAND: not found`, from dash.
    Sh,
}

use Mark::{Bash, End, Go, GoPosition, Of, Sh, Start, Within};

/// The marks of build tools. They must match only errors; warnings and file names often contain the word "error".
const TOOLS: &[Mark] = &[
    // GCC, Clang, rustc's linker, as, ld
    Within(": error: "),
    Within(": fatal error: "),
    Start("fatal error: "),
    Within(": Error: "),
    Within(": undefined reference to "),
    Within("ld: cannot find "),
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
    Within(" is not in GOROOT"),
    Start("flag provided but not defined: "),
    Start("--- FAIL: "),
    Start("panic: "),
    // Cargo, rustc, pip, general
    Start("error: "),
    Start("error["),
    Start("  error: "),
    Within(" panicked at "),
    Start("Error: "),
    Start("ERROR: "),
    Start("fatal: "),
    Start("FATAL: "),
    // npm, yarn
    Start("npm ERR! "),
    Start("npm error "),
    // configure
    Start("configure: error: "),
    // Python, Java, Node, Ruby, Perl
    Start("Traceback (most recent call last):"),
    Start("SyntaxError: "),
    Within(": No module named "),
    Within(": can't open file "),
    Start("Exception in thread "),
    Start("[ERROR] "),
    End("Error)"),
    Start("Can't locate "),
    Start("Can't open perl script "),
    Within(": syntax error"),
    // tar, gzip, bzip2, xz, unzip
    Of("tar: ", ": Cannot "),
    Of("tar: ", ": Not found in archive"),
    Start("tar: This does not look like a tar archive"),
    Start("tar: Unexpected EOF in archive"),
    Within(": not in gzip format"),
    Start("gzip: "),
    End(" is not a bzip2 file."),
    End(": File format not recognized"),
    Start("unzip:  cannot "),
    // patch
    Of("Hunk #", " FAILED at "),
    Start("patch: **** "),
];

/// The marks of tools that report the failure of another command, which has printed the reason itself.
const COMMANDS: &[Mark] = &[
    Of("make", ": *** ["),
    Of("gmake", ": *** ["),
    Start("collect2: error: "),
    Start("tar: Child returned status "),
    Start("tar: Error is not recoverable"),
    Start("tar: Exiting with failure status"),
];

/// The marks of the shell and of basic commands.
const SHELL: &[Mark] = &[
    // bash, coreutils
    Bash,
    Within(": cannot stat "),
    Within(": cannot create "),
    Within(": cannot open "),
    End(": command not found"),
    Sh,
    Within(": can't cd to "),
    End(": No such file or directory"),
    End(": no such file or directory"),
    End(": FAILED"),
    End(": Permission denied"),
    End(": Read-only file system"),
    End(": Operation not permitted"),
    End(": No space left on device"),
    // curl, wget, apt
    Start("curl: ("),
    Start("wget: unable "),
    End(" failed: Connection refused."),
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
        Of(start, text) => line.starts_with(start) && line.contains(text),
        Go => line
            .strip_prefix("go: ")
            .is_some_and(|rest| !is_go_progress(rest)),
        GoPosition => is_go_position(line),
        Bash => is_of_bash(line),
        Sh => {
            let mut parts = line.split(": ").skip(1);
            line.ends_with(": not found") && parts.next().is_some_and(is_decimal)
        }
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

    fn in_text(text: &str) -> Option<PrintedLine> {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log");
        fs::write(&log, text.as_bytes()).unwrap();
        find_error(&log).unwrap()
    }

    #[test]
    fn most_likely_line_of_several_logs_is_found() {
        let place = tempfile::tempdir().unwrap();
        let log = |name: &str, text: &str| {
            let path = place.path().join(name);
            fs::write(&path, text.as_bytes()).unwrap();
            path
        };
        let shell = log(
            "shell",
            "x\ncp: cannot stat 'a': No such file or directory\n",
        );
        let tool = log("tool", "a.c:1:1: error: x\n");
        let nothing = log("nothing", "a line\n");
        let in_logs = |logs: &[&Path]| {
            let found = find_error_in(logs).unwrap();
            found.map(|(index, line)| (index, line.number))
        };
        assert_eq!(in_logs(&[&shell, &tool]), Some((1, 1)));
        assert_eq!(in_logs(&[&nothing, &shell]), Some((1, 2)));
        assert_eq!(in_logs(&[&shell, &shell]), Some((0, 2)));
        assert_eq!(in_logs(&[&nothing, &nothing]), None);
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
            "s.s:1: Error: no such instruction: `bad asm'",
            "package nope is not in GOROOT (/usr/lib/go-1.19/src/nope)",
            "flag provided but not defined: -badflag",
            "--- FAIL: TestA (0.00s)",
            "panic: x",
            "thread 'main' (29118) panicked at src/main.rs:1:11:",
            "  error: subprocess-exited-with-error",
            "SyntaxError: invalid syntax",
            "/usr/bin/python3: No module named nope",
            "[\x1b[1;31mERROR\x1b[m] The goal you specified requires a project to execute but there is no POM",
            "-e:1:in `<main>': x (RuntimeError)",
            "Can't locate Nope.pm in @INC (you may need to install the Nope module)",
            "tar: missing: Not found in archive",
            "tar: Unexpected EOF in archive",
            "bzip2: (stdin) is not a bzip2 file.",
            "xz: (stdin): File format not recognized",
            "unzip:  cannot find or open nope.zip, nope.zip.zip or nope.zip.ZIP.",
            "Hunk #1 FAILED at 1.",
            "sh: 1: nope: not found",
            "dash: 1: cd: can't cd to /nope",
            "a.c: FAILED",
            "Connecting to 127.0.0.1:1... failed: Connection refused.",
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
            "configure: error: in `/var/vcap/data/compile/app':",
            "checking for pthread.h... not found",
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

    /// Real output of GNU make 4.3 and tar 1.34.
    #[test]
    fn reason_of_a_failed_command_is_preferred() {
        for (text, expected) in [
            (
                "./nope\nmake: ./nope: No such file or directory\nmake: *** [M3:2: all] Error 127\n",
                2,
            ),
            ("false\nmake: *** [Makefile:2: all] Error 1\n", 2),
            (
                "\ngzip: stdin: not in gzip format\ntar: Child returned status 1\ntar: Error is not recoverable: exiting now\n",
                2,
            ),
            (
                "tar: nope.tgz: Cannot open: No such file or directory\ntar: Error is not recoverable: exiting now\n",
                1,
            ),
        ] {
            assert_eq!(in_text(text).unwrap().number, expected, "{text}");
        }
        let noise = "a line\n".repeat(20);
        let text = format!("rm: x: No such file or directory\n{noise}make: *** [all] Error 1\n");
        assert_eq!(in_text(&text).unwrap().number, 22);
    }

    #[test]
    fn further_lines_of_a_traced_command_are_not_errors() {
        let text = "+ python3 -c '\nerror: not one\n'\nTraceback (most recent call last):\n";
        assert_eq!(in_text(text).unwrap().number, 4);
    }
}
