//! Runs docker and other programs with time limits, and removes containers at the end of a test.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The result of a program.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) elapsed: Duration,
}

impl Outcome {
    /// Panics with the program's output unless it ended with this exit code.
    #[track_caller]
    pub(crate) fn expect_code(&self, code: i32, what: &str) {
        assert!(
            self.code == Some(code),
            "{what}: expected exit code {code}, got {self}"
        );
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            code,
            stdout,
            stderr,
            elapsed,
        } = self;
        write!(
            formatter,
            "{code:?} after {elapsed:.1?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}"
        )
    }
}

/// Runs a program to its end; kills it and panics at the time limit. Its output goes to files, as a pipe would stay open until the last
/// process that inherited it ends.
#[track_caller]
pub(crate) fn run(command: &mut Command, limit: Duration) -> Outcome {
    let outputs = tempfile::tempdir().unwrap();
    let (stdout, stderr) = (outputs.path().join("stdout"), outputs.path().join("stderr"));
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(File::create(&stdout).unwrap())
        .stderr(File::create(&stderr).unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if start.elapsed() > limit {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(25));
    };
    let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    let outcome = Outcome {
        code: status.and_then(|status| status.code()),
        stdout: text(&stdout),
        stderr: text(&stderr),
        elapsed: start.elapsed(),
    };
    assert!(
        status.is_some(),
        "{command:?} was killed: it ran longer than {limit:?}: {outcome}"
    );
    outcome
}

/// Runs the docker client once.
#[track_caller]
pub(crate) fn docker(arguments: &[&str], limit: Duration) -> Outcome {
    run(Command::new("docker").args(arguments), limit)
}

/// A new name for a container or a network.
pub(crate) fn name_of(label: &str) -> String {
    // Concurrent tests may use the same label.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("bosh-agent-test-{}-{label}-{number}", std::process::id())
}

/// A container's name. Dropping it removes the container, running or not.
pub(crate) struct Container {
    name: String,
}

impl Container {
    pub(crate) fn new(label: &str) -> Self {
        Self {
            name: name_of(label),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `docker run` with these options, until the container ends.
    #[track_caller]
    pub(crate) fn run(
        &self,
        options: &[&str],
        image: &str,
        command: &[&str],
        limit: Duration,
    ) -> Outcome {
        let fixed = ["run", "--name", &self.name];
        let outcome = docker(&[&fixed, options, &[image], command].concat(), limit);
        self.remove();
        outcome
    }

    fn remove(&self) {
        // A failure would hide why the test failed, and does not matter if the container is already removed.
        let _ = Command::new("docker")
            .args(["rm", "--force", "--volumes", &self.name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.remove();
    }
}
