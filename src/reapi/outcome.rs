//! Interprets the messages with which a server reports an execution. No I/O.

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use bazel_remote_apis::google::longrunning::{self, operation};
use bazel_remote_apis::google::protobuf::Any;
use bazel_remote_apis::google::rpc;
use prost::Message as _;
use tonic::{Code, Status};

use super::digest::Digest;

/// The information in one message about an execution.
#[derive(Debug)]
pub(super) struct Update {
    /// The server's name for the execution.
    pub name: String,
    pub stage: Stage,
    /// How the execution ended; `None` while it runs.
    pub outcome: Option<Outcome>,
}

/// A stage of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The server did not report the stage.
    Unknown,
    /// The server searches for an earlier result.
    Searching,
    /// The execution waits for a machine.
    Queued,
    /// A machine fetches the inputs. Many servers do not report this stage.
    Fetching,
    /// The command runs.
    Running,
    /// The execution has ended.
    Ended,
}

/// How an execution ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The command ran.
    Executed(Box<Executed>),
    /// The command was not executed, or was not executed to its end.
    Refused(Refusal),
}

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Executed {
    pub result: api::ActionResult,
    /// Whether the result is from an earlier execution.
    pub is_cached: bool,
}

/// Why a command was not executed, or was not executed to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub code: Code,
    /// The server's explanation.
    pub reason: String,
    /// The blobs that the server lacks.
    pub missing: Vec<Digest>,
}

/// The message `google.rpc.PreconditionFailure`, without the fields that are not used.
#[derive(Clone, PartialEq, prost::Message)]
struct PreconditionFailure {
    #[prost(message, repeated, tag = "1")]
    violations: Vec<Violation>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Violation {
    #[prost(string, tag = "1")]
    r#type: String,
    /// If the type is `MISSING`, the resource name of a blob: `blobs/HASH/SIZE`.
    #[prost(string, tag = "2")]
    subject: String,
}

impl Update {
    pub(super) fn of(operation: &longrunning::Operation) -> Self {
        let metadata = operation.metadata.as_ref();
        let metadata: Option<api::ExecuteOperationMetadata> = metadata.and_then(decode);
        let stage = metadata.as_ref().map_or(Stage::Unknown, stage);
        Self {
            name: operation.name.clone(),
            stage,
            outcome: operation.done.then(|| outcome(operation)),
        }
    }

    /// The end of an execution for which the server lacks blobs (`FAILED_PRECONDITION`); `None` for other codes. Not every server lists
    /// the missing blobs.
    pub(super) fn of_status(status: &Status) -> Option<Self> {
        let details = rpc::Status::decode(status.details());
        let missing = details.map(|it| missing(&it.details)).unwrap_or_default();
        let is_refused = status.code() == Code::FailedPrecondition;
        is_refused.then(|| Self {
            name: String::new(),
            stage: Stage::Ended,
            outcome: Some(Outcome::Refused(Refusal {
                code: status.code(),
                reason: status.message().to_owned(),
                missing,
            })),
        })
    }
}

/// The stage of an execution. The metadata of the machine say whether it still fetches the inputs.
fn stage(metadata: &api::ExecuteOperationMetadata) -> Stage {
    let details = metadata.partial_execution_metadata.as_ref();
    let is_fetching = details.is_some_and(|it| {
        it.input_fetch_start_timestamp.is_some() && it.input_fetch_completed_timestamp.is_none()
    });
    match Stage::of(metadata.stage()) {
        Stage::Running if is_fetching => Stage::Fetching,
        stage => stage,
    }
}

impl Stage {
    fn of(stage: api::execution_stage::Value) -> Self {
        use api::execution_stage::Value;
        match stage {
            Value::Unknown => Self::Unknown,
            Value::CacheCheck => Self::Searching,
            Value::Queued => Self::Queued,
            Value::Executing => Self::Running,
            Value::Completed => Self::Ended,
        }
    }
}

fn outcome(operation: &longrunning::Operation) -> Outcome {
    let refused = |status: &rpc::Status| {
        Outcome::Refused(Refusal {
            code: Code::from(status.code),
            reason: status.message.clone(),
            missing: missing(&status.details),
        })
    };
    let response = match &operation.result {
        Some(operation::Result::Error(status)) => return refused(status),
        Some(operation::Result::Response(response)) => response,
        None => return refused(&unknown("the server sent no result")),
    };
    let Some(response) = decode::<api::ExecuteResponse>(response) else {
        return refused(&unknown("the server sent a result that cannot be read"));
    };
    match (response.status, response.result) {
        (Some(status), _) if status.code != Code::Ok as i32 => refused(&status),
        (_, Some(result)) => Outcome::Executed(Box::new(Executed {
            result,
            is_cached: response.cached_result,
        })),
        (_, None) => refused(&unknown("the server sent no result")),
    }
}

fn unknown(message: &str) -> rpc::Status {
    rpc::Status {
        code: Code::Unknown as i32,
        message: message.to_owned(),
        details: Vec::new(),
    }
}

/// The missing blobs that the details of a status list.
fn missing(details: &[Any]) -> Vec<Digest> {
    let is_precondition = |it: &&Any| it.type_url.ends_with("google.rpc.PreconditionFailure");
    let failures = details.iter().filter(is_precondition);
    let failures = failures.filter_map(decode::<PreconditionFailure>);
    let violations = failures.flat_map(|it| it.violations);
    let missing = violations.filter(|it| it.r#type == "MISSING");
    let digests = missing.filter_map(|it| {
        // On some servers, the resource name starts with the name of the instance.
        let mut parts = it.subject.rsplit('/');
        let (size, hash) = (parts.next()?, parts.next()?);
        Digest::parse(&api::Digest {
            hash: hash.to_owned(),
            size_bytes: size.parse().ok()?,
        })
    });
    digests.collect()
}

fn decode<M: prost::Message + Default>(any: &Any) -> Option<M> {
    M::decode(any.value.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(name: &str, message: &impl prost::Message) -> Any {
        Any {
            type_url: format!("type.googleapis.com/{name}"),
            value: message.encode_to_vec(),
        }
    }

    fn ended(response: &api::ExecuteResponse) -> Outcome {
        let operation = longrunning::Operation {
            name: "1".to_owned(),
            done: true,
            result: Some(operation::Result::Response(any(
                "build.bazel.remote.execution.v2.ExecuteResponse",
                response,
            ))),
            ..Default::default()
        };
        Update::of(&operation).outcome.unwrap()
    }

    fn refusal(outcome: Outcome) -> Refusal {
        match outcome {
            Outcome::Refused(refusal) => refusal,
            Outcome::Executed(executed) => panic!("{executed:?}"),
        }
    }

    #[test]
    fn stage_is_that_of_the_metadata() {
        let metadata = api::ExecuteOperationMetadata {
            stage: api::execution_stage::Value::Executing as i32,
            ..Default::default()
        };
        let operation = longrunning::Operation {
            name: "1".to_owned(),
            metadata: Some(any("x.ExecuteOperationMetadata", &metadata)),
            ..Default::default()
        };
        let update = Update::of(&operation);
        assert_eq!(update.name, "1");
        assert_eq!(update.stage, Stage::Running);
        assert!(update.outcome.is_none());
        let fetching = api::ExecuteOperationMetadata {
            partial_execution_metadata: Some(api::ExecutedActionMetadata {
                input_fetch_start_timestamp: Some(Default::default()),
                ..Default::default()
            }),
            ..metadata
        };
        assert_eq!(stage(&fetching), Stage::Fetching);
        let silent = Update::of(&longrunning::Operation::default());
        assert_eq!(silent.stage, Stage::Unknown);
    }

    #[test]
    fn missing_blobs_are_listed() {
        let blob = Digest::of(b"blob");
        // The bytes of a message that another program encoded.
        let subject = format!("blobs/{}/4", blob.sha256);
        let mut violation = vec![0x0a, 7];
        violation.extend(b"MISSING");
        violation.extend([0x12, subject.len() as u8]);
        violation.extend(subject.as_bytes());
        let mut failure = vec![0x0a, violation.len() as u8];
        failure.extend(violation);
        let other = b"\x0a\x07\x0a\x05QUOTA".to_vec();
        let details = [failure, other, vec![0xff]].map(|value| Any {
            type_url: "type.googleapis.com/google.rpc.PreconditionFailure".to_owned(),
            value,
        });
        let status = rpc::Status {
            code: Code::FailedPrecondition as i32,
            message: "inputs are missing".to_owned(),
            details: details.to_vec(),
        };
        let expected = Refusal {
            code: Code::FailedPrecondition,
            reason: "inputs are missing".to_owned(),
            missing: vec![blob],
        };
        let response = api::ExecuteResponse {
            status: Some(status.clone()),
            ..Default::default()
        };
        assert_eq!(refusal(ended(&response)), expected);
        let of_call = Status::with_details(
            Code::FailedPrecondition,
            "inputs are missing",
            status.encode_to_vec().into(),
        );
        let update = Update::of_status(&of_call).unwrap();
        assert_eq!(refusal(update.outcome.unwrap()), expected);
        let unlisted = Update::of_status(&Status::failed_precondition("no")).unwrap();
        assert!(refusal(unlisted.outcome.unwrap()).missing.is_empty());
        assert!(Update::of_status(&Status::internal("no")).is_none());
    }

    #[test]
    fn end_without_a_result_is_a_refusal() {
        let empty = refusal(ended(&api::ExecuteResponse::default()));
        assert_eq!(empty.code, Code::Unknown);
        let done = longrunning::Operation {
            done: true,
            ..Default::default()
        };
        let none = refusal(Update::of(&done).outcome.unwrap());
        assert_eq!(none.code, Code::Unknown);
    }

    #[test]
    fn cached_result_is_marked() {
        let response = api::ExecuteResponse {
            result: Some(api::ActionResult {
                exit_code: 1,
                ..Default::default()
            }),
            status: Some(rpc::Status::default()),
            cached_result: true,
            ..Default::default()
        };
        let Outcome::Executed(executed) = ended(&response) else {
            panic!("refused");
        };
        assert!(executed.is_cached);
        assert_eq!(executed.result.exit_code, 1);
    }
}
