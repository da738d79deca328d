//! `cancel_task`: stops a task.

use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::get_task::task_id;
use super::{Action, ActionResult};
use crate::agent::Agent;

pub(in crate::agent) const ACTION: Action =
    Action::Immediate(|agent, arguments| std::future::ready(cancel_task(agent, arguments)).boxed());

fn cancel_task(agent: &Agent, arguments: &[Value]) -> ActionResult {
    agent.tasks().cancel(task_id(arguments)?)?;
    Ok(json!("canceled"))
}
