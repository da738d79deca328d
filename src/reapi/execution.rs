//! Executions of actions on the machines of a server.
//!
//! A server reports an execution as a stream of updates. If the stream is lost, another one continues the same execution; if the server
//! does not know the execution any longer, the action is executed again.

use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use bazel_remote_apis::google::longrunning;
use tonic::{Code, Status, Streaming};

use super::digest::{Digest, SHA256};
use super::error::CallError;
use super::outcome::{Outcome, Stage, Update};
use super::server::{Purpose, Server};

use api::execution_client::ExecutionClient;
use longrunning::operations_client::OperationsClient;

/// The pauses before a lost stream is replaced or a refused action is executed again. The last one follows an outage of about two minutes.
const PAUSES: [Duration; 9] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(15),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// An action that is executed. If it is dropped, the server may continue the execution: see [`cancel`](Self::cancel).
#[derive(Debug)]
pub(crate) struct Execution<'a> {
    server: &'a Server,
    action: Digest,
    skip_cache_lookup: bool,
    /// The server's name of the execution.
    name: Option<String>,
    updates: Option<Streaming<longrunning::Operation>>,
    /// How many streams in a row have failed without an update.
    failures: usize,
    stage: Stage,
}

/// What is known about an execution.
#[derive(Debug)]
pub(crate) enum Event {
    /// It entered a stage.
    Entered(Stage),
    /// It has ended.
    Ended(Outcome),
}

impl<'a> Execution<'a> {
    /// Describes an execution; the first [`next`](Self::next) starts it. With `skip_cache_lookup`, an earlier result is not used.
    pub(crate) fn new(server: &'a Server, action: &Digest, skip_cache_lookup: bool) -> Self {
        Self {
            server,
            action: action.clone(),
            skip_cache_lookup,
            name: None,
            updates: None,
            failures: 0,
            stage: Stage::Unknown,
        }
    }

    /// Waits for the next stage or the end. Not to be called after the end.
    pub(crate) async fn next(&mut self) -> Result<Event, CallError> {
        loop {
            let error = match self.update().await {
                Ok(Some(update)) => {
                    self.failures = 0;
                    if !update.name.is_empty() {
                        self.name = Some(update.name);
                    }
                    match update.outcome {
                        Some(outcome) => return Ok(Event::Ended(outcome)),
                        None if update.stage == self.stage => continue,
                        None => {
                            self.stage = update.stage;
                            return Ok(Event::Entered(update.stage));
                        }
                    }
                }
                // A proxy may end a silent stream.
                Ok(None) => CallError::failed("Execute", &Status::unavailable("the stream ended")),
                Err(error) => error,
            };
            self.updates = None;
            let is_unknown = matches!(
                error.code(),
                Some(Code::NotFound | Code::Unimplemented | Code::InvalidArgument)
            );
            if is_unknown && self.name.take().is_some() {
                tracing::debug!(%error, "the server does not know the execution any longer");
            } else if !error.is_passing() {
                return Err(error);
            }
            let Some(pause) = PAUSES.get(self.failures) else {
                return Err(error);
            };
            self.failures += 1;
            tracing::debug!(%error, name = self.name, "continuing an execution");
            tokio::time::sleep(*pause).await;
        }
    }

    /// The next message of the stream; `None` if it has ended. Opens a stream if there is none.
    async fn update(&mut self) -> Result<Option<Update>, CallError> {
        let updates = match &mut self.updates {
            Some(updates) => updates,
            closed => {
                let opening = match &self.name {
                    Some(name) => self.server.wait_execution(name).await,
                    None => {
                        let action = &self.action;
                        self.server.execute(action, self.skip_cache_lookup).await
                    }
                };
                match opening? {
                    Ok(updates) => closed.insert(updates),
                    Err(status) => return refusal("Execute", &status).map(Some),
                }
            }
        };
        match updates.message().await {
            Ok(update) => Ok(update.map(|update| Update::of(&update))),
            Err(status) => refusal("Execute", &status).map(Some),
        }
    }

    /// Asks the server to stop the execution. A server may ignore that.
    pub(crate) async fn cancel(&self) -> Result<(), CallError> {
        match &self.name {
            Some(name) => self.server.cancel_operation(name).await,
            None => Ok(()),
        }
    }
}

/// A status that lists missing blobs is the end of an execution.
fn refusal(method: &'static str, status: &Status) -> Result<Update, CallError> {
    Update::of_status(status).ok_or_else(|| CallError::failed(method, status))
}

type Opened = Result<Streaming<longrunning::Operation>, Status>;

impl Server {
    /// Executes an action.
    async fn execute(&self, action: &Digest, skip_cache_lookup: bool) -> Result<Opened, CallError> {
        let request = api::ExecuteRequest {
            instance_name: self.instance.clone(),
            skip_cache_lookup,
            action_digest: Some(action.message()),
            digest_function: SHA256,
            ..Default::default()
        };
        let channel = self.channel(Purpose::Execute).await?;
        let mut client = ExecutionClient::with_origin(channel, self.origin.clone());
        Ok(client
            .execute(request)
            .await
            .map(tonic::Response::into_inner))
    }

    /// Continues to watch an execution.
    async fn wait_execution(&self, name: &str) -> Result<Opened, CallError> {
        let request = api::WaitExecutionRequest {
            name: name.to_owned(),
        };
        let channel = self.channel(Purpose::Execute).await?;
        let mut client = ExecutionClient::with_origin(channel, self.origin.clone());
        Ok(client
            .wait_execution(request)
            .await
            .map(tonic::Response::into_inner))
    }

    /// Asks the server to stop an execution.
    async fn cancel_operation(&self, name: &str) -> Result<(), CallError> {
        let request = longrunning::CancelOperationRequest {
            name: name.to_owned(),
        };
        let channel = self.channel(Purpose::Store).await?;
        let mut client = OperationsClient::with_origin(channel, self.origin.clone());
        match client.cancel_operation(request).await {
            Ok(_) => Ok(()),
            // It has ended, or the server cannot stop executions.
            Err(status) if matches!(status.code(), Code::NotFound | Code::Unimplemented) => Ok(()),
            Err(status) => Err(CallError::failed("CancelOperation", &status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bazel_remote_apis::google::protobuf::Any;
    use longrunning::operation;
    use prost::Message as _;

    use super::*;
    use crate::reapi::testing::{Reply, TestServer};

    const NAME: &str = "operations/7";

    fn any(message: &impl prost::Message) -> Any {
        Any {
            type_url: String::new(),
            value: message.encode_to_vec(),
        }
    }

    fn in_stage(stage: api::execution_stage::Value) -> longrunning::Operation {
        let metadata = api::ExecuteOperationMetadata {
            stage: stage as i32,
            ..Default::default()
        };
        longrunning::Operation {
            name: NAME.to_owned(),
            metadata: Some(any(&metadata)),
            ..Default::default()
        }
    }

    fn running() -> longrunning::Operation {
        in_stage(api::execution_stage::Value::Executing)
    }

    fn ended() -> longrunning::Operation {
        let response = api::ExecuteResponse {
            result: Some(api::ActionResult::default()),
            ..Default::default()
        };
        longrunning::Operation {
            name: NAME.to_owned(),
            done: true,
            result: Some(operation::Result::Response(any(&response))),
            ..Default::default()
        }
    }

    /// The stages of an execution, and whether its command ran.
    async fn run(server: &TestServer) -> Result<(Vec<Stage>, bool), CallError> {
        let client = server.client();
        let action = Digest::of(b"action");
        let mut execution = Execution::new(&client, &action, false);
        let mut stages = Vec::new();
        loop {
            match execution.next().await? {
                Event::Entered(stage) => stages.push(stage),
                Event::Ended(outcome) => {
                    return Ok((stages, matches!(outcome, Outcome::Executed(_))));
                }
            }
        }
    }

    #[tokio::test]
    async fn stages_precede_the_result() {
        let server = TestServer::start(|_, _| {
            let queued = in_stage(api::execution_stage::Value::Queued);
            Reply::messages(&[queued.clone(), queued, running(), ended()])
        });
        let server = server.await;
        let expected = (vec![Stage::Queued, Stage::Running], true);
        assert_eq!(run(&server).await.unwrap(), expected);
        // Field 6 is the digest of the action, field 9 the digest function.
        let digest = Digest::of(b"action").message().encode_to_vec();
        let mut request = vec![0x32, digest.len() as u8];
        request.extend(digest);
        request.extend([0x48, 1]);
        assert_eq!(server.calls_of("Execute"), [[request]]);
    }

    #[tokio::test]
    async fn lost_stream_is_continued() {
        let server = TestServer::start(|method, _| match method {
            "Execute" => Reply::messages(&[running()]).lost(),
            _ => Reply::messages(&[running(), ended()]),
        });
        let server = server.await;
        assert_eq!(run(&server).await.unwrap(), (vec![Stage::Running], true));
        let request = api::WaitExecutionRequest {
            name: NAME.to_owned(),
        };
        let request = vec![request.encode_to_vec()];
        assert_eq!(server.calls_of("WaitExecution"), [request]);
        assert_eq!(server.methods().len(), 2);
    }

    #[tokio::test]
    async fn execution_that_the_server_forgot_starts_again() {
        let count = AtomicUsize::new(0);
        let server = TestServer::start(move |method, _| match method {
            "Execute" if count.fetch_add(1, Ordering::Relaxed) == 0 => {
                // The stream ends without a result.
                Reply::messages(&[running()])
            }
            "Execute" => Reply::messages(&[ended()]),
            _ => Reply::status(Code::NotFound),
        });
        let server = server.await;
        assert_eq!(run(&server).await.unwrap(), (vec![Stage::Running], true));
        assert_eq!(server.methods(), ["Execute", "WaitExecution", "Execute"]);
    }

    #[tokio::test]
    async fn busy_server_is_asked_again_and_a_refusal_is_final() {
        let count = AtomicUsize::new(0);
        let server = TestServer::start(move |_, _| match count.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::status(Code::ResourceExhausted),
            1 => Reply::status(Code::Unavailable),
            _ => Reply::status(Code::PermissionDenied),
        });
        let server = server.await;
        let error = run(&server).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::PermissionDenied));
        assert_eq!(server.methods().len(), 3);
    }

    #[tokio::test]
    async fn execution_is_canceled_by_its_name() {
        let server = TestServer::start(|method, _| match method {
            "Execute" => Reply::messages(&[running()]).silent(),
            _ => Reply::messages(&[()]),
        });
        let server = server.await;
        let client = server.client();
        let mut execution = Execution::new(&client, &Digest::of(b"action"), true);
        execution.cancel().await.unwrap();
        assert!(server.methods().is_empty());
        let event = execution.next().await.unwrap();
        assert!(matches!(event, Event::Entered(Stage::Running)));
        execution.cancel().await.unwrap();
        let mut request = vec![0x0a, NAME.len() as u8];
        request.extend(NAME.as_bytes());
        assert_eq!(server.calls_of("CancelOperation"), [[request]]);
    }
}
