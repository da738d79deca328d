//! `run_script`: runs a script of each job, such as `pre-start`. This machine has no jobs.

use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::{Action, ActionResult};
use crate::agent::arguments::{first, object, text};
use crate::agent::tasks::Cancellation;

pub(in crate::agent) const ACTION: Action = Action::Task {
    run: |_, arguments, _| std::future::ready(run_script(arguments)).boxed(),
    cancellation: Cancellation::Unsupported,
    resumes: false,
};

fn run_script(arguments: &[Value]) -> ActionResult {
    let [name, options] = first(arguments)?;
    text(name, "script name")?;
    object(options, "options")?;
    Ok(json!({}))
}
