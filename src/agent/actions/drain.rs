//! `drain`: prepares the jobs for being stopped. This machine has no jobs, but the agent announces a
//! shutdown to the health monitor.

use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::{Action, ActionError, ActionResult};
use crate::agent::Agent;
use crate::agent::arguments::{first, text};
use crate::agent::tasks::Cancellation;

pub(in crate::agent) const ACTION: Action = Action::Task {
    run: |agent, arguments, _| std::future::ready(drain(agent, arguments)).boxed(),
    cancellation: Cancellation::Supported,
    resumes: false,
};

/// The texts are those of the Go agent.
#[derive(Debug, thiserror::Error)]
enum DrainError {
    #[error("Drain update requires new spec")]
    NoSpec,
    #[error("Unexpected call with drain type 'status'")]
    Status,
}

/// Returns the number of seconds to wait for the jobs.
fn drain(agent: &Agent, arguments: &[Value]) -> ActionResult {
    let [kind] = first(arguments)?;
    match text(kind, "drain type")? {
        "update" if arguments.len() < 2 => Err(ActionError::new(DrainError::NoSpec)),
        "status" => Err(ActionError::new(DrainError::Status)),
        "shutdown" => {
            agent.announce_shutdown();
            Ok(json!(0))
        }
        _ => Ok(json!(0)),
    }
}
