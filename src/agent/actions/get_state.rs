//! `get_state`: what this machine is, and how it is doing.

use serde_json::Value;

use crate::agent::{Agent, JOB_STATE};
use crate::diag::Chain;
use crate::machine::instance::State;
use crate::runtime;

/// The argument that asks for vitals, too.
const FULL: &str = "full";

/// A few small files are read, which takes no time worth a task; but a disk that hangs must not hold up other requests.
pub(in crate::agent) async fn get_state(
    agent: &Agent,
    arguments: &[Value],
) -> Result<Value, String> {
    let is_full = arguments.first().and_then(Value::as_str) == Some(FULL);
    let agent = agent.clone();
    let looking = runtime::spawn_blocking("state", move || look(&agent, is_full));
    match looking.await {
        Ok(state) => state,
        Err(error) => Err(Chain(&error).to_string()),
    }
}

fn look(agent: &Agent, is_full: bool) -> Result<Value, String> {
    let vitals = is_full
        .then(|| agent.inner.vitals.collect())
        .transpose()
        .map_err(|error| format!("Building full vitals: {}", Chain(&error)))?;
    let spec = agent.inner.instance.spec();
    let spec = spec.map_err(|error| format!("Getting current spec: {}", Chain(&error)))?;
    let live = agent.live();
    let state = State::new(spec.as_ref(), &live.settings, JOB_STATE, vitals);
    serde_json::to_value(state).map_err(|error| error.to_string())
}
