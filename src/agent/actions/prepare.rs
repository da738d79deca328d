//! `prepare`: downloads the jobs and packages of a spec before its `apply`. A spec without jobs and
//! packages needs no download; others are refused.

use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::apply::SpecError;
use super::{Action, ActionError, ActionResult};
use crate::agent::arguments::first;
use crate::agent::tasks::Cancellation;
use crate::machine::instance::{ApplySpec, UnsupportedWork};

pub(in crate::agent) const ACTION: Action = Action::Task {
    run: |_, arguments, _| std::future::ready(prepare(arguments)).boxed(),
    cancellation: Cancellation::Unsupported,
    resumes: false,
};

#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error("Preparing apply spec")]
    UnsupportedWork(#[source] UnsupportedWork),
}

fn prepare(arguments: &[Value]) -> ActionResult {
    let [spec] = first(arguments)?;
    let spec =
        ApplySpec::parse(spec.clone()).map_err(|error| ActionError::new(SpecError(error)))?;
    match spec.unsupported_work() {
        Some(work) => Err(ActionError::new(PrepareError::UnsupportedWork(work))),
        None => Ok(json!("prepared")),
    }
}
