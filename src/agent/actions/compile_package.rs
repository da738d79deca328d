//! `compile_package` and `compile_package_with_signed_url`.

use serde_json::Value;

use crate::agent::Agent;
use crate::agent::arguments::ArgumentError;
use crate::agent::compilation::Order;
use crate::agent::tasks::{Outcome, TaskContext};
use crate::diag::Chain;

/// Source and result are in the blobstore of the settings.
pub(in crate::agent) async fn compile_package(
    agent: &Agent,
    arguments: &[Value],
    task: &TaskContext,
) -> Outcome {
    compile(agent, Order::of_blobs(arguments), task).await
}

/// Source and result are behind URLs.
pub(in crate::agent) async fn compile_package_with_signed_url(
    agent: &Agent,
    arguments: &[Value],
    task: &TaskContext,
) -> Outcome {
    compile(agent, Order::of_signed_urls(arguments), task).await
}

async fn compile(
    agent: &Agent,
    order: Result<Order, ArgumentError>,
    task: &TaskContext,
) -> Outcome {
    let order = order.map_err(|error| error.to_string())?;
    let compiled = agent.compiler().compile(order, agent.blobs(), task).await;
    compiled.map_err(|error| Chain(&error).to_string())
}
