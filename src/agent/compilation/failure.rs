//! The errors of compile requests. Their texts begin like those of the Go agent, because operators search
//! logs for them.

use std::fmt;
use std::path::PathBuf;

use crate::archive::UnpackError;
use crate::blobs::{BlobError, BlobId};
use crate::compile::{CompileError, PrintedLine, ScriptFailure};
use crate::diag::Bytes;
use crate::machine::bootstrap::BootstrapError;
use crate::process::{ENDING_LIMIT, Ending, Status};
use crate::release::Name;
use crate::sandbox::SandboxError;
use crate::{fs, runtime};

/// How many bytes of a truncated stream are searched for a newline, so that the shown output starts
/// with a whole line.
const FIRST_LINE: usize = ENDING_LIMIT / 4;

/// A package that was not compiled. Printed with its sources, the error reads like that of the Go
/// agent.
#[derive(Debug, thiserror::Error)]
#[error("Compiling package {package}")]
pub(crate) struct CompileFailure {
    /// The requested package.
    pub package: Name,
    /// Why it was not compiled.
    pub source: Reason,
    /// The blob with the log of the failed script, if it was uploaded.
    pub log: Option<BlobId>,
}

/// Why a package was not compiled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Reason {
    /// A dependency could not be installed.
    #[error("Installing dependent package: '{dependency}'")]
    Dependency {
        /// The dependency.
        dependency: Name,
        /// Why it could not be installed.
        source: Box<Reason>,
    },
    /// The request does not say where a blob is.
    #[error("Fetching package {package}: No blobstore reference for package '{package}'")]
    NoBlob {
        /// The package to which the blob belongs.
        package: Name,
    },
    /// A blob could not be fetched.
    #[error("Fetching package {package}: Fetching package blob")]
    Fetch {
        /// The package to which the blob belongs.
        package: Name,
        /// Why the blob could not be fetched.
        source: Box<BlobError>,
    },
    /// The disk has too little space for the next step.
    #[error(
        "No space left for package {package} in {}: {} are needed for {purpose}, {} are free",
        directory.display(),
        Bytes(*needed),
        Bytes(*free)
    )]
    NoSpace {
        /// The package to be compiled or installed.
        package: Name,
        /// The directory on the disk.
        directory: PathBuf,
        /// The purpose of the space.
        purpose: &'static str,
        /// The minimum space, in bytes.
        needed: u64,
        /// The free space, in bytes.
        free: u64,
    },
    /// A disk (or a quota) is full.
    #[error("No space left in {}: {space}", directory.display())]
    Full {
        /// A directory on the disk.
        directory: PathBuf,
        /// The free space after the failure.
        space: fs::Space,
        /// The failed operation.
        source: Box<Reason>,
    },
    /// The source, or the blob of a dependency, could not be extracted.
    #[error("Uncompressing package {package}")]
    Unpack {
        /// The package to which the blob belongs.
        package: Name,
        /// Why the blob could not be extracted.
        source: UnpackError,
    },
    /// The packaging script failed.
    #[error(transparent)]
    Script(ScriptText),
    /// The core failed.
    #[error(transparent)]
    Compile(CompileError),
    /// The result could not be uploaded.
    #[error("Uploading compiled package")]
    Upload(#[source] Box<BlobError>),
    /// The isolation tier could not be prepared, or another agent uses the base directory.
    #[error("Preparing to compile")]
    Sandbox(#[source] SandboxError),
    /// The directories that the agent skipped at its start could not be created.
    #[error("Preparing to compile")]
    Machine(#[source] BootstrapError),
    /// A file operation failed.
    #[error("Preparing to compile")]
    Files(#[source] fs::Error),
    /// A task panicked.
    #[error("Preparing to compile")]
    Task(#[source] runtime::TaskFailed),
    /// The task was canceled.
    #[error("the compilation was canceled")]
    Canceled,
    /// The agent was stopped while the task was running.
    #[error("the agent was stopped")]
    Stopped,
}

/// Prints a script's failure: the first error in its output, if one is found; then the text of the Go
/// agent, with the phrase `Running packaging script` twice, the exit code, and the ends of both streams;
/// and last the probable cause and the path of the log.
#[derive(Debug)]
pub(crate) struct ScriptText {
    /// The failure.
    pub failure: Box<ScriptFailure>,
    /// The log that contains the error line, and the line.
    pub error: Option<(PathBuf, PrintedLine)>,
}

impl std::error::Error for ScriptText {}

impl fmt::Display for ScriptText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failure = &self.failure;
        if let Some((log, line)) = &self.error {
            let log = fs::file_name(log).display();
            writeln!(f, "Error in line {} of {log}: {}", line.number, line.text)?;
        }
        let code = match failure.status {
            Status::Exited(code) => code,
            Status::Signaled(signal) => 128 + signal,
        };
        write!(
            f,
            "Running packaging script: Running packaging script: Command exited with {code}; "
        )?;
        let mut streams = ["stdout", "stderr"].into_iter().zip(&failure.endings);
        if let Some((name, ending)) = streams.next() {
            stream(f, name, ending)?;
        }
        for (name, ending) in streams {
            f.write_str(", ")?;
            stream(f, name, ending)?;
        }
        if let Some(cause) = &failure.cause {
            write!(f, "\nCause: {cause}")?;
        }
        write!(
            f,
            "\nThe whole output is on the VM: {}",
            failure.log.display()
        )?;
        if let Some(reason) = &failure.log_failure {
            write!(f, " (not complete: {reason})")?;
        }
        f.write_str(" (a Director deletes the VM unless `keep_unreachable_vms` is set)")
    }
}

/// Writes `Stdout: …`. A truncated stream is written as `Truncated stdout: …` and starts with its
/// first whole line.
fn stream(f: &mut fmt::Formatter<'_>, name: &str, ending: &Ending) -> fmt::Result {
    let is_cut = ending.total > ending.bytes.len() as u64;
    let (label, bytes) = if is_cut {
        (format!("Truncated {name}"), from_first_line(&ending.bytes))
    } else {
        let mut label = name.to_owned();
        label[..1].make_ascii_uppercase();
        (label, &ending.bytes[..])
    };
    write!(f, "{label}: {}", String::from_utf8_lossy(bytes))
}

fn from_first_line(bytes: &[u8]) -> &[u8] {
    let near = &bytes[..bytes.len().min(FIRST_LINE)];
    if let Some(end) = near.iter().position(|byte| *byte == b'\n') {
        return &bytes[end + 1..];
    }
    // No newline was found, so start at the first whole character.
    let is_continuation = |byte: &&u8| **byte & 0b1100_0000 == 0b1000_0000;
    let inside = bytes.iter().take(3).take_while(is_continuation).count();
    &bytes[inside..]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::diag::Chain;

    fn failure(stdout: Ending, stderr: Ending, error: Option<PrintedLine>) -> CompileFailure {
        let package = Name::parse("redis").unwrap();
        let failure = ScriptFailure {
            package: package.clone(),
            status: Status::Exited(1),
            elapsed: Duration::from_secs(1),
            cause: None,
            processes: Vec::new(),
            tail: crate::process::LastLines::default(),
            undeclared: Vec::new(),
            findings: Vec::new(),
            denials: None,
            endings: vec![stdout, stderr],
            log: PathBuf::from("/log"),
            first_log: None,
            log_failure: None,
        };
        CompileFailure {
            package,
            source: Reason::Script(ScriptText {
                failure: Box::new(failure),
                error: error.map(|line| (PathBuf::from("/logs/redis.stderr.log"), line)),
            }),
            log: None,
        }
    }

    fn ending(text: &[u8], total: u64) -> Ending {
        Ending {
            bytes: text.to_vec(),
            total,
        }
    }

    #[test]
    fn script_failure_has_the_text_of_the_go_agent() {
        let text = |error| {
            let stderr = ending(b"rest\nline\n", 20_000);
            let failure = failure(ending(b"one\ntwo\n", 8), stderr, error);
            Chain(&failure).to_string()
        };
        let go = "Running packaging script: Running packaging script: Command exited with 1; \
                  Stdout: one\ntwo\n, Truncated stderr: line\n\nThe whole output is on the VM: /log \
                  (a Director deletes the VM unless `keep_unreachable_vms` is set)";
        assert_eq!(text(None), format!("Compiling package redis: {go}"));
        let error = PrintedLine {
            number: 7,
            text: "a.c:1:1: error: x".to_owned(),
        };
        assert_eq!(
            text(Some(error)),
            format!(
                "Compiling package redis: Error in line 7 of redis.stderr.log: a.c:1:1: error: x\n{go}"
            )
        );
    }

    #[test]
    fn truncated_output_starts_with_a_line_or_character() {
        let long = [b"x".repeat(FIRST_LINE), b"\nmore".to_vec()].concat();
        assert_eq!(from_first_line(&long), &long[..]);
        let cut = &"€".as_bytes()[1..];
        assert_eq!(from_first_line(&[cut, b"abc"].concat()), b"abc");
    }
}
