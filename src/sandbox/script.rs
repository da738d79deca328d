//! One packaging script, from its start to the end of the last process that it left.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::SandboxError;
use super::spec::{Report, Spec};
use crate::config::Environment;
use crate::process::{self, ForkServer, Output, OutputSummary, Status, Unkillable, Usage};

/// A script to be run.
#[derive(Debug, Clone)]
pub struct Script {
    /// What to run, and where.
    pub spec: Spec,
    /// Its whole environment.
    pub environment: Environment,
    /// Forks the script's parent.
    pub agent: ForkServer,
}

/// A script that has ended.
#[derive(Debug)]
pub struct ScriptEnd {
    /// How it ended.
    pub status: Status,
    /// Processes that it had left behind, and that were ended.
    pub left_behind: usize,
    /// How many of them could not be ended, for they belong to another user by now.
    pub not_ended: usize,
    /// Those that the kernel does not end: they may still change what the script worked on.
    pub unkillable: Vec<Unkillable>,
    /// What it used, with all its descendants.
    pub usage: Usage,
    /// Where it left something mounted.
    pub mounts: Vec<String>,
    /// What it printed.
    pub output: OutputSummary,
}

/// Runs a script to its end, or, when `cancel` is called, ends it: SIGTERM to all its processes, SIGKILL after `grace`.
///
/// # Errors
/// Only where the machinery fails: a script that fails is a [`ScriptEnd`].
pub async fn run(
    script: Script,
    output: Output,
    cancel: &CancellationToken,
) -> Result<ScriptEnd, SandboxError> {
    run_holding(script, output, cancel, ()).await
}

/// As [`run`]. `held` is dropped as soon as the last process of the script has ended: before the output is read to its end, and
/// where the script could not be started.
///
/// # Errors
/// As [`run`].
pub async fn run_holding(
    script: Script,
    output: Output,
    cancel: &CancellationToken,
    held: impl Send,
) -> Result<ScriptEnd, SandboxError> {
    let grace: Duration = script.spec.grace;
    let child = process::Child {
        server: script.agent,
        environment: script.environment,
        orders: serde_json::to_vec(&script.spec).map_err(SandboxError::Orders)?,
    };
    let ended = process::supervise(child, output, cancel, grace, held).await?;
    match serde_json::from_slice(&ended.report) {
        Ok(Report::Ended {
            status,
            left_behind,
            not_ended,
            unkillable,
            usage,
            mounts,
        }) => Ok(ScriptEnd {
            status,
            left_behind,
            not_ended,
            unkillable,
            usage,
            mounts,
            output: ended.output,
        }),
        Ok(Report::Failed(step)) => Err(SandboxError::Step(step)),
        Ok(Report::Lost { status }) => Err(SandboxError::NoReport { status }),
        Err(_) => {
            // The server has died too. What it and the child left has become this process's.
            process::end_orphans();
            Err(SandboxError::NoServer)
        }
    }
}
