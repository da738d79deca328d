//! Checks that Landlock works on this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use tokio_util::sync::CancellationToken;

use super::Landlocked;
use crate::fs;
use crate::process::{ForkServer, Output, Status};
use crate::sandbox::blocking::blocking;
use crate::sandbox::error::SandboxError;
use crate::sandbox::namespaces::PROCESSES;
use crate::sandbox::rules::Rules;
use crate::sandbox::script::{self, Script};
use crate::sandbox::spec::Spec;

/// The time between SIGTERM and SIGKILL for the probe.
const GRACE: Duration = Duration::from_secs(5);

impl Landlocked {
    /// Runs a script that may access only its own directory, and checks that it can write there and cannot read another one.
    ///
    /// # Errors
    /// Landlock does not work on this machine, or `cancel` was canceled.
    pub async fn probe(
        work: &Path,
        fork_server: &ForkServer,
        cancel: &CancellationToken,
    ) -> Result<(), SandboxError> {
        let (work, fork_server) = (work.to_owned(), fork_server.clone());
        let (place, script, output) =
            blocking("probe", move || prepare(&work, fork_server)).await?;
        let own = script.spec.directory.clone();
        let end = match script::run(script, output, cancel).await {
            // A script that was stopped early has no report. This does not mean that Landlock does not work.
            Err(_) if cancel.is_cancelled() => return Err(SandboxError::Stopped),
            end => end?,
        };
        blocking("probe", move || Ok(fs::remove_tree(&place)?)).await?;
        let is_full = |line: &String| line.contains("No space left on device");
        match end.status {
            Status::Exited(0) => Ok(()),
            _ if cancel.is_cancelled() => Err(SandboxError::Stopped),
            // This does not mean that Landlock does not work.
            _ if end.output.tail.lines.iter().any(is_full) => {
                let source = Errno::ENOSPC.into();
                Err(fs::Error::new("write", &own.join("file"), source).into())
            }
            status => Err(SandboxError::ProbeFailed(status)),
        }
    }
}

/// Creates the directories of the probe. Returns their parent directory, the script and its output.
fn prepare(
    work: &Path,
    fork_server: ForkServer,
) -> Result<(PathBuf, Script, Output), SandboxError> {
    let place = work.join("probe");
    for name in ["own", "other"] {
        fs::create_dir_all(&place.join(name))?;
    }
    let place = fs::canonicalize(&place)?;
    let (own, other) = (place.join("own"), place.join("other"));
    fs::write(&other.join("file"), b"")?;
    let process_lock = work.join(PROCESSES);
    fs::write(&process_lock, b"")?;
    let script = Script {
        spec: Spec {
            program: "bash".to_owned(),
            arguments: vec!["-c".into(), "echo >file && ! cat ../other/file".into()],
            directory: own.clone(),
            umask: 0o022,
            nice: 0,
            process_lock,
            grace: GRACE,
            view: None,
            rules: Some(Rules {
                guarded: vec![own.clone(), other],
                listed: Vec::new(),
                whole: vec![own],
                readable: Vec::new(),
            }),
            terminal: false,
        },
        environment: [("PATH".into(), "/usr/bin:/bin:/usr/local/bin".into())]
            .into_iter()
            .collect(),
        fork_server,
    };
    let output = Output::to_log(&place.join("probe.log"), |_| {})?;
    Ok((place, script, output))
}
