//! Schedules against a server that answers what a test wants.

use std::sync::atomic::{AtomicUsize, Ordering};

use bazel_remote_apis::google::bytestream::ReadResponse;
use bazel_remote_apis::google::longrunning;
use bazel_remote_apis::google::protobuf::Any;
use prost::Message as _;

use super::*;
use crate::cluster::action::{self, Inputs, tests::common};
use crate::cluster::attempt::tests::{ended, text};
use crate::cluster::common::{Common, KnownFile};
use crate::cluster::plan::{PlannedPackage, Supply};
use crate::diag::Chain;
use crate::fs;
use crate::reapi::messages as api;
use crate::reapi::testing::{Reply, TestServer};
use crate::reapi::{Code, Digest};
use crate::release::{Name, Version};

/// The events of a run, in words.
#[derive(Debug)]
struct Recorder {
    events: Vec<String>,
    /// Canceled after the first failure.
    failed: CancellationToken,
    /// Whether downloads continue after a failure.
    wants: bool,
}

impl ClusterCaller for Recorder {
    fn on_event(&mut self, event: ClusterEvent) {
        if let ClusterEvent::Ended(_, Err(_)) | ClusterEvent::GivenUp(..) = &event {
            self.failed.cancel();
        }
        self.events.push(match event {
            ClusterEvent::Started(id) => format!("{} started", id.index()),
            ClusterEvent::Entered(id, stage) => format!("{} is {stage:?}", id.index()),
            ClusterEvent::Built(id, _) => format!("{} built", id.index()),
            ClusterEvent::Ended(id, Ok(_)) => format!("{} downloaded", id.index()),
            ClusterEvent::Ended(id, Err(failure)) => {
                format!("{}: {}", id.index(), Chain(&failure))
            }
            ClusterEvent::GivenUp(id, failure) => format!("{} gives up: {failure}", id.index()),
            ClusterEvent::Provided(id) => format!("{} provided", id.index()),
        });
    }

    fn still_wants(&self, _: Id) -> bool {
        self.wants
    }
}

fn package(name: &str, directory: &std::path::Path, dependencies: &[Id]) -> PlannedPackage {
    let source = directory.join("source");
    fs::write(&source, b"source").unwrap();
    PlannedPackage {
        name: Name::parse(name).unwrap(),
        version: Version::parse("abc").unwrap(),
        supply: Supply::Source {
            source: KnownFile {
                path: source,
                digest: Digest::of(b"source"),
            },
            blob: directory.join(name),
            log: directory.join(format!("{name}.log")),
        },
        dependencies: dependencies.to_vec(),
        expected: Duration::ZERO,
    }
}

fn limits(gives_up: bool, queue: Option<Duration>) -> Limits {
    Limits {
        jobs: NonZeroUsize::new(4).unwrap(),
        keep_going: false,
        gives_up,
        queue,
    }
}

async fn run(server: &TestServer, plan: Plan, limits: Limits) -> Vec<String> {
    run_until_failed(server, plan, limits, &CancellationToken::new(), true).await
}

/// Cancels `failed` after the first failure. `wants` is whether downloads continue then.
async fn run_until_failed(
    server: &TestServer,
    plan: Plan,
    limits: Limits,
    failed: &CancellationToken,
    wants: bool,
) -> Vec<String> {
    let common = Common {
        server: Arc::new(server.client()),
        ..common()
    };
    let mut recorder = Recorder {
        events: Vec::new(),
        failed: failed.clone(),
        wants,
    };
    let cluster = Arc::new(Cluster::new(common));
    let stop = CancellationToken::new();
    plan.run(&cluster, limits, &stop, &mut recorder).await;
    recorder.events
}

fn queued() -> Reply {
    in_queue().silent()
}

fn in_queue() -> Reply {
    let metadata = api::ExecuteOperationMetadata {
        stage: api::execution_stage::Value::Queued as i32,
        ..Default::default()
    };
    let operation = longrunning::Operation {
        name: "1".to_owned(),
        metadata: Some(Any {
            type_url: String::new(),
            value: metadata.encode_to_vec(),
        }),
        ..Default::default()
    };
    Reply::messages(&[operation])
}

/// The answers that all tests share.
fn usual(method: &str) -> Reply {
    match method {
        "FindMissingBlobs" => Reply::messages(&[api::FindMissingBlobsResponse::default()]),
        "CancelOperation" => Reply::messages(&[()]),
        _ => Reply::status(Code::Unimplemented),
    }
}

#[tokio::test(start_paused = true)]
async fn packages_that_stay_in_the_queue_end_the_run() {
    let directory = tempfile::tempdir().unwrap();
    for gives_up in [false, true] {
        let server = TestServer::start(|method, _| match method {
            "Execute" => queued(),
            other => usual(other),
        });
        let server = server.await;
        let mut plan = Plan::default();
        plan.add(package("a", directory.path(), &[]));
        plan.add(package("b", directory.path(), &[]));
        let limit = Duration::from_secs(600);
        let events = run(&server, plan, limits(gives_up, Some(limit))).await;
        let ends = &events[events.len() - 2..];
        let reason = "no machine has taken a package from the server's queue within 10m00s";
        let first = match gives_up {
            true => format!("gives up: {reason}"),
            false => format!(": {reason}"),
        };
        assert!(ends[0].ends_with(&first), "{events:?}");
        assert!(ends[1].ends_with(": stopped"), "{events:?}");
        assert_eq!(server.calls_of("CancelOperation").len(), 2);
    }
}

/// A time limit of the queue that tests wait for.
const SHORT: Duration = Duration::from_millis(200);

/// The SHA-256 of the action of a package without dependencies.
fn action_of(name: &str) -> String {
    let inputs = Inputs {
        name: Name::parse(name).unwrap(),
        version: Version::parse("abc").unwrap(),
        source: Digest::of(b"source"),
        dependencies: Vec::new(),
        is_unrestricted: false,
    };
    action::action(&common(), &inputs).unwrap().digest.sha256
}

/// The answer to a download of a report; `None` for another blob.
fn report_in(request: &[Vec<u8>]) -> Option<Reply> {
    let name = String::from_utf8_lossy(&request[0]).into_owned();
    let mut texts = [0, 1].map(text).into_iter();
    let data = texts.find(|it| name.contains(&Digest::of(it).sha256))?;
    Some(Reply::messages(&[ReadResponse { data }]))
}

/// A compiled package, as it is downloaded.
fn package_blob() -> Reply {
    Reply::messages(&[ReadResponse {
        data: b"package".to_vec(),
    }])
}

/// A server that compiles `app`, answers other executions in this way, and sends packages after a token is canceled.
async fn compiling_app(other: Reply, gate: &CancellationToken) -> TestServer {
    let (app, gate) = (action_of("app"), gate.clone());
    TestServer::start(move |method, request| match method {
        "Execute" if String::from_utf8_lossy(&request[0]).contains(&app) => ended(0, false),
        "Execute" => other.clone(),
        "Read" => report_in(request).unwrap_or_else(|| package_blob().held_by(&gate)),
        other => usual(other),
    })
    .await
}

/// The package `app`, and one that depends on it.
fn app_and_dependent(directory: &std::path::Path) -> Plan {
    let mut plan = Plan::default();
    let app = plan.add(package("app", directory, &[]));
    plan.add(package("web", directory, &[app]));
    plan
}

#[tokio::test]
async fn wanted_download_continues_after_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    for (wants, end) in [(true, "0 downloaded"), (false, "0: stopped")] {
        let gate = CancellationToken::new();
        let server = compiling_app(ended(1, false), &gate).await;
        let plan = app_and_dependent(directory.path());
        let limits = limits(false, None);
        let events = run_until_failed(&server, plan, limits, &gate, wants).await;
        let ends = &events[events.len() - 2..];
        assert!(ends[0].starts_with("1: "), "{events:?}");
        assert_eq!(ends[1], end, "{events:?}");
    }
}

#[tokio::test]
async fn full_queue_is_blamed_on_no_package_that_is_downloaded() {
    let directory = tempfile::tempdir().unwrap();
    for gives_up in [false, true] {
        let gate = CancellationToken::new();
        let server = compiling_app(queued(), &gate).await;
        let plan = app_and_dependent(directory.path());
        let limits = limits(gives_up, Some(SHORT));
        let events = run_until_failed(&server, plan, limits, &gate, true).await;
        let ends = &events[events.len() - 2..];
        let reason = "no machine has taken a package from the server's queue within 0.2s";
        let expected = match gives_up {
            true => [format!("1 gives up: {reason}"), "0: stopped".to_owned()],
            false => [format!("1: {reason}"), "0 downloaded".to_owned()],
        };
        assert_eq!(ends, expected, "{events:?}");
        assert_eq!(server.calls_of("CancelOperation").len(), 1);
    }
}

#[tokio::test]
async fn lost_package_that_stays_in_the_queue_ends_the_run() {
    let directory = tempfile::tempdir().unwrap();
    // The package is lost before its dependent is executed, or before it is downloaded.
    for has_dependent in [true, false] {
        let count = AtomicUsize::new(0);
        let app = action_of("app");
        let server = TestServer::start(move |method, request| {
            let names = |it: &str| String::from_utf8_lossy(&request[0]).contains(it);
            match method {
                "Execute" if names(&app) => match count.fetch_add(1, Ordering::Relaxed) {
                    0 => ended(0, false),
                    _ => queued(),
                },
                "Execute" => Reply::status(Code::FailedPrecondition),
                "FindMissingBlobs" if names(&Digest::of(b"package").sha256) => {
                    let lost = Digest::of(b"package").message();
                    Reply::messages(&[api::FindMissingBlobsResponse {
                        missing_blob_digests: vec![lost],
                    }])
                }
                "Read" if has_dependent => report_in(request).unwrap_or_else(package_blob),
                "Read" => report_in(request).unwrap_or_else(|| Reply::status(Code::NotFound)),
                other => usual(other),
            }
        });
        let server = server.await;
        let mut plan = Plan::default();
        let app = plan.add(package("app", directory.path(), &[]));
        if has_dependent {
            plan.add(package("web", directory.path(), &[app]));
        }
        let limits = limits(false, Some(SHORT));
        let events = run(&server, plan, limits).await;
        let failed = usize::from(has_dependent);
        let reason = "no machine has taken a package from the server's queue within 0.2s";
        let expected = format!("{failed}: {reason}");
        assert_eq!(events.last(), Some(&expected), "{events:?}");
        assert_eq!(server.calls_of("Execute").len(), 2 + failed);
        assert_eq!(server.calls_of("CancelOperation").len(), 1);
    }
}

#[tokio::test]
async fn server_without_space_for_inputs_ends_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(|method, request| match method {
        "FindMissingBlobs" => {
            let asked = api::FindMissingBlobsRequest::decode(request[0].as_slice()).unwrap();
            let mut missing = asked.blob_digests;
            missing.retain(|it| *it != common().program.digest.message());
            Reply::messages(&[api::FindMissingBlobsResponse {
                missing_blob_digests: missing,
            }])
        }
        "BatchUpdateBlobs" => Reply::status(Code::ResourceExhausted),
        other => usual(other),
    });
    let server = server.await;
    let mut plan = Plan::default();
    for name in ["a", "b", "c"] {
        plan.add(package(name, directory.path(), &[]));
    }
    let limits = Limits {
        jobs: NonZeroUsize::MIN,
        keep_going: true,
        ..limits(false, None)
    };
    let events = run(&server, plan, limits).await;
    assert_eq!(events.len(), 2, "{events:?}");
    let reason = "0: the server cannot be used: BatchUpdateBlobs failed: ResourceExhausted";
    assert!(events[1].starts_with(reason), "{events:?}");
    assert!(server.calls_of("BatchUpdateBlobs").len() > 1);
    assert!(server.calls_of("Execute").is_empty());
}

#[tokio::test]
async fn outage_ends_all_downloads() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(|method, request| match method {
        "Execute" => ended(0, false),
        "Read" => report_in(request).unwrap_or_else(|| Reply::status(Code::Unavailable)),
        other => usual(other),
    });
    let server = server.await;
    let mut plan = Plan::default();
    // All of them have the report of `app`.
    for _ in 0..12 {
        plan.add(package("app", directory.path(), &[]));
    }
    let limits = Limits {
        keep_going: true,
        ..limits(false, None)
    };
    let events = run(&server, plan, limits).await;
    let ends = |text: &str| events.iter().filter(|it| it.contains(text)).count();
    let failed = ends(": the server cannot be used");
    assert!((1..=4).contains(&failed), "{events:?}");
    assert_eq!(ends(": stopped"), 12 - failed, "{events:?}");
}

#[tokio::test]
async fn lost_executions_of_one_package_do_not_end_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let app = action_of("app");
    let server = TestServer::start(move |method, request| match method {
        "Execute" if String::from_utf8_lossy(&request[0]).contains(&app) => ended(0, false),
        "Execute" => in_queue().lost(),
        "WaitExecution" => Reply::status(Code::NotFound),
        "Read" => report_in(request).unwrap_or_else(package_blob),
        other => usual(other),
    });
    let server = server.await;
    let mut plan = Plan::default();
    plan.add(package("bad", directory.path(), &[]));
    plan.add(package("app", directory.path(), &[]));
    let limits = Limits {
        jobs: NonZeroUsize::MIN,
        keep_going: true,
        ..limits(false, None)
    };
    let events = run(&server, plan, limits).await;
    let is_failure = |it: &String| it.starts_with("0: the server");
    assert!(events.iter().any(is_failure), "{events:?}");
    assert_eq!(events.last().unwrap(), "1 downloaded", "{events:?}");
}

#[tokio::test]
async fn given_up_server_keeps_what_it_has_compiled() {
    let directory = tempfile::tempdir().unwrap();
    let first = action_of("app");
    let server = TestServer::start(move |method, request| {
        let names = |it: &str| String::from_utf8_lossy(&request[0]).contains(it);
        match method {
            // The first package is compiled, the one that depends on it is refused.
            "Execute" if names(&first) => ended(0, false),
            "Execute" => Reply::status(Code::PermissionDenied),
            "Read" if names(&Digest::of(&text(0)).sha256) => {
                Reply::messages(&[ReadResponse { data: text(0) }])
            }
            // The download of the package never ends.
            "Read" => Reply::messages(&[(); 0]).silent(),
            other => usual(other),
        }
    });
    let server = server.await;
    let plan = app_and_dependent(directory.path());
    let events = run(&server, plan, limits(true, None)).await;
    assert_eq!(events[..3], ["0 started", "0 built", "1 started"]);
    assert!(events[3].starts_with("1 gives up: "), "{events:?}");
    assert_eq!(events[4..], ["0: stopped"]);
}
