//! `run_errand`: runs the script of an errand, which is a job. This machine has no jobs.

use futures_util::FutureExt as _;

use super::{Action, ActionError};
use crate::agent::tasks::Cancellation;

pub(in crate::agent) const ACTION: Action = Action::Task {
    run: |_, _, _| std::future::ready(Err(ActionError::new(NoErrand))).boxed(),
    cancellation: Cancellation::Supported,
    resumes: false,
};

/// The text starts like that of the Go agent for a machine without jobs.
#[derive(Debug, thiserror::Error)]
#[error(
    "At least one job template is required to run an errand, but this agent only compiles packages: use a stemcell with the Go agent"
)]
struct NoErrand;
