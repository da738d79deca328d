//! From a request's bytes to its reply.

use serde_json::{Value, json};

use super::actions;
use super::arguments::{ArgumentError, take, text};
use super::protocol::{InvalidRequest, Reply, Request};
use super::tasks::{Order, Outcome, Stop, TaskContext};
use super::{Agent, Answered};
use crate::config::Hidden;

/// How much of an unknown method's name is repeated.
const METHOD_LIMIT: usize = 200;

impl Agent {
    /// Handles one request. The reply has at most `limit` bytes. With `once`, requests are told apart by where their
    /// replies go, and a copy is not handled: while the bus is changed, two connections may bring the same one.
    ///
    /// # Errors
    /// When the bytes are no request, or a copy of one: then nobody can be answered.
    pub async fn handle(
        &self,
        bytes: &[u8],
        limit: Option<usize>,
        once: bool,
    ) -> Result<Answered, InvalidRequest> {
        let request = Request::parse(bytes)?;
        if once && !self.inner.recent.is_new(&request.reply_to) {
            return Err(InvalidRequest::Copy);
        }
        let reply = self.reply(&request, bytes).await;
        Ok(Answered {
            body: reply.to_bytes(limit),
            method: request.method,
            reply_to: request.reply_to,
        })
    }

    async fn reply(&self, request: &Request, bytes: &[u8]) -> Reply {
        let method = request.method.as_str();
        let arguments = &request.arguments;
        match method {
            // A Director asks these once a second.
            "ping" | "get_task" => tracing::debug!(method, "request"),
            _ => tracing::info!(method = shown(method), "request"),
        }
        let answer: Result<Value, String> = match method {
            "ping" => Ok(json!("pong")),
            "info" => Ok(json!({ "api_version": 1 })),
            "get_task" => self.about_task(arguments, |id| self.tasks().get(id)),
            "cancel_task" => self.about_task(arguments, |id| {
                self.tasks().cancel(id).map(|()| json!("canceled"))
            }),
            "get_state" => actions::get_state(self, arguments).await,
            "shutdown" => actions::shutdown(self).await,
            _ => match self.start_task(method, arguments, bytes).await {
                Some(answer) => answer,
                None => {
                    let method: String = method.chars().take(METHOD_LIMIT).collect();
                    return Reply::Exception(format!("unknown message {method}"));
                }
            },
        };
        match answer {
            Ok(value) => Reply::Value(value),
            Err(error) => Reply::Exception(format!("Action Failed {method}: {error}")),
        }
    }

    fn about_task<E: std::fmt::Display>(
        &self,
        arguments: &[Value],
        ask: impl FnOnce(&str) -> Result<Value, E>,
    ) -> Result<Value, String> {
        let of = |error: ArgumentError| error.to_string();
        let [id] = take(arguments).map_err(of)?;
        let id = text(id, "task_id").map_err(of)?;
        ask(id).map_err(|error| error.to_string())
    }

    /// Starts a task. `None` when the method is unknown. What is wrong with the arguments is the task's error, as in the Go
    /// agent.
    async fn start_task(
        &self,
        method: &str,
        arguments: &[Value],
        bytes: &[u8],
    ) -> Option<Result<Value, String>> {
        let stop = match method {
            "compile_package"
            | "compile_package_with_signed_url"
            | "fetch_logs"
            | "fetch_logs_with_signed_url" => Stop::WhenTold,
            "apply" | "update_settings" => Stop::Never,
            _ => return None,
        };
        let order = Order {
            method: method.to_owned(),
            again: (method == "update_settings").then(|| Hidden::new(bytes.to_vec())),
            stop,
        };
        let (agent, method, arguments) = (self.clone(), method.to_owned(), arguments.to_vec());
        let started = self.tasks().start(order, move |task| async move {
            agent.carry_out(&method, &arguments, &task).await
        });
        Some(started.await.map_err(|error| error.to_string()))
    }

    /// Carries out a task.
    pub(super) async fn carry_out(
        &self,
        method: &str,
        arguments: &[Value],
        task: &TaskContext,
    ) -> Outcome {
        let outcome = match method {
            "apply" => actions::apply(self, arguments).await,
            "compile_package" => actions::compile_package(self, arguments, task).await,
            "compile_package_with_signed_url" => {
                actions::compile_package_with_signed_url(self, arguments, task).await
            }
            "fetch_logs" => actions::fetch_logs(self, arguments, task).await,
            "fetch_logs_with_signed_url" => {
                actions::fetch_logs_with_signed_url(self, arguments, task).await
            }
            "update_settings" => actions::update_settings(self, arguments).await,
            other => Err(format!("unknown message {other}")),
        };
        match &outcome {
            Ok(_) => tracing::info!(method, "the task has succeeded"),
            Err(error) => tracing::warn!(method, error, "the task has failed"),
        }
        outcome
    }
}

/// A method's name as it may stand in a log.
fn shown(method: &str) -> String {
    method
        .chars()
        .take(METHOD_LIMIT)
        .flat_map(char::escape_default)
        .collect()
}

#[cfg(test)]
mod tests;
