//! Schedules against a server that answers what a test wants.

use bazel_remote_apis::google::bytestream::ReadResponse;
use bazel_remote_apis::google::longrunning;
use bazel_remote_apis::google::protobuf::Any;
use prost::Message as _;

use super::*;
use crate::cluster::action::{self, tests::common};
use crate::cluster::attempt::tests::{ended, text};
use crate::cluster::common::Common;
use crate::fs;
use crate::reapi::messages as api;
use crate::reapi::testing::{Reply, TestServer};
use crate::reapi::{Code, Digest};

/// The events of a run, in words.
#[derive(Debug, Default)]
struct Heard(Vec<String>);

impl ClusterCaller for Heard {
    fn hear(&mut self, event: ClusterEvent) {
        self.0.push(match event {
            ClusterEvent::Started(id) => format!("{} started", id.index()),
            ClusterEvent::Entered(id, stage) => format!("{} is {stage:?}", id.index()),
            ClusterEvent::Built(id, _) => format!("{} built", id.index()),
            ClusterEvent::Ended(id, Ok(_)) => format!("{} downloaded", id.index()),
            ClusterEvent::Ended(id, Err(failure)) => format!("{}: {failure}", id.index()),
            ClusterEvent::GivenUp(id, failure) => format!("{} gives up: {failure}", id.index()),
            ClusterEvent::Provided(id) => format!("{} provided", id.index()),
        });
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
    let common = Common {
        server: Arc::new(server.client()),
        ..common()
    };
    let mut heard = Heard::default();
    let cluster = Arc::new(Cluster::new(common));
    let stop = CancellationToken::new();
    plan.run(&cluster, limits, &stop, &mut heard).await;
    heard.0
}

fn queued() -> Reply {
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
    Reply::messages(&[operation]).silent()
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
        let heard = run(&server, plan, limits(gives_up, Some(limit))).await;
        let ends = &heard[heard.len() - 2..];
        let reason = "no machine has taken a package from the server's queue within 10m00s";
        let first = match gives_up {
            true => format!("gives up: {reason}"),
            false => format!(": {reason}"),
        };
        assert!(ends[0].ends_with(&first), "{heard:?}");
        assert!(ends[1].ends_with(": stopped"), "{heard:?}");
        assert_eq!(server.calls_of("CancelOperation").len(), 2);
    }
}

#[tokio::test]
async fn given_up_server_keeps_what_it_has_compiled() {
    let directory = tempfile::tempdir().unwrap();
    let first = Inputs {
        name: Name::parse("app").unwrap(),
        version: Version::parse("abc").unwrap(),
        source: Digest::of(b"source"),
        dependencies: Vec::new(),
        is_unrestricted: false,
    };
    let first = action::action(&common(), &first).unwrap().digest.sha256;
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
    let mut plan = Plan::default();
    let app = plan.add(package("app", directory.path(), &[]));
    plan.add(package("web", directory.path(), &[app]));
    let heard = run(&server, plan, limits(true, None)).await;
    assert_eq!(heard[..3], ["0 started", "0 built", "1 started"]);
    assert!(heard[3].starts_with("1 gives up: "), "{heard:?}");
    assert_eq!(heard[4..], ["0: stopped"]);
}
