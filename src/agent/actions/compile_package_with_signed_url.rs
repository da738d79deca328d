//! `compile_package_with_signed_url`: compiles a package. The source is fetched from a signed URL,
//! and the result is uploaded to another one.

use futures_util::{FutureExt as _, TryFutureExt as _};

use super::compile_package::compile;
use super::{Action, ActionError};
use crate::agent::compilation::CompileRequest;
use crate::agent::tasks::Cancellation;

pub(in crate::agent) const ACTION: Action = Action::Task {
    run: |agent, arguments, task| {
        compile(agent, CompileRequest::of_signed_urls(arguments), task)
            .map_err(ActionError::new)
            .boxed()
    },
    cancellation: Cancellation::Supported,
    resumes: false,
};
