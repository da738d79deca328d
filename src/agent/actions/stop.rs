//! `stop`: stops the jobs, of which this machine has none.

use futures_util::FutureExt as _;
use serde_json::json;

use super::Action;
use crate::agent::tasks::Cancellation;

pub(in crate::agent) const ACTION: Action = Action::Task {
    run: |_, _, _| std::future::ready(Ok(json!("stopped"))).boxed(),
    cancellation: Cancellation::Unsupported,
    resumes: false,
};
