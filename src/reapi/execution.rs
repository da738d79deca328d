//! Executes actions on the machines of a server.
//!
//! A server reports an execution as a stream of updates. If the stream is lost, the client opens another one for the same execution. If
//! the server does not know the execution any longer, the client executes the action again, at most `REPEATS` times.

use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use bazel_remote_apis::google::longrunning;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use super::connection::StreamSlot;
use super::digest::{Digest, SHA256};
use super::error::CallError;
use super::outcome::{Outcome, Stage, Update};
use super::server::{Purpose, Server};

use api::execution_client::ExecutionClient;
use longrunning::operations_client::OperationsClient;

/// How often an action is executed again because the server has lost its execution.
const REPEATS: u32 = 3;

/// How long a server may take to send the first update of an execution, in the unit of `Pauses`: 15 minutes.
const FIRST_UPDATE: u32 = 15 * 60;

/// When a stream that lasted this long is lost, the earlier failures are forgotten: proxies limit how long a stream may last.
const LASTING: Duration = Duration::from_secs(60);

/// An action that is executed. If it is dropped, the server may continue the execution: see [`cancel`](Self::cancel).
pub(crate) struct Execution<'a> {
    server: &'a Server,
    action: Digest,
    skip_cache_lookup: bool,
    /// The server's name for the execution, once known.
    name: Option<String>,
    /// The call that opens a stream.
    opening: Option<BoxFuture<'a, Result<Opened, CallError>>>,
    opened: Instant,
    updates: Option<Updates>,
    /// Whether the server has sent an update of the current execution.
    has_updates: bool,
    /// How many streams in a row were lost within `LASTING` and without a new stage.
    failures: u32,
    /// How many executions were lost: the server forgot them, or the connection failed before the first update.
    lost: u32,
    /// When the execution is continued or repeated after an error.
    paused_until: Option<Instant>,
    stage: Stage,
}

/// A change of an execution.
#[derive(Debug)]
pub(crate) enum Event {
    /// The execution has entered a stage, never [`Stage::Unknown`].
    Entered(Stage),
    /// The server has lost the execution, and the action is executed again.
    Repeated,
    /// The execution has ended.
    Ended(Outcome),
}

impl<'a> Execution<'a> {
    /// Prepares an execution; the first call of [`next`](Self::next) starts it. With
    /// `skip_cache_lookup`, the server does not use an earlier result.
    pub(crate) fn new(server: &'a Server, action: &Digest, skip_cache_lookup: bool) -> Self {
        Self {
            server,
            action: action.clone(),
            skip_cache_lookup,
            name: None,
            opening: None,
            opened: Instant::now(),
            updates: None,
            has_updates: false,
            failures: 0,
            lost: 0,
            paused_until: None,
            stage: Stage::Unknown,
        }
    }

    /// Waits for the next stage or the end. Retries after temporary errors. Must not be called after the end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Event, CallError> {
        loop {
            if let Some(end) = self.paused_until {
                tokio::time::sleep_until(end).await;
                self.paused_until = None;
            }
            let error = match self.update_in_time().await {
                Ok(Some(update)) => match update.outcome {
                    Some(outcome) => return Ok(Event::Ended(outcome)),
                    // A server need not say the stage in each update.
                    None if [self.stage, Stage::Unknown].contains(&update.stage) => continue,
                    None => {
                        self.failures = 0;
                        self.stage = update.stage;
                        return Ok(Event::Entered(update.stage));
                    }
                },
                // A proxy may end a silent stream.
                Ok(None) => CallError::failed("Execute", &Status::unavailable("the stream ended")),
                Err(error) => error,
            };
            let lost = self.lost;
            let pause = self.after(error)?;
            self.paused_until = Some(Instant::now() + pause);
            if self.lost > lost {
                self.stage = Stage::Unknown;
                return Ok(Event::Repeated);
            }
        }
    }

    /// Handles the error of a stream. Returns the pause before the execution is continued or repeated; returns the error if it is
    /// permanent, or if there were too many.
    fn after(&mut self, error: CallError) -> Result<Duration, CallError> {
        (self.opening, self.updates) = (None, None);
        let is_unknown = matches!(
            error.code(),
            Some(Code::NotFound | Code::Unimplemented | Code::InvalidArgument)
        );
        if is_unknown && self.name.take().is_some() {
            tracing::debug!(%error, "the server does not know the execution any longer");
        } else if !error.is_passing() {
            return Err(error);
        }
        // Without a code, the connection was lost after the request: the server may execute it.
        let may_run = matches!(
            error,
            CallError::Failed { code: None, .. } | CallError::Silent { .. }
        );
        if self.name.is_none() && (self.has_updates || may_run) {
            self.has_updates = false;
            self.lost += 1;
            if self.lost > REPEATS {
                return Err(error);
            }
        }
        if self.opened.elapsed() >= LASTING && !matches!(error, CallError::Silent { .. }) {
            self.failures = 0;
        }
        self.failures += 1;
        let Some(pause) = self.server.pauses().after(self.failures) else {
            return Err(error);
        };
        tracing::debug!(%error, name = self.name, "continuing an execution");
        Ok(pause)
    }

    /// The next message of the stream. The first one of an execution has a time limit.
    async fn update_in_time(&mut self) -> Result<Option<Update>, CallError> {
        if self.name.is_some() || self.has_updates {
            return self.update().await;
        }
        let limit = self.server.pauses().unit() * FIRST_UPDATE;
        let updated = tokio::time::timeout(limit, self.update()).await;
        updated.unwrap_or(Err(CallError::Silent { limit }))
    }

    /// The next message of the stream; `None` if the stream has ended. Opens a stream if there is
    /// none.
    async fn update(&mut self) -> Result<Option<Update>, CallError> {
        let updates = match &mut self.updates {
            Some(updates) => updates,
            closed => {
                let server = self.server;
                let opening = self.opening.get_or_insert_with(|| {
                    self.opened = Instant::now();
                    match self.name.clone() {
                        Some(name) => Box::pin(server.wait_execution(name)),
                        None => {
                            let action = self.action.clone();
                            Box::pin(server.execute(action, self.skip_cache_lookup))
                        }
                    }
                });
                let opened = opening.await;
                self.opening = None;
                match opened? {
                    Ok(updates) => closed.insert(updates),
                    Err(status) => return refusal("Execute", &status).map(Some),
                }
            }
        };
        let update = match updates.stream.message().await {
            Ok(None) => return Ok(None),
            Ok(Some(update)) => Update::of(&update),
            Err(status) => return refusal("Execute", &status).map(Some),
        };
        self.has_updates = true;
        if !update.name.is_empty() {
            self.name = Some(update.name.clone());
        }
        Ok(Some(update))
    }

    /// Asks the server to stop the execution, which it may ignore. If the server has not sent the execution's name yet, waits for it.
    pub(crate) async fn cancel(&mut self) -> Result<(), CallError> {
        let is_starting = self.opening.is_some() || self.updates.is_some();
        if self.name.is_none() && is_starting {
            self.update().await?;
        }
        match &self.name {
            Some(name) => self.server.cancel_operation(name).await,
            None => Ok(()),
        }
    }
}

/// Converts the error status of a call. The code `FAILED_PRECONDITION` means that the server lacks
/// blobs, and ends the execution.
fn refusal(method: &'static str, status: &Status) -> Result<Update, CallError> {
    Update::of_status(status).ok_or_else(|| CallError::failed(method, status))
}

/// The open stream of an execution.
struct Updates {
    stream: Streaming<longrunning::Operation>,
    /// The slot on the connection.
    _slot: StreamSlot,
}

type Opened = Result<Updates, Status>;

impl Server {
    /// Executes an action.
    async fn execute(&self, action: Digest, skip_cache_lookup: bool) -> Result<Opened, CallError> {
        let request = api::ExecuteRequest {
            instance_name: self.instance.clone(),
            skip_cache_lookup,
            action_digest: Some(action.message()),
            digest_function: SHA256,
            ..Default::default()
        };
        let (channel, slot) = self.execution_channel().await?;
        let mut client = ExecutionClient::with_origin(channel, self.origin.clone());
        Ok(client.execute(request).await.map(|response| Updates {
            stream: response.into_inner(),
            _slot: slot,
        }))
    }

    /// Continues to watch an execution.
    async fn wait_execution(&self, name: String) -> Result<Opened, CallError> {
        let request = api::WaitExecutionRequest { name };
        let (channel, slot) = self.execution_channel().await?;
        let mut client = ExecutionClient::with_origin(channel, self.origin.clone());
        Ok(client
            .wait_execution(request)
            .await
            .map(|response| Updates {
                stream: response.into_inner(),
                _slot: slot,
            }))
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
            // The execution has ended, or the server cannot stop executions.
            Err(status) if matches!(status.code(), Code::NotFound | Code::Unimplemented) => Ok(()),
            Err(status) => Err(CallError::failed("CancelOperation", &status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bazel_remote_apis::google::protobuf::Any;
    use futures_util::FutureExt as _;
    use longrunning::operation;
    use prost::Message as _;

    use super::*;
    use crate::reapi::Pauses;
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
        run_with(&server.client()).await
    }

    async fn run_with(client: &Server) -> Result<(Vec<Stage>, bool), CallError> {
        let action = Digest::of(b"action");
        let mut execution = Execution::new(client, &action, false);
        let mut stages = Vec::new();
        loop {
            match execution.next().await? {
                Event::Entered(stage) => stages.push(stage),
                Event::Repeated => {}
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
    async fn update_without_a_stage_is_no_change() {
        let server = TestServer::start(|_, _| {
            let silent = longrunning::Operation {
                name: NAME.to_owned(),
                ..Default::default()
            };
            Reply::messages(&[silent.clone(), running(), silent, running(), ended()])
        });
        let server = server.await;
        assert_eq!(run(&server).await.unwrap(), (vec![Stage::Running], true));
    }

    #[tokio::test]
    async fn repeated_execution_reports_its_stages_again() {
        let count = AtomicUsize::new(0);
        let server = TestServer::start(move |method, _| match method {
            "Execute" if count.fetch_add(1, Ordering::Relaxed) == 0 => {
                Reply::messages(&[running()]).lost()
            }
            "Execute" => Reply::messages(&[running(), ended()]),
            _ => Reply::status(Code::NotFound),
        });
        let server = server.await;
        let expected = (vec![Stage::Running; 2], true);
        assert_eq!(run(&server).await.unwrap(), expected);
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
    async fn forgotten_executions_are_repeated_three_times() {
        let server = TestServer::start(|method, _| match method {
            "Execute" => Reply::messages(&[running()]).lost(),
            _ => Reply::status(Code::NotFound),
        });
        let server = server.await;
        assert!(run(&server).await.is_err());
        assert_eq!(server.calls_of("Execute").len(), 4);
    }

    #[tokio::test]
    async fn streams_that_are_lost_at_once_end_the_execution() {
        let server = TestServer::start(|_, _| Reply::messages(&[running()]).lost());
        let server = server.await;
        assert!(run(&server).await.is_err());
        assert_eq!(server.calls_of("Execute").len(), 1);
        let continued = server.calls_of("WaitExecution").len();
        let continued = u32::try_from(continued).unwrap();
        let pauses = server.client().pauses();
        assert!(pauses.after(continued).is_some());
        assert!(pauses.after(continued + 1).is_none());
    }

    #[tokio::test]
    async fn silent_server_is_given_up() {
        let server = TestServer::start(|_, _| Reply::messages(&[(); 0]).silent());
        let server = server.await;
        let impatient = Pauses::of(Duration::from_micros(100));
        let client = server.client().with_pauses(impatient);
        let error = run_with(&client).await.unwrap_err();
        assert!(matches!(error, CallError::Silent { .. }), "{error}");
        assert_eq!(server.calls_of("Execute").len(), 4);
    }

    #[tokio::test]
    async fn status_without_missing_blobs_is_a_refusal() {
        let server = TestServer::start(|_, _| Reply::status(Code::FailedPrecondition)).await;
        assert!(!run(&server).await.unwrap().1);
    }

    #[tokio::test]
    async fn execution_without_a_name_is_canceled_when_it_has_one() {
        let server = TestServer::start(|method, _| match method {
            "Execute" => Reply::messages(&[running()]).silent(),
            _ => Reply::messages(&[()]),
        });
        let server = server.await;
        let client = server.client();
        let mut execution = Execution::new(&client, &Digest::of(b"action"), true);
        // The first poll does not send the request yet.
        assert!(execution.next().now_or_never().is_none());
        execution.cancel().await.unwrap();
        assert_eq!(server.calls_of("CancelOperation").len(), 1);
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
