//! `shutdown`: shuts the machine down.

use std::time::Duration;

use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::{Value, json};

use super::{Action, ActionError};
use crate::agent::Agent;
use crate::machine::bootstrap::Platform;
use crate::machine::program::{ProgramError, run_program};

pub(in crate::agent) const ACTION: Action =
    Action::Immediate(|agent, _| shutdown(agent).map_err(ActionError::new).boxed());

/// The time limit of the program `shutdown`. A Director waits 45 seconds for the reply.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum ShutdownError {
    #[error("this machine is not shut down, because the agent was started with `-P dummy`")]
    Dummy,
    #[error("could not shut down this machine")]
    Program(#[from] ProgramError),
}

/// Shuts the machine down. Refused on the platform `dummy`, because that is a developer's machine.
async fn shutdown(agent: &Agent) -> Result<Value, ShutdownError> {
    if agent.platform() == Platform::Dummy {
        return Err(ShutdownError::Dummy);
    }
    let arguments = ["-P", "0"].map(Into::into).into();
    run_program(&agent.programs(), "shutdown", arguments, LIMIT).await?;
    Ok(json!(""))
}
