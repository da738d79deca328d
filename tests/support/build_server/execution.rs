//! Executions: each waits for a machine, and keeps it for the time of its package.

use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use bazel_remote_apis::google::longrunning::{self, Operation, operation};
use bazel_remote_apis::google::protobuf::Any;
use bazel_remote_apis::google::rpc;
use bosh_agent::package_job::{
    Agent, Blame, CompiledBlob, PackageFailureReport, PackageJob, PackageReport, PackageResult,
    REPORT_VERSION,
};
use bosh_agent::release::digest::BlobDigests;
use bosh_agent::release::{Algorithm, Digests};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use prost::Message;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};

use super::state::{Execution, Services, State, unneeded};

type Reply<T> = Result<Response<T>, Status>;
type Updates = BoxStream<'static, Result<Operation, Status>>;

#[tonic::async_trait]
impl api::execution_server::Execution for Services {
    type ExecuteStream = Updates;
    type WaitExecutionStream = Updates;

    async fn execute(&self, request: Request<api::ExecuteRequest>) -> Reply<Updates> {
        self.called("Execute").await;
        let request = request.into_inner();
        let action = request.action_digest.unwrap_or_default();
        let name = format!("operations/{}", uuid::Uuid::new_v4());
        let earlier = self.results.lock().unwrap().get(&action.hash).cloned();
        if let Some(result) = earlier.filter(|_| !request.skip_cache_lookup) {
            let response = ended(&name, Ok(result), true);
            return Ok(Response::new(stream::iter([Ok(response)]).boxed()));
        }
        let (sender, updates) =
            watch::channel(in_stage(&name, api::execution_stage::Value::Queued));
        let (state, own) = (Arc::clone(&self.0), name.clone());
        let task = tokio::spawn(async move {
            let _machine = state.machines.acquire().await;
            let running = in_stage(&own, api::execution_stage::Value::Executing);
            let _ = sender.send(running);
            let result = state.compile(&action).await;
            if let Ok(result) = &result
                && result.exit_code == 0
            {
                state
                    .results
                    .lock()
                    .unwrap()
                    .insert(action.hash, result.clone());
            }
            let _ = sender.send(ended(&own, result, false));
        });
        let execution = Execution {
            updates: updates.clone(),
            task: task.abort_handle(),
        };
        self.executions.lock().unwrap().insert(name, execution);
        Ok(Response::new(stream_of(updates)))
    }

    async fn wait_execution(&self, request: Request<api::WaitExecutionRequest>) -> Reply<Updates> {
        self.called("WaitExecution").await;
        let name = request.into_inner().name;
        let executions = self.executions.lock().unwrap();
        let execution = executions.get(&name);
        let execution = execution.ok_or_else(|| Status::not_found("no such execution"))?;
        Ok(Response::new(stream_of(execution.updates.clone())))
    }
}

impl State {
    /// Waits for as long as the package takes, and stores a package of random bytes with its log and report.
    async fn compile(&self, action: &api::Digest) -> Result<api::ActionResult, Status> {
        let action: api::Action = self.message(action)?;
        let root: api::Directory = self.message(&action.input_root_digest.unwrap_or_default())?;
        let inputs = root.files.iter();
        let inputs: Vec<_> = inputs.filter_map(|it| it.digest.as_ref()).collect();
        for input in &inputs {
            self.blob(input).ok_or_else(|| missing(input))?;
        }
        let job = root.files.iter().find(|it| it.name == "job.json");
        let job = job.and_then(|it| self.blob(it.digest.as_ref()?));
        let job = job.and_then(|it| PackageJob::parse(&it).ok());
        let job = job.ok_or_else(|| Status::invalid_argument("no job"))?;
        tokio::time::sleep((self.model.time)(job.name.as_str())).await;
        let has_failed = self.model.failing.contains(&job.name.as_str());
        let mut outputs = vec![("out/log", format!("compiled {}\n", job.name).into_bytes())];
        let report = match has_failed {
            true => {
                self.failures.pass().await;
                failed(&job)
            }
            false => {
                let name = format!("{}/{}", job.name, job.version);
                let package = random(&name, self.model.package);
                let report = report(&job, &package);
                outputs.push(("out/package", package));
                report
            }
        };
        outputs.push(("out/report.json", serde_json::to_vec(&report).unwrap()));
        let outputs = outputs.into_iter().map(|(path, data)| {
            let digests = BlobDigests::of(&data);
            let digest = api::Digest {
                hash: digests.sha256().to_owned(),
                size_bytes: data.len() as i64,
            };
            self.store(digest.hash.clone(), Bytes::from(data));
            api::OutputFile {
                path: path.to_owned(),
                digest: Some(digest),
                ..Default::default()
            }
        });
        Ok(api::ActionResult {
            output_files: outputs.collect(),
            exit_code: has_failed.into(),
            execution_metadata: Some(api::ExecutedActionMetadata {
                worker: format!("machine-of-{}", job.name),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    fn message<M: Message + Default>(&self, digest: &api::Digest) -> Result<M, Status> {
        let blob = self.blob(digest).ok_or_else(|| missing(digest))?;
        M::decode(blob).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

/// The error for a missing input.
fn missing(digest: &api::Digest) -> Status {
    Status::failed_precondition(format!("{} is missing", digest.hash))
}

/// Bytes that differ between names.
fn random(name: &str, size: usize) -> Vec<u8> {
    let seed = BlobDigests::of(name.as_bytes());
    let seed = u64::from_str_radix(&seed.sha256()[..16], 16).unwrap();
    let mut state = seed | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(size).collect()
}

fn report(job: &PackageJob, package: &[u8]) -> PackageReport {
    let digests = Digests::of(package, &[Algorithm::Sha1, Algorithm::Sha256]);
    PackageReport {
        format_version: REPORT_VERSION,
        agent: Agent::this(),
        name: job.name.to_string(),
        version: job.version.to_string(),
        stemcell: None,
        machine_stemcell: None,
        architecture: "x86_64".to_owned(),
        isolation: Some("namespace".to_owned()),
        started: "2026-01-01T00:00:00Z".to_owned(),
        seconds: 0.0,
        result: PackageResult::Compiled,
        exit_code: 0,
        failure_kind: None,
        errors: Vec::new(),
        warnings: Vec::new(),
        source: None,
        dependencies: Vec::new(),
        compiled: Some(CompiledBlob {
            size: package.len() as u64,
            sha1: digests.sha1().unwrap_or_default().to_owned(),
            sha256: digests.sha256().unwrap_or_default().to_owned(),
            compression: "gzip".to_owned(),
        }),
        unrestricted: false,
        phases: Vec::new(),
        times: None,
        script: None,
        second_run: None,
        has_log: true,
        last_lines: Vec::new(),
        failure: None,
    }
}

/// The report of a package whose script has failed.
fn failed(job: &PackageJob) -> PackageReport {
    PackageReport {
        result: PackageResult::Failed,
        exit_code: 1,
        failure_kind: Some(Blame::Script),
        compiled: None,
        failure: Some(PackageFailureReport {
            kind: Blame::Script,
            message: "the packaging script exited with 1".to_owned(),
            exit_code: Some(1),
            signal: None,
            error_line: None,
            last_lines: Vec::new(),
            hints: Vec::new(),
        }),
        ..report(job, &[])
    }
}

/// The updates of an execution, from the latest one to the end.
fn stream_of(updates: watch::Receiver<Operation>) -> Updates {
    let next = async |state: Option<(watch::Receiver<Operation>, bool)>| {
        let (mut updates, is_first) = state?;
        if !is_first && updates.changed().await.is_err() {
            return None;
        }
        let update = updates.borrow_and_update().clone();
        let rest = (!update.done).then_some((updates, false));
        Some((Ok(update), rest))
    };
    stream::unfold(Some((updates, true)), next).boxed()
}

fn any(message: &impl Message) -> Any {
    Any {
        type_url: String::new(),
        value: message.encode_to_vec(),
    }
}

fn in_stage(name: &str, stage: api::execution_stage::Value) -> Operation {
    let metadata = api::ExecuteOperationMetadata {
        stage: stage as i32,
        ..Default::default()
    };
    Operation {
        name: name.to_owned(),
        metadata: Some(any(&metadata)),
        ..Default::default()
    }
}

fn ended(name: &str, result: Result<api::ActionResult, Status>, is_cached: bool) -> Operation {
    let (result, status) = match result {
        Ok(result) => (Some(result), rpc::Status::default()),
        Err(status) => {
            let status = rpc::Status {
                code: status.code() as i32,
                message: status.message().to_owned(),
                details: Vec::new(),
            };
            (None, status)
        }
    };
    let response = api::ExecuteResponse {
        result,
        cached_result: is_cached,
        status: Some(status),
        ..Default::default()
    };
    Operation {
        name: name.to_owned(),
        done: true,
        result: Some(operation::Result::Response(any(&response))),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl longrunning::operations_server::Operations for Services {
    async fn list_operations(
        &self,
        _: Request<longrunning::ListOperationsRequest>,
    ) -> Reply<longrunning::ListOperationsResponse> {
        unneeded()
    }

    async fn get_operation(
        &self,
        _: Request<longrunning::GetOperationRequest>,
    ) -> Reply<Operation> {
        unneeded()
    }

    async fn delete_operation(
        &self,
        _: Request<longrunning::DeleteOperationRequest>,
    ) -> Reply<bazel_remote_apis::google::protobuf::Empty> {
        unneeded()
    }

    async fn cancel_operation(
        &self,
        request: Request<longrunning::CancelOperationRequest>,
    ) -> Reply<bazel_remote_apis::google::protobuf::Empty> {
        self.called("CancelOperation").await;
        let name = request.into_inner().name;
        match self.executions.lock().unwrap().remove(&name) {
            Some(execution) => {
                execution.task.abort();
                Ok(Response::new(Default::default()))
            }
            None => Err(Status::new(Code::NotFound, "no such execution")),
        }
    }

    async fn wait_operation(
        &self,
        _: Request<longrunning::WaitOperationRequest>,
    ) -> Reply<Operation> {
        unneeded()
    }
}
