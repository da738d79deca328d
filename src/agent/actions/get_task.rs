//! `get_task`: reports the result of a task, or its progress while it runs.

use futures_util::FutureExt as _;
use serde_json::Value;

use super::{Action, ActionResult};
use crate::agent::Agent;
use crate::agent::arguments::{ArgumentError, first, text};

pub(in crate::agent) const ACTION: Action =
    Action::Immediate(|agent, arguments| std::future::ready(get_task(agent, arguments)).boxed());

fn get_task(agent: &Agent, arguments: &[Value]) -> ActionResult {
    Ok(agent.tasks().get(task_id(arguments)?)?)
}

/// The task ID in the arguments of `get_task` and `cancel_task`.
pub(super) fn task_id(arguments: &[Value]) -> Result<&str, ArgumentError> {
    let [id] = first(arguments)?;
    text(id, "task_id")
}
