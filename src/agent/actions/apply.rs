//! `apply`: what this machine is to be. A compilation VM is to be nothing but itself.

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::agent::arguments::take;
use crate::agent::tasks::Outcome;
use crate::diag::Chain;
use crate::machine::instance::{ApplySpec, Instance};
use crate::machine::network::DefaultNetwork;
use crate::runtime;

/// Remembers the spec, which `get_state` and heartbeats tell, and writes the files by which others know the instance.
pub(in crate::agent) async fn apply(agent: &Agent, arguments: &[Value]) -> Outcome {
    let [spec] = take(arguments).map_err(|error| error.to_string())?;
    let spec = ApplySpec::parse(spec.clone()).map_err(|error| {
        format!(
            "Extracting method arguments from payload: Unmarshalling action argument: {}",
            Chain(&error)
        )
    })?;
    if let Some(work) = spec.has_work() {
        return Err(format!(
            "Applying: {work}, which this agent cannot: it only compiles packages"
        ));
    }
    let _turn = agent.inner.changing.lock().await;
    let spec = spec
        .resolve_networks(&agent.live().settings, DefaultNetwork::of_this_machine())
        .map_err(|error| format!("Resolving dynamic networks: {error}"))?;
    let instance = Instance::new(agent.vcap());
    let applying = runtime::spawn_blocking("apply", move || instance.apply(&spec));
    match applying.await {
        Ok(Ok(())) => Ok(json!("applied")),
        Ok(Err(error)) => Err(format!("Applying: {}", Chain(&error))),
        Err(error) => Err(Chain(&error).to_string()),
    }
}
