//! `run_script`: runs a script of each job, such as `pre-start`. This machine has no jobs.

use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::{Action, ActionResult};
use crate::agent::short_requests::check_script;
use crate::agent::tasks::Cancellation;

pub(in crate::agent) const ACTION: Action = Action::Task {
    run: |_, arguments, _| std::future::ready(run_script(arguments)).boxed(),
    cancellation: Cancellation::Unsupported,
    resumes: false,
};

fn run_script(arguments: &[Value]) -> ActionResult {
    check_script(arguments)?;
    Ok(json!({}))
}
