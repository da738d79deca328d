//! Dispatches requests: parses a request, runs its action at once or as a task, and builds the
//! reply.

use serde_json::Value;

use super::actions::compile_package::CompilePackageError;
use super::actions::{Action, ActionError, RunTask};
use super::method::Method;
use super::protocol::{Exception, InvalidRequest, Reply, Request, shortened};
use super::tasks::{Interrupted, TaskContext, TaskError, TaskFailure, TaskOptions, TaskOutcome};
use super::{Agent, Answer};
use crate::config::Hidden;
use crate::diag::Chain;

/// The maximum length, in characters, of an unknown method's name in the log and in the reply.
const METHOD_LIMIT: usize = 200;

/// The maximum length of an error's text in bytes. The longest useful ones, of failed scripts, have about
/// 30 KiB. Longer ones quote a request.
const ERROR_LIMIT: usize = 64 << 10;

impl Agent {
    /// Handles one request. The reply has at most `limit` bytes. With `once`, a request with the
    /// same `reply_to` as an earlier one is rejected as a duplicate, because two connections may
    /// deliver the same request during a change of the message bus.
    ///
    /// # Errors
    /// If the bytes are not a valid request, or if it is a duplicate. There is no reply then.
    pub async fn handle(
        &self,
        bytes: &[u8],
        limit: Option<usize>,
        once: bool,
    ) -> Result<Answer, InvalidRequest> {
        let request = Request::parse(bytes)?;
        let action = Method::parse(&request.method)
            .map(|method| (method, method.action_for(request.protocol)));
        let recent = match action {
            Some((_, Action::Task { .. })) => &self.state.recent_tasks,
            _ => &self.state.recent,
        };
        if once && !recent.is_new(&request.reply_to) {
            return Err(InvalidRequest::Duplicate);
        }
        let reply = self.reply(&request, action, bytes).await;
        Ok(Answer {
            body: reply.to_bytes(limit),
            method: request.method,
            reply_to: request.reply_to,
        })
    }

    async fn reply(
        &self,
        request: &Request,
        action: Option<(Method, Action)>,
        bytes: &[u8],
    ) -> Reply {
        let Some((method, action)) = action else {
            tracing::info!(method = shown(&request.method), "request");
            return Reply::Exception(unknown(&request.method).into());
        };
        let result = match action {
            Action::Immediate(run) => {
                log_request(method);
                run(self, &request.arguments)
                    .await
                    .map_err(|error| failure(&error))
            }
            Action::Task {
                run,
                cancellation,
                resumes,
            } => {
                let options = TaskOptions {
                    method: method.name().to_owned(),
                    request: resumes.then(|| Hidden::new(bytes.to_vec())),
                    cancellation,
                };
                let (agent, arguments) = (self.clone(), request.arguments.clone());
                // As in the Go agent, the action parses the arguments when the task runs: if they are
                // invalid, the task fails, not the request that starts it.
                let started = self.tasks().start(options, move |task| async move {
                    agent.run_task(method, run, &arguments, &task).await
                });
                started.await.map_err(|error| {
                    tracing::warn!(method = method.name(), %error, "refused to start a task");
                    error.to_string().into()
                })
            }
        };
        match result {
            Ok(value) => Reply::Value(value),
            Err(TaskFailure { message, log }) => Reply::Exception(Exception {
                message: format!("Action Failed {}: {message}", method.name()),
                blobstore_id: log,
            }),
        }
    }

    /// Starts a task again that was interrupted when the previous process ended.
    pub(super) fn resume(&self, interrupted: Interrupted) -> Result<(), TaskError> {
        let (agent, bytes) = (self.clone(), interrupted.request.clone());
        self.tasks().resume(interrupted, move |task| async move {
            let request = Request::parse(bytes.expose()).map_err(|error| error.to_string())?;
            let method = Method::parse(&request.method);
            match method.map(|method| (method, method.action_for(request.protocol))) {
                Some((method, Action::Task { run, .. })) => {
                    agent.run_task(method, run, &request.arguments, &task).await
                }
                _ => Err(unknown(&request.method).into()),
            }
        })
    }

    async fn run_task(
        &self,
        method: Method,
        run: RunTask,
        arguments: &[Value],
        task: &TaskContext,
    ) -> TaskOutcome {
        let method = method.name();
        tracing::info!(method, "task started");
        match run(self, arguments, task).await {
            Ok(value) => {
                tracing::info!(method, "task succeeded");
                Ok(value)
            }
            Err(error) => {
                let failure = failure(&error);
                tracing::warn!(method, error = failure.message, "task failed");
                Err(failure)
            }
        }
    }
}

/// Logs a request that is answered at once. Tasks are logged with their IDs.
fn log_request(method: Method) {
    match method {
        // A Director sends these requests once per second, so they are not logged by default.
        Method::Ping | Method::GetTask => tracing::debug!(method = method.name(), "request"),
        _ => tracing::info!(method = method.name(), "request"),
    }
}

/// The text of an error, and the log if a failed compilation caused it.
fn failure(error: &ActionError) -> TaskFailure {
    let log = if let Some(CompilePackageError::Compile(failure)) = error.find() {
        failure.log.as_ref().map(ToString::to_string)
    } else if let Some(TaskError::Failed { failure, .. }) = error.find() {
        failure.log.clone()
    } else {
        None
    };
    TaskFailure {
        message: shortened(Chain(error).to_string(), ERROR_LIMIT),
        log,
    }
}

/// The reply to an unknown method. Directors search for this text.
fn unknown(method: &str) -> String {
    let method: String = method.chars().take(METHOD_LIMIT).collect();
    format!("unknown message {method}")
}

/// A method's name as it appears in the log.
fn shown(method: &str) -> String {
    method
        .chars()
        .take(METHOD_LIMIT)
        .flat_map(char::escape_default)
        .collect()
}

#[cfg(test)]
mod tests;
