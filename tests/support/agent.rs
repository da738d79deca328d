//! Runs the program with a time limit.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::report;
use super::shared::for_this_form;
use super::tools::{run_tool, wait_for};

/// Enough for any test on a slow and busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A command to run.
#[derive(Debug)]
pub(crate) struct Agent {
    command: Command,
    /// The arguments that the command does not have yet.
    arguments: Vec<OsString>,
    pub(super) output: PathBuf,
    limit: Duration,
    is_reporting: bool,
}

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A running command. It is killed when the test ends.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    output: PathBuf,
    shown: String,
    limit: Duration,
    directory: PathBuf,
    /// Where a compilation writes its report.
    report: Option<PathBuf>,
}

impl Agent {
    /// The program without arguments. Its output goes to files in `output`.
    pub(crate) fn bare(output: &Path) -> Self {
        Self::wrapped(output, &[] as &[&str])
    }

    /// The program, started by the command `before`.
    pub(crate) fn wrapped(output: &Path, before: &[impl AsRef<OsStr>]) -> Self {
        let agent = OsStr::new(env!("CARGO_BIN_EXE_bosh-agent"));
        Self::through(output, before.iter().map(AsRef::as_ref).chain([agent]))
    }

    /// A program that starts another one, with its arguments.
    pub(crate) fn through<'a>(output: &Path, words: impl IntoIterator<Item = &'a OsStr>) -> Self {
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap());
        command.current_dir(output);
        Self {
            command,
            arguments: words.map(OsStr::to_owned).collect(),
            output: output.to_owned(),
            limit: for_this_form(LIMIT),
            is_reporting: true,
        }
    }

    /// Lets a compilation write no report that is then checked: the test passes a flag for one, or the agent cannot write it.
    pub(crate) fn without_report(mut self) -> Self {
        self.is_reporting = false;
        self
    }

    /// Sets another time limit.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub(crate) fn args(mut self, arguments: &[impl AsRef<OsStr>]) -> Self {
        let arguments = arguments.iter().map(|it| it.as_ref().to_owned());
        self.arguments.extend(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// The command, to start it with other files.
    pub(crate) fn command(&mut self) -> &mut Command {
        self.command.args(self.arguments.drain(..));
        &mut self.command
    }

    pub(crate) fn start(mut self) -> Running {
        let number = || {
            use std::sync::atomic::{AtomicU32, Ordering};
            static NEXT: AtomicU32 = AtomicU32::new(0);
            NEXT.fetch_add(1, Ordering::Relaxed)
        };
        let output = self.output.join(format!("printed-{}", number()));
        std::fs::create_dir(&output).unwrap();
        let create = |name: &str| std::fs::File::create(output.join(name)).unwrap();
        let report = self.add_report(&output);
        let shown = format!("{:?}", self.command());
        let child = self
            .command
            .stdin(Stdio::null())
            .stdout(create("stdout"))
            .stderr(create("stderr"))
            .spawn()
            .unwrap();
        Running {
            child,
            output,
            shown,
            limit: self.limit,
            directory: self.working_directory(),
            report,
        }
    }

    pub(super) fn working_directory(&self) -> PathBuf {
        self.command.get_current_dir().unwrap().to_owned()
    }

    /// Adds the flag for a report after the word `compile`. Returns the path of the report, if the command can write one.
    pub(super) fn add_report(&mut self, directory: &Path) -> Option<PathBuf> {
        const OTHERS: [&str; 8] = [
            "--report",
            "--check",
            "--dry-run",
            "--print-output-names",
            "--shell",
            "--help",
            "-help",
            "-h",
        ];
        let is_other = |argument: &OsString| OTHERS.iter().any(|other| argument == other);
        if !self.is_reporting || self.arguments.iter().any(is_other) {
            return None;
        }
        let after = self.arguments.iter().position(|it| it == "compile")? + 1;
        // The agent may run as another user.
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o777)).unwrap();
        let path = report::new_path(directory);
        let flag = ["--report".into(), path.clone().into_os_string()];
        self.arguments.splice(after..after, flag);
        Some(path)
    }

    pub(crate) fn run(self) -> Ran {
        self.start().end()
    }
}

impl Running {
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// The stderr so far.
    pub(crate) fn stderr(&self) -> String {
        read(&self.output.join("stderr"))
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end, which must come within this time from now.
    pub(crate) fn end_within(mut self, limit: Duration) -> Ran {
        self.limit = limit;
        self.end()
    }

    /// Waits for the end. Kills the process and fails the test after the time limit.
    pub(crate) fn end(mut self) -> Ran {
        let output = self.output.clone();
        let shown = self.shown.clone();
        let status: ExitStatus = wait_for(&format!("the end of {shown}"), self.limit, || {
            self.child.try_wait().unwrap().ok_or_else(|| {
                format!("it runs on and has said:\n{}", read(&output.join("stderr")))
            })
        });
        let ran = Ran {
            code: status.code(),
            stdout: read(&output.join("stdout")),
            stderr: read(&output.join("stderr")),
        };
        if let Some(report) = &self.report {
            ran.check_report(report, &self.directory);
        }
        std::fs::remove_dir_all(&output).unwrap();
        ran
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Ran {
    /// Checks the report of a compilation. There is none after an error in the command line, after a second signal and after SIGKILL.
    fn check_report(&self, report: &Path, directory: &Path) {
        let Some(code) = self.code else { return };
        let must_be_there = matches!(code, 0 | 1 | 3 | 4);
        if must_be_there || report.exists() {
            // On a terminal, both are one stream.
            let stdout = Some(self.stdout.as_str()).filter(|_| !self.stderr.contains('\r'));
            let checked =
                std::panic::catch_unwind(|| report::checked(report, directory, code, stdout));
            assert!(
                checked.is_ok(),
                "wrong report of a call that printed:\n{}",
                self.stderr
            );
        }
    }

    #[track_caller]
    pub(crate) fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stderr:\n{}", self.stderr);
        const FINISHED: &str = "Finished archiving compiled tarball ";
        let written = self
            .stderr
            .lines()
            .filter_map(|line| line.strip_prefix(FINISHED));
        let paths: String = written.map(|path| format!("{path}\n")).collect();
        // On a terminal, both are one stream.
        if !self.stderr.contains('\r') {
            assert_eq!(self.stdout, paths, "stdout has the paths and nothing else");
        }
        self
    }

    #[track_caller]
    pub(crate) fn succeeds(self) -> Self {
        self.ends_with(0)
    }

    /// Fails because of a packaging script.
    #[track_caller]
    pub(crate) fn fails(self) -> Self {
        self.reports_an_error(1)
    }

    /// Fails because of a script or of the machine, whichever was first to notice.
    #[track_caller]
    pub(crate) fn fails_or_blames_the_machine(self) -> Self {
        match self.code {
            Some(4) => self.blames_the_machine(),
            _ => self.fails(),
        }
    }

    /// Fails because of a release.
    #[track_caller]
    pub(crate) fn refuses_the_input(self) -> Self {
        self.reports_an_error(3)
    }

    /// Fails because of the machine: a disk, memory, permissions, isolation.
    #[track_caller]
    pub(crate) fn blames_the_machine(self) -> Self {
        self.reports_an_error(4)
    }

    #[track_caller]
    fn reports_an_error(self, code: i32) -> Self {
        let this = self.ends_with(code);
        let reports = this.stderr.lines().any(|line| line.starts_with("Error: "));
        assert!(reports, "no line reports an error:\n{}", this.stderr);
        assert!(!this.stderr.contains("panicked"), "{}", this.stderr);
        this
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "`{text}` is not in:\n{}",
            self.stderr
        );
        self
    }

    #[track_caller]
    pub(crate) fn does_not_say(self, text: &str) -> Self {
        assert!(
            !self.stderr.contains(text),
            "`{text}` is in:\n{}",
            self.stderr
        );
        self
    }
}

/// The processes whose environment has a path below `directory`, each with its command line. The environment of a script names its
/// directories and is inherited, so this finds all descendants of a script.
pub(crate) fn processes_below(directory: &Path) -> Vec<String> {
    let text = directory.to_str().unwrap().as_bytes().to_vec();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let is_process = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        let environment = match is_process {
            true => std::fs::read(entry.path().join("environ")).unwrap_or_default(),
            false => continue,
        };
        if environment.windows(text.len()).any(|part| part == text) {
            let command = read(&entry.path().join("cmdline")).replace('\0', " ");
            found.push(format!("{}: {command}", entry.file_name().display()));
        }
    }
    found
}

/// The soft and the hard limit of open files of a process.
pub(crate) fn limit_of_open_files(process: i32) -> [String; 2] {
    let limits = read(Path::new(&format!("/proc/{process}/limits")));
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let mut words = line.unwrap().split_whitespace().map(str::to_owned);
    std::array::from_fn(|_| words.next().unwrap())
}

/// A copy of the program in a directory that other users can reach.
pub(crate) fn copied_agent(directory: &Path) -> PathBuf {
    let own = directory.join("bosh-agent");
    // Another process makes the copy: a child of a concurrent test would inherit the open file, and a file that is open for writing cannot
    // be executed.
    run_tool(
        "cp",
        &[env!("CARGO_BIN_EXE_bosh-agent").as_ref(), own.as_os_str()],
    );
    own
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
