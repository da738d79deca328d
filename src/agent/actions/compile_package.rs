//! `compile_package`: compiles a package. The source is fetched from the blobstore that the
//! settings name, and the result is stored there.

use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::Value;

use super::{Action, ActionError};
use crate::agent::Agent;
use crate::agent::arguments::ArgumentError;
use crate::agent::compilation::{CompileFailure, CompileRequest};
use crate::agent::tasks::{Cancellation, TaskContext};

pub(in crate::agent) const ACTION: Action = Action::Task {
    run: |agent, arguments, task| {
        compile(agent, CompileRequest::of_blobs(arguments), task)
            .map_err(ActionError::new)
            .boxed()
    },
    cancellation: Cancellation::Supported,
    resumes: false,
};

#[derive(Debug, thiserror::Error)]
pub(in crate::agent) enum CompilePackageError {
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    #[error(transparent)]
    Compile(#[from] CompileFailure),
}

pub(super) async fn compile(
    agent: &Agent,
    request: Result<CompileRequest, ArgumentError>,
    task: &TaskContext,
) -> Result<Value, CompilePackageError> {
    let compiling = agent
        .compiler()
        .compile(request?, agent.changing_blobs(), task);
    Ok(compiling.await?)
}
