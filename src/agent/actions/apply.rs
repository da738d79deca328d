//! `apply`: stores the spec of this instance, that is, the state that the Director wants the
//! machine to have. The spec of a compilation VM has no jobs and no packages.

use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::{Value, json};

use super::{Action, ActionError};
use crate::agent::Agent;
use crate::agent::arguments::{ArgumentError, first};
use crate::agent::tasks::Cancellation;
use crate::config::json::JsonError;
use crate::fs;
use crate::machine::instance::{ApplySpec, Instance, NetworkNotFound, UnsupportedWork};
use crate::machine::network::DefaultNetwork;
use crate::runtime::{self, TaskFailed};

pub(in crate::agent) const ACTION: Action = Action::Task {
    run: |agent, arguments, _| apply(agent, arguments).map_err(ActionError::new).boxed(),
    cancellation: Cancellation::Unsupported,
    resumes: false,
};

#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("Applying")]
    UnsupportedWork(#[source] UnsupportedWork),
    #[error("Resolving dynamic networks")]
    Networks(#[from] NetworkNotFound),
    #[error("Applying")]
    Write(#[from] fs::Error),
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

/// The argument is not an apply spec.
#[derive(Debug, thiserror::Error)]
#[error("Extracting method arguments from payload: Unmarshalling action argument")]
pub(super) struct SpecError(#[from] pub(super) JsonError);

/// Stores the spec for `get_state` and heartbeats, and writes the files from which scripts read the
/// names of this instance.
async fn apply(agent: &Agent, arguments: &[Value]) -> Result<Value, ApplyError> {
    let [spec] = first(arguments)?;
    let spec = ApplySpec::parse(spec.clone()).map_err(SpecError)?;
    if let Some(work) = spec.unsupported_work() {
        return Err(ApplyError::UnsupportedWork(work));
    }
    let _changing = agent.state.changing.lock().await;
    let (settings, instance) = (agent.live(), Instance::new(agent.vcap()));
    let applying = runtime::spawn_blocking("apply", move || {
        let spec = spec.resolve_networks(&settings.settings, DefaultNetwork::of_this_machine())?;
        Ok::<_, ApplyError>(instance.apply(&spec)?)
    });
    applying.await??;
    Ok(json!("applied"))
}
