//! `shutdown`: the machine is not needed any more.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::diag::Chain;
use crate::machine::bootstrap::Platform;
use crate::process::{self, Program};

/// How long the system may take to begin. A Director waits for this reply for 45 seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// Shuts the machine down, unless it is somebody's own.
pub(in crate::agent) async fn shutdown(agent: &Agent) -> Result<Value, String> {
    if agent.platform() == Platform::Dummy {
        return Ok(json!(""));
    }
    let environment = &agent.inner.environment;
    let file = process::find_program("shutdown", environment)
        .ok_or("there is no program `shutdown` in PATH")?;
    let program = Program {
        file,
        arguments: ["-P", "0"].map(Into::into).into(),
        environment: environment.clone(),
    };
    let cancel = CancellationToken::new();
    let ended = tokio::time::timeout(LIMIT, process::run_to_end(&program, &cancel)).await;
    match ended {
        Ok(Ok(ended)) if ended.status.is_success() => Ok(json!("")),
        Ok(Ok(ended)) => Err(format!(
            "`shutdown` {}: {}",
            ended.status,
            ended.tail.join("\n")
        )),
        Ok(Err(error)) => Err(Chain(&error).to_string()),
        Err(_) => Err("`shutdown` takes too long".to_owned()),
    }
}
