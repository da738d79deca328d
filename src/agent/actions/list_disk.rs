//! `list_disk`: lists the persistent disks, of which this machine has none.

use futures_util::FutureExt as _;
use serde_json::json;

use super::Action;
use crate::agent::tasks::Cancellation;

/// The first version of the protocol in which the method is a task.
pub(in crate::agent) const TASK_SINCE: i64 = 3;

pub(in crate::agent) const IMMEDIATE: Action =
    Action::Immediate(|_, _| std::future::ready(Ok(json!([]))).boxed());

pub(in crate::agent) const ACTION: Action = Action::Task {
    run: |_, _, _| std::future::ready(Ok(json!([]))).boxed(),
    cancellation: Cancellation::Unsupported,
    resumes: false,
};
