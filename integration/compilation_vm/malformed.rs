//! Floods of malformed requests: the agent answers each that can be answered, and all others afterwards, in the same process and with the same
//! memory and descriptors.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::scene::{director, https_machine, is_possible, nats_machine, source_of_script, spec};
use crate::common::is_soak;
use crate::https::{raw, rest};
use crate::support::blobstore::Blobstore;
use crate::support::certificates::AGENT;
use crate::support::director::Director;
use crate::support::director::bus::{Bus, Https};
use crate::support::director::compile_stage::CompiledPackages;
use crate::support::malformed::{CONFIDENTIAL, Malformed};
use crate::support::nats::{self, NatsServer};
use crate::support::numbers::Numbers;
use crate::support::vm::{HostVm, LIMIT, Usage};

/// The number of requests that are sent before their replies are awaited.
const BATCH: usize = 200;

/// How much the agent's memory may grow after the first fifth of the requests.
const GROWTH: u64 = 8 << 20;

fn requests() -> usize {
    if is_soak() { 100_000 } else { 1_000 }
}

/// The agent before the flood.
struct Before {
    pid: i32,
    files: Vec<PathBuf>,
    /// After the first fifth of the requests, which fills the table of tasks.
    usage: Option<Usage>,
    start: Instant,
}

impl Before {
    fn of(vm: &HostVm) -> Self {
        eprintln!("before: {}", vm.usage());
        Self {
            pid: vm.pid(),
            files: files(vm),
            usage: None,
            start: Instant::now(),
        }
    }

    /// Called after each batch.
    fn note(&mut self, vm: &HostVm, sent: usize) {
        if self.usage.is_none() && sent >= requests() / 5 {
            let usage = vm.usage();
            eprintln!("after {sent} requests: {usage}");
            self.usage = Some(usage);
        }
    }

    /// Checks that the agent is as before.
    #[track_caller]
    fn compare(&self, vm: &HostVm) {
        let (before, after) = (self.usage.unwrap(), vm.usage());
        eprintln!(
            "after {} requests in {:.0?}: {after}",
            requests(),
            self.start.elapsed()
        );
        assert_eq!(vm.pid(), self.pid);
        assert!(
            after.descriptors <= before.descriptors + 2,
            "descriptors leak"
        );
        assert!(after.resident <= before.resident + GROWTH, "memory leaks");
        assert_eq!(files(vm), self.files, "files are left");
        let log = vm.log();
        assert!(
            !log.contains(CONFIDENTIAL),
            "a part of a request is in the log"
        );
        let longest = log.lines().map(str::len).max();
        assert!(longest < Some(70_000), "a line has {longest:?} bytes");
    }
}

/// The files below the base directory, without installed packages and files that valid requests write.
fn files(vm: &HostVm) -> Vec<PathBuf> {
    let mut files = vm.files("");
    let written = [
        "tasks.json",
        "update_settings.json",
        "health.json",
        "spec.json",
    ];
    files.retain(|path| {
        let is_installed = path.components().any(|part| part.as_os_str() == "store");
        !is_installed && !written.iter().any(|name| path.ends_with(name))
    });
    files.sort();
    files
}

/// The Director prepares the VM, and compiles a package.
async fn assert_works(director: &Director, blobs: &Blobstore) {
    director.prepare(&spec()).await.unwrap();
    let release = source_of_script("echo fine > $BOSH_INSTALL_TARGET/file");
    let (package, nothing) = (release.package("app"), CompiledPackages::new());
    director.compile(package, &nothing, blobs).await.unwrap();
}

/// What a request over NATS lacks, so that it gets no reply although it is parsed.
fn unanswerable(numbers: &mut Numbers) -> Vec<u8> {
    let long = "x".repeat(1025 + numbers.below(20_000));
    let values = [
        json!(null),
        json!(""),
        json!("director.*.a"),
        json!("director.>"),
        json!("a b"),
        json!("a..b"),
        json!("a\r\nPUB x 0\r\n"),
        json!(long),
    ];
    let reply_to = numbers.pick(&values);
    let mut request =
        json!({ "protocol": 3, "method": "ping", "arguments": [], "reply_to": reply_to });
    if numbers.below(2) == 0 {
        request.as_object_mut().unwrap().remove("reply_to");
    }
    request.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_over_nats_get_at_most_one_reply() {
    if !is_possible() {
        return;
    }
    let Some(blobs) = Blobstore::dav() else {
        return;
    };
    let server = NatsServer::start("server", &[AGENT]);
    let mut vm = HostVm::create(nats_machine(&server, "agent", &blobs));
    let good = director(&server).await;
    assert_works(&good, &blobs).await;
    let mut bad = nats::Director::connect(&server, AGENT).await;
    let mut numbers = Numbers::new(0x5eed);
    let mut before = Before::of(&vm);
    let mut sent = 0;
    while sent < requests() {
        let mut due = HashSet::new();
        for number in sent..sent + BATCH {
            let id = format!("r{number}");
            let copies = match numbers.below(20) {
                0 => {
                    bad.publish(unanswerable(&mut numbers)).await;
                    continue;
                }
                1 => 3,
                _ => 1,
            };
            let request = Malformed::next(&mut numbers, &bad.reply_to(&id));
            for _ in 0..copies {
                bad.publish(request.bytes.clone()).await;
            }
            if request.is_due {
                due.insert(id);
            }
        }
        while !due.is_empty() {
            let (id, text) = bad.reply(LIMIT).await.expect("all replies");
            assert!(due.remove(&id), "{id} has no or two requests: {text}");
            assert_is_reply(text.as_bytes(), &id);
        }
        good.request("ping", json!([]), LIMIT).await.unwrap();
        sent += BATCH;
        before.note(&vm, sent);
    }
    assert!(bad.reply(Duration::from_millis(10)).await.is_none());
    assert_works(&good, &blobs).await;
    before.compare(&vm);
    vm.stays_up_for(Duration::from_millis(1));
}

#[track_caller]
fn assert_is_reply(bytes: &[u8], what: &str) {
    let reply: Value = serde_json::from_slice(bytes).unwrap();
    let is_one = reply.get("value").is_some() != reply.get("exception").is_some();
    assert!(is_one, "{what}: {reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_over_https_get_their_status() {
    if !is_possible() {
        return;
    }
    let Some(blobs) = Blobstore::dav() else {
        return;
    };
    let (machine, bus) = https_machine(&blobs);
    let address: SocketAddr = machine.mbus.rsplit_once('@').unwrap().1.parse().unwrap();
    let mut vm = HostVm::create(machine);
    let director = Director::new(bus, AGENT).hurried();
    assert_works(&director, &blobs).await;
    let Bus::Https(https) = director.bus() else {
        unreachable!()
    };
    let mut numbers = Numbers::new(0xface);
    let mut before = Before::of(&vm);
    let mut sent = 0;
    while sent < requests() {
        let requests: Vec<Sent> = (0..BATCH).map(|_| Sent::next(&mut numbers)).collect();
        let requests = requests.into_iter().map(|it| it.check(https, address));
        let checked = futures_util::stream::iter(requests).buffer_unordered(8);
        checked.collect::<()>().await;
        director.request("ping", json!([]), LIMIT).await.unwrap();
        sent += BATCH;
        before.note(&vm, sent);
    }
    assert_works(&director, &blobs).await;
    before.compare(&vm);
    vm.stays_up_for(Duration::from_millis(1));
}

/// What is sent over HTTPS.
enum Sent {
    /// A request with the password.
    Request(Malformed),
    /// Bytes on a connection of their own.
    Bytes {
        bytes: Vec<u8>,
        /// Whether the client closes its side after the bytes.
        is_cut: bool,
        /// The starts of the possible answers.
        answers: &'static [&'static str],
    },
}

impl Sent {
    fn next(numbers: &mut Numbers) -> Self {
        if numbers.below(10) > 0 {
            return Self::Request(Malformed::next(numbers, "director"));
        }
        // Base64 of mbus:very-secret-word.
        let right = "Authorization: Basic bWJ1czp2ZXJ5LXNlY3JldC13b3Jk\r\n";
        let ping = json!({ "method": "ping", "arguments": [], "reply_to": "director" }).to_string();
        let head =
            |start: &str, rest: &str| format!("{start}\r\nHost: x\r\nConnection: close\r\n{rest}");
        let post = |rest: &str| head("POST /agent HTTP/1.1", rest);
        let long = "x".repeat(100_000);
        let kind = numbers.below(14);
        let (text, answers): (String, &'static [&'static str]) = match kind {
            0 => (
                post(&format!("Content-Length: {}\r\n\r\n{ping}", ping.len())),
                &["HTTP/1.1 401 "],
            ),
            1 => {
                let wrong =
                    *numbers.pick(&["", "Basic", "Basic bWJ1czo=", "Bearer x", "Basic \u{7f}"]);
                (
                    post(&format!("Authorization: {wrong}\r\n\r\n")),
                    &["HTTP/1.1 401 ", "HTTP/1.1 400 "],
                )
            }
            2 => (
                head("GET /other HTTP/1.1", &format!("{right}\r\n")),
                &["HTTP/1.1 404 "],
            ),
            3 => (
                head("DELETE /agent HTTP/1.1", &format!("{right}\r\n")),
                &["HTTP/1.1 404 "],
            ),
            4 => (
                post(&format!("{right}Content-Length: 5000\r\n\r\n{ping}")),
                &["", "HTTP/1.1 400 "],
            ),
            5 => (
                post(&format!(
                    "{right}Content-Length: {}\r\n\r\n",
                    (64 << 20) + 1
                )),
                &["HTTP/1.1 413 "],
            ),
            6 => (
                post(&format!("{right}Content-Length: -1\r\n\r\n{ping}")),
                &["HTTP/1.1 400 ", ""],
            ),
            7 => (
                post(&format!(
                    "{right}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{ping}"
                )),
                &["", "HTTP/1.1 400 "],
            ),
            8 => (
                post(&format!(
                    "{right}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{ping}\r\n0\r\n\r\n",
                    ping.len()
                )),
                &["HTTP/1.1 200 "],
            ),
            9 => (
                post(&format!("{right}X: {long}\r\n\r\n")),
                &["HTTP/1.1 500 ", "HTTP/1.1 431 ", ""],
            ),
            10 => (
                head(&format!("GET /{long} HTTP/1.1"), "\r\n"),
                &["HTTP/1.1 404 ", "HTTP/1.1 414 ", "HTTP/1.1 431 ", ""],
            ),
            11 => (
                head(
                    "GET /blobs/..%2f..%2fetc%2fpasswd HTTP/1.1",
                    &format!("{right}\r\n"),
                ),
                &["HTTP/1.1 404 "],
            ),
            12 => ("\0\u{1}garbage\r\n\r\n".to_owned(), &["HTTP/1.1 400 ", ""]),
            _ => (
                post(&format!(
                    "{right}Content-Length: {}\r\n\r\n{ping}{ping}",
                    ping.len()
                )),
                &["HTTP/1.1 200 "],
            ),
        };
        Self::Bytes {
            bytes: text.into_bytes(),
            // Before the end of the body.
            is_cut: kind == 4,
            answers,
        }
    }

    async fn check(self, https: &Https, address: SocketAddr) {
        match self {
            Self::Request(request) => {
                let shown = String::from_utf8_lossy(&request.bytes[..request.bytes.len().min(300)])
                    .into_owned();
                let answer = https.post(request.bytes, LIMIT).await;
                let (status, body) = answer.unwrap_or_else(|| panic!("no answer to {shown}"));
                match request.is_due {
                    true => {
                        assert_eq!(status, 200, "{shown}");
                        assert_is_reply(&body, &shown);
                    }
                    false => assert_eq!((status, body.as_slice()), (500, &b""[..]), "{shown}"),
                }
            }
            Self::Bytes {
                bytes,
                is_cut,
                answers,
            } => {
                let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
                let mut stream = raw(address).await;
                // The server may have closed the connection before the end.
                let _ = stream.write_all(&bytes).await;
                if is_cut {
                    let _ = stream.shutdown().await;
                }
                let answer = rest(&mut stream).await;
                let is_expected = |start: &&str| match start.is_empty() {
                    true => answer.is_empty(),
                    false => answer.starts_with(*start),
                };
                assert!(answers.iter().any(is_expected), "{shown}: {answer}");
            }
        }
    }
}
