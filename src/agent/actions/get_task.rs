//! `get_task`: reports the result of a task, or its progress if it does not end soon.

use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::Value;

use super::{Action, ActionResult};
use crate::agent::Agent;
use crate::agent::arguments::{ArgumentError, first, text};

pub(in crate::agent) const ACTION: Action =
    Action::Immediate(|agent, arguments| get_task(agent, arguments).boxed());

/// How long a reply waits for the end of a running task. This is short compared to the 45 seconds
/// for which a Director waits for a reply.
const WAIT: Duration = Duration::from_millis(400);

async fn get_task(agent: &Agent, arguments: &[Value]) -> ActionResult {
    Ok(agent.tasks().wait(task_id(arguments)?, WAIT).await?)
}

/// The task ID in the arguments of `get_task` and `cancel_task`.
pub(super) fn task_id(arguments: &[Value]) -> Result<&str, ArgumentError> {
    let [id] = first(arguments)?;
    text(id, "task_id")
}
