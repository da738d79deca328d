//! A thousand compiles and a million polls in one process of the agent: memory, descriptors and the disk stay as at the start.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::scene::{director, https_machine, is_possible, nats_machine, source, spec};
use crate::common::{ReleaseBuilder, is_soak, wait_for};
use crate::https::raw;
use crate::support::blobstore::Blobstore;
use crate::support::certificates::AGENT;
use crate::support::director::Director;
use crate::support::director::compile_stage::CompiledPackages;
use crate::support::nats::{self, NatsServer};
use crate::support::source_release::SourceRelease;
use crate::support::vm::{HostVm, LIMIT, Usage};

/// The memory that the agent and each of its helpers may use at any time, in bytes. The code of a debug build alone needs 40 MB.
fn peak() -> u64 {
    if is_soak() { 40_000_000 } else { 80_000_000 }
}

/// How much the agent's memory may grow after the first compiles. The results of a thousand compiles, which the agent keeps for `get_task`, have
/// 4 MB.
const GROWTH: u64 = 12 << 20;

/// The number of polls that are sent at once.
const BATCH: usize = 100;

/// Sends polls and checks their replies.
enum Poller {
    Nats(nats::Director),
    /// With a connection for each batch, because the agent closes idle ones.
    Https(SocketAddr),
}

impl Poller {
    /// Sends [`BATCH`] polls, those with an even number for `task`, which has ended, the others for a task that does not exist.
    async fn poll(&mut self, task: &str, number: usize) {
        let ids: Vec<String> = (number..number + BATCH)
            .map(|number| format!("p{number}"))
            .collect();
        let request = |at: usize, reply_to: &str| {
            let task = if at.is_multiple_of(2) { task } else { "none" };
            json!({ "protocol": 3, "method": "get_task", "arguments": [task], "reply_to": reply_to }).to_string()
        };
        match self {
            Self::Nats(director) => {
                for (at, id) in ids.iter().enumerate() {
                    director
                        .publish(request(at, &director.reply_to(id)).into_bytes())
                        .await;
                }
                let mut due: HashSet<String> = ids.iter().cloned().collect();
                while !due.is_empty() {
                    let (id, text) = director.reply(LIMIT).await.expect("a reply to each poll");
                    assert!(due.remove(&id));
                    let at = ids.iter().position(|it| *it == id).unwrap();
                    assert_is_reply(at, text.as_bytes());
                }
            }
            Self::Https(address) => {
                let mut stream = BufReader::new(raw(*address).await);
                let requests: String = (0..BATCH)
                    .map(|at| {
                        let body = request(at, "director");
                        // Base64 of mbus:very-secret-word.
                        format!(
                            "POST /agent HTTP/1.1\r\nHost: x\r\nAuthorization: Basic bWJ1czp2ZXJ5LXNlY3JldC13b3Jk\r\n\
                             Content-Length: {}\r\n\r\n{body}",
                            body.len()
                        )
                    })
                    .collect();
                stream.write_all(requests.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                for at in 0..BATCH {
                    assert_is_reply(at, &response(&mut stream).await);
                }
            }
        }
    }
}

/// The body of the next response, whose status is 200.
async fn response(stream: &mut BufReader<TlsStream<TcpStream>>) -> Vec<u8> {
    let (mut length, mut line) = (0, String::new());
    stream.read_line(&mut line).await.unwrap();
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).await.unwrap();
        if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    body
}

#[track_caller]
fn assert_is_reply(at: usize, bytes: &[u8]) {
    let reply: Value = serde_json::from_slice(bytes).unwrap();
    let is_good = match at.is_multiple_of(2) {
        true => reply["value"]["result"]["sha1"].is_string(),
        false => reply["exception"]["message"].is_string(),
    };
    assert!(is_good, "{reply}");
}

/// Packages with dependencies, one that fails, and one that does not end.
fn release() -> SourceRelease {
    let tool =
        "set -e\nmkdir -p $BOSH_INSTALL_TARGET/bin\necho tool > $BOSH_INSTALL_TARGET/bin/tool\n";
    let user = "set -e\ncat @packages@/base/bin/tool > $BOSH_INSTALL_TARGET/said\n";
    let release = ReleaseBuilder::new("tiny", "1")
        .package("base", &[], tool)
        .package("middle", &["base"], user)
        .package("top", &["base", "middle"], user)
        .package(
            "broken",
            &["base"],
            "seq 3000 >&2; echo it is broken >&2; exit 3",
        )
        .package("endless", &[], "sleep 600 & sleep 600");
    source(&release)
}

/// One way to use the agent for a long time.
struct Course {
    vm: HostVm,
    director: Director,
    poller: Poller,
    blobs: Blobstore,
    release: SourceRelease,
    compiled: CompiledPackages,
    /// The task of a compile that succeeded.
    task: String,
}

impl Course {
    /// Compiles the package with this number in an endless sequence, which repeats itself every fifty.
    async fn compile(&mut self, number: usize) {
        let name = match number % 50 {
            10 => "endless",
            9 | 19 | 29 | 39 | 49 => "broken",
            other => ["base", "middle", "top"][other % 3],
        };
        let package = self.release.package(name);
        let started = self
            .director
            .start_compile(package, &self.compiled, &self.blobs);
        let (order, task) = started.await;
        if name == "endless" {
            self.director
                .call("cancel_task", json!([task]))
                .await
                .unwrap();
        }
        let ended = self.director.wait_for_task(&task).await;
        let source = order.arguments[0].as_str().unwrap();
        self.blobs.remove(source);
        match name {
            "endless" => assert!(ended.unwrap_err().exception().contains("canceled")),
            "broken" => assert!(ended.unwrap_err().exception().contains("it is broken")),
            _ => {
                let result = crate::support::director::compile_stage::result(
                    package,
                    &order,
                    &ended.unwrap(),
                );
                let result = result.unwrap();
                if let Some(old) = self.compiled.insert(name.to_owned(), result) {
                    self.blobs.remove(&old.blob);
                }
                self.task = task;
            }
        }
    }

    /// The files below the base directory, and those of installed packages only by their number.
    fn files(&self) -> (Vec<PathBuf>, usize) {
        let (store, mut others): (Vec<PathBuf>, Vec<PathBuf>) = self
            .vm
            .files("")
            .into_iter()
            .partition(|path| path.components().any(|part| part.as_os_str() == "store"));
        // Written with every heartbeat, so it may not exist yet.
        others.retain(|path| !path.ends_with("instance/health.json"));
        // A package may be canceled before its script starts, so it may have no log.
        others.retain(|path| !path.to_string_lossy().contains("/compilation/endless."));
        others.sort();
        (others, store.len())
    }

    async fn run(mut self, (compiles, polls): (usize, usize)) {
        self.director.prepare(&spec()).await.unwrap();
        eprintln!("idle: {}", self.vm.usage());
        let warm = 50;
        for number in 0..warm {
            self.compile(number).await;
        }
        self.poller.poll(&self.task, 0).await;
        let (before, files) = (self.vm.usage(), self.files());
        eprintln!("after {warm} compiles: {before}");
        let (start, mut polling, mut polled) = (Instant::now(), Duration::ZERO, BATCH);
        for number in warm..compiles {
            self.compile(number).await;
            let since = Instant::now();
            while polled * (compiles - warm) < polls * (number + 1 - warm) {
                self.poller.poll(&self.task, polled).await;
                polled += BATCH;
            }
            polling += since.elapsed();
        }
        // The files of the last package may not have been removed yet.
        wait_for("the same files", LIMIT, || match self.files() {
            now if now.0 == files.0 && now.1 <= files.1 => Ok(()),
            now => Err(format!("{now:#?} instead of {files:#?}")),
        });
        let after = self.vm.usage();
        eprintln!(
            "after {compiles} compiles and {polled} polls: {after}; {:.0?}, of these {polling:.0?} for polls",
            start.elapsed()
        );
        self.compare(&before, &after);
    }

    #[track_caller]
    fn compare(&self, before: &Usage, after: &Usage) {
        let helpers = self.vm.helpers();
        eprintln!("peak memory of the {} helpers: {helpers:?}", helpers.len());
        assert!(
            after.descriptors <= before.descriptors + 2,
            "descriptors leak"
        );
        assert!(after.disk <= before.disk + (1 << 20), "the disk fills");
        assert!(after.resident <= before.resident + GROWTH, "memory leaks");
        assert!(after.peak < peak(), "the agent needs {} bytes", after.peak);
        assert!(helpers.iter().all(|needed| *needed < peak()), "{helpers:?}");
    }
}

/// The numbers of compiles and polls.
fn sizes() -> (usize, usize) {
    if is_soak() {
        (1_000, 1_000_000)
    } else {
        (100, 5_000)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compiles_and_polls_over_nats_leave_nothing_in_the_process() {
    if !is_possible() {
        return;
    }
    let blobs = Blobstore::local();
    let server = NatsServer::start("server", &[AGENT]);
    let course = Course {
        vm: HostVm::create(nats_machine(&server, "agent", &blobs)),
        director: director(&server).await,
        poller: Poller::Nats(nats::Director::connect(&server, AGENT).await),
        blobs,
        release: release(),
        compiled: CompiledPackages::new(),
        task: String::new(),
    };
    course.run(sizes()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compiles_and_polls_over_https_leave_nothing_in_the_process() {
    if !is_possible() {
        return;
    }
    let blobs = Blobstore::local();
    let (machine, bus) = https_machine(&blobs);
    let address: SocketAddr = machine.mbus.rsplit_once('@').unwrap().1.parse().unwrap();
    let vm = HostVm::create(machine);
    let director = Director::new(bus, AGENT).hurried();
    director.wait_until_ready(LIMIT).await.unwrap();
    let course = Course {
        vm,
        director,
        poller: Poller::Https(address),
        blobs,
        release: release(),
        compiled: CompiledPackages::new(),
        task: String::new(),
    };
    let (compiles, polls) = sizes();
    course.run((compiles, polls / 10)).await;
}
