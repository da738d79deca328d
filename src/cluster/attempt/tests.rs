//! Attempts against a server that answers what a test wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bazel_remote_apis::google::bytestream::ReadResponse;
use bazel_remote_apis::google::longrunning::{self, operation};
use bazel_remote_apis::google::protobuf::Any;
use bazel_remote_apis::google::rpc;
use prost::Message as _;

use super::*;
use crate::cluster::action::tests::{common, inputs};
use crate::package_job::{
    Agent, Blame, Blob, CompiledBlob, LogLine, PackageFailureReport, PackageResult, REPORT_VERSION,
    ReportedDependency,
};
use crate::reapi::testing::{Reply, TestServer};
use crate::reapi::{Code, messages as api};

fn report(exit_code: u8) -> PackageReport {
    let is_compiled = exit_code == 0;
    PackageReport {
        format_version: REPORT_VERSION,
        agent: Agent::this(),
        name: "app".to_owned(),
        version: "abc".to_owned(),
        stemcell: None,
        machine_stemcell: None,
        architecture: "x86_64".to_owned(),
        isolation: None,
        started: String::new(),
        seconds: 1.0,
        result: match is_compiled {
            true => PackageResult::Compiled,
            false => PackageResult::Failed,
        },
        exit_code,
        failure_kind: (!is_compiled).then_some(Blame::Script),
        errors: Vec::new(),
        warnings: Vec::new(),
        source: None,
        dependencies: Vec::new(),
        compiled: is_compiled.then(|| CompiledBlob {
            size: 7,
            sha1: String::new(),
            sha256: Digest::of(b"package").sha256,
            compression: "gzip".to_owned(),
        }),
        unrestricted: false,
        phases: Vec::new(),
        times: None,
        script: None,
        second_run: None,
        has_log: false,
        last_lines: Vec::new(),
        failure: (!is_compiled).then(|| PackageFailureReport {
            kind: Blame::Script,
            message: "the script failed".to_owned(),
            exit_code: Some(1),
            signal: None,
            error_line: None,
            last_lines: ["one", "two", "three"].map(str::to_owned).into(),
            hints: Vec::new(),
        }),
    }
}

pub(in crate::cluster) fn text(exit_code: u8) -> Vec<u8> {
    serde_json::to_vec(&report(exit_code)).unwrap()
}

#[test]
fn texts_of_another_machine_are_shortened() {
    let mut report = report(1);
    let long = "m\u{1b}".repeat(5000);
    report.errors = vec![long.clone(); 200];
    let failure = report.failure.as_mut().unwrap();
    failure.message.clone_from(&long);
    failure.hints = vec![long.clone()];
    failure.last_lines = vec![long.clone()];
    failure.error_line = Some(LogLine {
        number: 1,
        text: long,
    });
    check::limit(&mut report, 2);
    let failure = report.failure.unwrap();
    assert_eq!(report.errors.len(), 100);
    let line = failure.error_line.unwrap();
    let texts = [
        &report.errors[0],
        &failure.message,
        &failure.hints[0],
        &line.text,
    ];
    for text in texts {
        assert!(text.len() < 8000, "{} bytes", text.len());
        assert!(!text.contains('\u{1b}'));
    }
    // Where they are shown, their control characters are escaped.
    assert_eq!(failure.last_lines[0].chars().count(), 1000);
}

/// An execution that has ended with this exit code and, if it is one of ours, with a report.
pub(in crate::cluster) fn ended(exit_code: u8, is_cached: bool) -> Reply {
    ended_with(exit_code, is_cached, &text(exit_code))
}

/// The same with this report.
fn ended_with(exit_code: u8, is_cached: bool, report: &[u8]) -> Reply {
    let file = |path: &str, content: &[u8]| api::OutputFile {
        path: path.to_owned(),
        digest: Some(Digest::of(content).message()),
        ..Default::default()
    };
    let report = (exit_code <= 4).then(|| file(action::REPORT, report));
    let package = (exit_code == 0).then(|| file(action::PACKAGE, b"package"));
    let result = ActionResult {
        output_files: report.into_iter().chain(package).collect(),
        exit_code: exit_code.into(),
        ..Default::default()
    };
    response(&api::ExecuteResponse {
        result: Some(result),
        cached_result: is_cached,
        ..Default::default()
    })
}

fn response(response: &api::ExecuteResponse) -> Reply {
    Reply::messages(&[longrunning::Operation {
        name: "1".to_owned(),
        done: true,
        result: Some(operation::Result::Response(Any {
            type_url: String::new(),
            value: response.encode_to_vec(),
        })),
        ..Default::default()
    }])
}

/// A server that answers executions with these replies, in their order, and lacks blobs with these SHA-256.
async fn server(executions: Vec<Reply>, missing: Vec<Digest>) -> TestServer {
    server_with(executions, missing, Vec::new()).await
}

/// The same; it has also these reports.
async fn server_with(
    executions: Vec<Reply>,
    missing: Vec<Digest>,
    reports: Vec<Vec<u8>>,
) -> TestServer {
    let count = AtomicUsize::new(0);
    TestServer::start(move |method, request| match method {
        "Execute" => executions[count.fetch_add(1, Ordering::Relaxed)].clone(),
        "FindMissingBlobs" => {
            let asked = api::FindMissingBlobsRequest::decode(request[0].as_slice()).unwrap();
            let asked = asked.blob_digests.into_iter();
            let lost = asked.filter(|it| missing.iter().any(|lost| lost.message() == *it));
            Reply::messages(&[api::FindMissingBlobsResponse {
                missing_blob_digests: lost.collect(),
            }])
        }
        "Read" => {
            let name = String::from_utf8_lossy(&request[0]).into_owned();
            let codes = 0..=4;
            let mut texts = codes.map(text).chain(reports.iter().cloned());
            let found = texts.find(|it| name.contains(&Digest::of(it).sha256));
            match found {
                Some(data) => Reply::messages(&[ReadResponse { data }]),
                None => Reply::status(Code::NotFound),
            }
        }
        _ => Reply::status(Code::Unimplemented),
    })
    .await
}

async fn build(server: &TestServer) -> Result<Built, AttemptError> {
    build_with(server, common(), &inputs(&["go"])).await
}

async fn build_with(
    server: &TestServer,
    common: Common,
    inputs: &Inputs,
) -> Result<Built, AttemptError> {
    let common = Common {
        server: Arc::new(server.client()),
        ..common
    };
    let stop = CancellationToken::new();
    let cluster = Cluster::new(common);
    let stops = (&stop, &stop);
    cluster.build(inputs, &[], false, stops, &|_| {}).await
}

/// For each execution, whether results of earlier runs were refused.
fn skipped(server: &TestServer) -> Vec<bool> {
    let requests = server.calls_of("Execute").into_iter();
    let requests = requests.map(|it| api::ExecuteRequest::decode(it[0].as_slice()).unwrap());
    requests.map(|it| it.skip_cache_lookup).collect()
}

#[tokio::test]
async fn package_is_executed_again_after_a_failure_of_its_machine() {
    let server = server(
        vec![ended(4, false), ended(137, false), ended(0, false)],
        vec![],
    )
    .await;
    let built = build(&server).await.unwrap();
    assert_eq!(built.package, Digest::of(b"package"));
    assert_eq!(skipped(&server), [false, true, true]);
}

#[tokio::test]
async fn failed_script_is_not_executed_again() {
    let server = server(vec![ended(1, false)], vec![]).await;
    let Err(AttemptError::Failed(failure)) = build(&server).await else {
        panic!("no failure");
    };
    assert_eq!(failure.to_string(), "the script failed");
    assert_eq!(skipped(&server), [false]);
}

#[tokio::test]
async fn failure_of_an_earlier_run_is_not_used() {
    let server = server(vec![ended(1, true), ended(0, false)], vec![]).await;
    assert!(!build(&server).await.unwrap().is_cached);
    assert_eq!(skipped(&server), [false, true]);
}

#[tokio::test]
async fn server_that_repeats_the_failure_of_an_earlier_run_is_reported() {
    let executions = vec![ended(1, true); ATTEMPTS as usize + 1];
    let server = server(executions, vec![]).await;
    let Err(AttemptError::Failed(failure)) = build(&server).await else {
        panic!("no failure");
    };
    assert_eq!(
        failure.to_string(),
        "the server repeatedly returned the failure of an earlier execution instead of executing the action"
    );
    assert!(failure.is_of_the_server());
}

#[tokio::test]
async fn result_whose_files_are_lost_is_not_used() {
    let lost = vec![Digest::of(b"package")];
    let server = server(vec![ended(0, true), ended(0, false)], lost).await;
    assert!(!build(&server).await.unwrap().is_cached);
    assert_eq!(skipped(&server), [false, true]);
}

#[tokio::test]
async fn lost_dependency_is_reported() {
    let status = rpc::Status {
        code: Code::FailedPrecondition as i32,
        ..Default::default()
    };
    let refused = response(&api::ExecuteResponse {
        status: Some(status),
        ..Default::default()
    });
    let dependency = Digest::of(b"go");
    let lacks = server(vec![refused.clone()], vec![dependency.clone()]).await;
    let Err(AttemptError::Lost(lost)) = build(&lacks).await else {
        panic!("nothing is lost");
    };
    assert_eq!(lost, [dependency]);
    // Nothing is missing now: another run has stored it.
    let has = server(vec![refused, ended(0, false)], vec![]).await;
    assert!(build(&has).await.is_ok());
}

/// A changed report of a compiled package.
fn changed(change: impl FnOnce(&mut PackageReport)) -> Vec<u8> {
    let mut report = report(0);
    change(&mut report);
    serde_json::to_vec(&report).unwrap()
}

#[tokio::test]
async fn result_with_a_wrong_report_is_not_used() {
    let wrong = [
        b"no JSON".to_vec(),
        changed(|it| it.name = "other".to_owned()),
        changed(|it| it.result = PackageResult::Failed),
        changed(|it| it.compiled = None),
        changed(|it| {
            it.source = Some(Blob {
                size: 1,
                sha1: None,
                sha256: Some(Digest::of(b"other").sha256),
            });
        }),
    ];
    for report in wrong {
        for is_cached in [true, false] {
            let executions = vec![ended_with(0, is_cached, &report), ended(0, false)];
            let server = server_with(executions, vec![], vec![report.clone()]).await;
            let built = build(&server).await.unwrap();
            assert_eq!(built.package, Digest::of(b"package"));
            assert_eq!(skipped(&server), [false, true]);
        }
    }
}

#[tokio::test]
async fn machine_that_reads_other_files_is_to_blame() {
    let mut failed = report(3);
    failed.source = Some(Blob {
        size: 1,
        sha1: None,
        sha256: Some(Digest::of(b"other").sha256),
    });
    let failed = serde_json::to_vec(&failed).unwrap();
    let executions = vec![ended_with(3, false, &failed), ended(0, false)];
    let server = server_with(executions, vec![], vec![failed]).await;
    assert!(build(&server).await.is_ok());
}

#[tokio::test]
async fn machine_that_cannot_read_its_inputs_is_to_blame() {
    let failed = |source, dependency| {
        let mut failed = report(3);
        failed.failure_kind = Some(Blame::Input);
        let blob = |text: &[u8]| Blob {
            size: text.len() as u64,
            sha1: None,
            sha256: Some(Digest::of(text).sha256),
        };
        failed.source = Some(blob(b"source")).filter(|_| source);
        failed.dependencies = vec![ReportedDependency {
            name: "go".to_owned(),
            version: "1".to_owned(),
            blob: Some(blob(b"go")).filter(|_| dependency),
        }];
        serde_json::to_vec(&failed).unwrap()
    };
    for (source, dependency) in [(false, false), (true, false), (false, true)] {
        let failed = failed(source, dependency);
        let executions = vec![ended_with(3, false, &failed), ended(0, false)];
        let server = server_with(executions, vec![], vec![failed]).await;
        assert!(build(&server).await.is_ok(), "{source} {dependency}");
    }
    // The machine has read everything: the package is to blame.
    let failed = failed(true, true);
    let executions = vec![ended_with(3, false, &failed)];
    let server = server_with(executions, vec![], vec![failed]).await;
    assert!(build(&server).await.is_err());
    assert_eq!(skipped(&server).len(), 1);
}

/// An update of an execution in this stage.
fn in_stage(stage: api::execution_stage::Value) -> longrunning::Operation {
    let metadata = api::ExecuteOperationMetadata {
        stage: stage as i32,
        ..Default::default()
    };
    longrunning::Operation {
        name: "1".to_owned(),
        metadata: Some(Any {
            type_url: String::new(),
            value: metadata.encode_to_vec(),
        }),
        ..Default::default()
    }
}

/// A server whose executions get this answer, and those that are continued the other one.
async fn executing(first: Reply, continued: Reply) -> TestServer {
    TestServer::start(move |method, _| match method {
        "Execute" => first.clone(),
        "WaitExecution" => continued.clone(),
        "FindMissingBlobs" => Reply::messages(&[api::FindMissingBlobsResponse::default()]),
        "CancelOperation" => Reply::messages(&[()]),
        _ => Reply::status(Code::Unimplemented),
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn execution_that_exceeds_its_time_limit_is_canceled() {
    use api::execution_stage::Value;
    let running = in_stage(Value::Executing);
    // Some servers send updates without a stage, which say nothing.
    for updates in [
        vec![running.clone()],
        vec![running, in_stage(Value::Unknown)],
    ] {
        let silent = Reply::messages(&updates).silent();
        let server = executing(silent.clone(), silent).await;
        let common = Common {
            timeout: Some(3600),
            ..common()
        };
        let start = Instant::now();
        let built = build_with(&server, common, &inputs(&["go"])).await;
        let Err(AttemptError::Failed(failure)) = built else {
            panic!("no failure");
        };
        assert!(
            matches!(failure, RemoteFailure::TimedOut { .. }),
            "{failure}"
        );
        assert_eq!(start.elapsed().as_secs(), 3600 + LATE.as_secs());
        assert_eq!(server.calls_of("CancelOperation").len(), 1);
    }
}

#[tokio::test]
async fn execution_that_cannot_be_watched_is_canceled() {
    let running = in_stage(api::execution_stage::Value::Executing);
    let first = Reply::messages(&[running]).lost();
    let server = executing(first, Reply::status(Code::PermissionDenied)).await;
    let Err(AttemptError::Failed(failure)) = build(&server).await else {
        panic!("no failure");
    };
    assert!(matches!(failure, RemoteFailure::Call { .. }), "{failure}");
    assert_eq!(server.calls_of("CancelOperation").len(), 1);
}

#[tokio::test]
async fn unrestricted_result_of_an_earlier_run_needs_the_flag() {
    let report = changed(|it| it.unrestricted = true);
    let executions = || vec![ended_with(0, true, &report), ended_with(0, false, &report)];
    let refuses = server_with(executions(), vec![], vec![report.clone()]).await;
    assert!(!build(&refuses).await.unwrap().is_cached);
    let takes = server_with(executions(), vec![], vec![report.clone()]).await;
    let common = Common {
        accepts_unrestricted: true,
        ..common()
    };
    let built = build_with(&takes, common, &inputs(&[])).await;
    assert!(built.unwrap().is_cached);
}

#[tokio::test]
async fn dependent_of_an_unrestricted_package_is_not_looked_up() {
    let server = server(vec![ended(0, false)], vec![]).await;
    let inputs = Inputs {
        is_unrestricted: true,
        ..inputs(&["go"])
    };
    assert!(build_with(&server, common(), &inputs).await.is_ok());
    assert_eq!(skipped(&server), [true]);
}

#[tokio::test]
async fn failure_has_the_wanted_number_of_lines() {
    let server = server(vec![ended(1, false)], vec![]).await;
    let Err(AttemptError::Failed(failure)) = build(&server).await else {
        panic!("no failure");
    };
    let failure = failure.report().unwrap().failure.as_ref().unwrap();
    assert_eq!(failure.last_lines, ["two", "three"]);
}

#[tokio::test]
async fn calls_of_a_busy_server_are_repeated() {
    let count = AtomicUsize::new(0);
    let server = TestServer::start(move |method, _| {
        // Each call succeeds the second time.
        if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            return Reply::status(Code::Unavailable);
        }
        match method {
            "Execute" => ended(0, true),
            "FindMissingBlobs" => Reply::messages(&[api::FindMissingBlobsResponse::default()]),
            "Read" => Reply::messages(&[ReadResponse { data: text(0) }]),
            _ => Reply::status(Code::Unimplemented),
        }
    })
    .await;
    assert!(build(&server).await.unwrap().is_cached);
}
