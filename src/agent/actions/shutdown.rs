//! `shutdown`: shuts the machine down.

use std::time::Duration;

use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Action, ActionError};
use crate::agent::Agent;
use crate::machine::bootstrap::Platform;
use crate::process::{self, Program, RunError, Status};
use crate::runtime::{self, TaskFailed};

pub(in crate::agent) const ACTION: Action =
    Action::Immediate(|agent, _| shutdown(agent).map_err(ActionError::new).boxed());

/// The time limit of the program `shutdown`. A Director waits 45 seconds for the reply.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum ShutdownError {
    #[error("there is no program `shutdown` in PATH")]
    NoProgram,
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Task(#[from] TaskFailed),
    #[error("`shutdown` {status}: {}", tail.join("\n"))]
    Failed { status: Status, tail: Vec<String> },
    #[error("`shutdown` takes too long")]
    TimedOut,
}

/// Shuts the machine down. Does nothing on the platform `dummy`, because that is a developer's
/// machine.
async fn shutdown(agent: &Agent) -> Result<Value, ShutdownError> {
    if agent.platform() == Platform::Dummy {
        return Ok(json!(""));
    }
    let environment = agent.state.environment.clone();
    let own = environment.clone();
    let finding =
        runtime::spawn_blocking("shutdown", move || process::find_program("shutdown", &own));
    let program = Program {
        file: finding.await?.ok_or(ShutdownError::NoProgram)?,
        arguments: ["-P", "0"].map(Into::into).into(),
        environment,
    };
    let cancel = CancellationToken::new();
    let ended = tokio::time::timeout(LIMIT, process::run_to_end(&program, &cancel))
        .await
        .map_err(|_| ShutdownError::TimedOut)??;
    if !ended.status.is_success() {
        return Err(ShutdownError::Failed {
            status: ended.status,
            tail: ended.tail,
        });
    }
    Ok(json!(""))
}
