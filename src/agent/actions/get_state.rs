//! `get_state`: reports the applied spec, the settings that a Director compares and, on request,
//! the vitals (load, memory and disks).

use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::Value;

use super::{Action, ActionError};
use crate::agent::{Agent, JOB_STATE};
use crate::fs;
use crate::machine::instance::{InstanceError, MachineState};
use crate::runtime::{self, TaskFailed};

pub(in crate::agent) const ACTION: Action = Action::Immediate(|agent, arguments| {
    get_state(agent, arguments)
        .map_err(ActionError::new)
        .boxed()
});

/// The argument that requests the vitals.
const FULL: &str = "full";

#[derive(Debug, thiserror::Error)]
enum GetStateError {
    #[error("Building full vitals")]
    Vitals(#[from] fs::Error),
    #[error("Getting current spec")]
    Spec(#[from] InstanceError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

async fn get_state(agent: &Agent, arguments: &[Value]) -> Result<Value, GetStateError> {
    let is_full = arguments.first().and_then(Value::as_str) == Some(FULL);
    let agent = agent.clone();
    // Reading a few small files is not worth a task, but a disk that does not respond must not
    // block other requests.
    runtime::spawn_blocking("state", move || read(&agent, is_full)).await?
}

fn read(agent: &Agent, is_full: bool) -> Result<Value, GetStateError> {
    let vitals = is_full.then(|| agent.state.vitals.collect()).transpose()?;
    let spec = agent.state.instance.spec()?;
    let live = agent.live();
    let state = MachineState::new(spec.as_ref(), &live.settings, JOB_STATE, vitals);
    Ok(serde_json::to_value(state)?)
}
