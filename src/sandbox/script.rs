//! Runs one packaging script, until the last of its processes has ended.

use tokio_util::sync::CancellationToken;

use super::error::SandboxError;
use super::spec::{Orders, Report, ScriptEnd, Spec};
use crate::config::Environment;
use crate::process::{self, ForkServer, Output, Status, Supervised, Terminal, TimeLimits};

/// A script to run.
#[derive(Debug, Clone)]
pub struct Script {
    /// The program and its sandbox.
    pub spec: Spec,
    /// The complete environment.
    pub environment: Environment,
    /// Forks the script's parent.
    pub fork_server: ForkServer,
}

/// Runs a script to its end. After a cancellation, all its processes receive SIGTERM, and SIGKILL after the spec's `grace`.
///
/// # Errors
/// The script could not be run, or its status is unknown. The failure of the script itself is a `ScriptEnd`.
pub async fn run(
    script: Script,
    output: Output,
    cancel: &CancellationToken,
) -> Result<ScriptEnd, SandboxError> {
    run_holding(script, output, TimeLimits::default(), cancel, ()).await
}

/// Like [`run`], with time limits: a script that exceeds one is stopped as after a cancellation. `held` is dropped when the last process
/// of the script has ended, even if its output is not read to the end yet, or when the script could not be started.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_holding(
    script: Script,
    output: Output,
    limits: TimeLimits,
    cancel: &CancellationToken,
    held: impl Send,
) -> Result<ScriptEnd, SandboxError> {
    let child = child(script, limits)?;
    let ended = process::supervise(child, output, cancel, held).await?;
    end_of(ended, |status| SandboxError::NoReport { status })
}

/// Runs a script interactively on a terminal. After a cancellation, its terminal hangs up.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_on_terminal(
    mut script: Script,
    terminal: &Terminal,
    cancel: &CancellationToken,
) -> Result<ScriptEnd, SandboxError> {
    script.spec.terminal = true;
    let child = child(script, TimeLimits::default())?;
    let ended = process::attend(child, terminal, cancel).await?;
    end_of(ended, |status| SandboxError::NoReport { status })
}

/// The parent of a script.
fn child(script: Script, limits: TimeLimits) -> Result<process::ChildSpec, SandboxError> {
    let grace = script.spec.grace;
    let orders = Orders::Run(Box::new(script.spec));
    Ok(process::ChildSpec {
        server: script.fork_server,
        environment: script.environment,
        orders: serde_json::to_vec(&orders).map_err(SandboxError::Orders)?,
        limits,
        grace,
    })
}

/// Parses the report of a child. `lost` gives the error for a child that ended without a report.
pub(super) fn end_of(
    ended: Supervised,
    lost: impl Fn(Status) -> SandboxError,
) -> Result<ScriptEnd, SandboxError> {
    match serde_json::from_slice(&ended.report) {
        Ok(Report::Ended(end)) => Ok(ScriptEnd {
            output: ended.output,
            exceeded: ended.exceeded,
            ..*end
        }),
        Ok(Report::Failed(step)) => Err(SandboxError::Step(step)),
        Ok(Report::Lost { status }) => Err(lost(status)),
        Err(_) => {
            // The server has died, too. This process has adopted the orphans of both.
            process::end_orphans();
            Err(SandboxError::NoServer)
        }
    }
}
