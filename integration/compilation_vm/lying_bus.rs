//! A NATS server that breaks the protocol in every way: the agent neither ends nor grows, logs no secret, compiles no package twice, and works
//! when the server is a good one.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::scene::{director, is_possible, nats_machine, source_of_script, spec};
use crate::common::{is_soak, wait_for};
use crate::support::blobstore::Blobstore;
use crate::support::certificates::AGENT;
use crate::support::director::compile_stage::{CompiledPackages, order};
use crate::support::lying_nats::{Frame, Liar, LyingServer, honest, honest_but, message};
use crate::support::nats::NatsServer;
use crate::support::numbers::Numbers;
use crate::support::vm::{HostVm, LIMIT};

const PASSWORD: &str = "very-secret-word";

/// More than the agent takes of one message, even if it is slow to notice.
const TOO_MUCH: u64 = 512 << 20;

/// The memory that the agent may use at any time, in bytes.
const PEAK: u64 = 300_000_000;

/// How much the agent's memory, without the pages of its program, may be larger than after the first lies, in bytes.
const GROWTH: u64 = 4 << 20;

/// Makes the C library return freed memory to the system. Otherwise it keeps several MiB for each thread that has ended, which hides leaks.
const RETURN_MEMORY: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.arena_max=1:glibc.malloc.trim_threshold=65536:glibc.malloc.mmap_threshold=65536",
);

/// The lies, each on a connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    Greeting(&'static str),
    MaxPayload(u64),
    NoHandshake,
    HalfHandshake,
    RefusalWithPassword,
    CloseAtOnce,
    CloseInMessage,
    UnknownOperation,
    WrongMessages(&'static str),
    EmptyError,
    HugeLength,
    EndlessMessage,
    EndlessLine,
    PingsWithoutEnd,
    PingsBetweenRequests,
    UnwantedMessages,
    OtherSubscriptions,
    Pieces,
    Errors,
    Greetings,
    Repeats,
    Crowd,
}

impl Lie {
    fn all() -> Vec<Self> {
        let mut all = vec![
            Self::NoHandshake,
            Self::HalfHandshake,
            Self::RefusalWithPassword,
            Self::CloseAtOnce,
            Self::CloseInMessage,
            Self::UnknownOperation,
            Self::EmptyError,
            Self::HugeLength,
            Self::EndlessMessage,
            Self::EndlessLine,
            Self::PingsWithoutEnd,
            Self::PingsBetweenRequests,
            Self::UnwantedMessages,
            Self::OtherSubscriptions,
            Self::Pieces,
            Self::Errors,
            Self::Greetings,
            Self::Repeats,
            Self::Crowd,
        ];
        all.extend(
            [
                "",
                "[]",
                "{",
                "{\"max_payload\":-1}",
                "{\"max_payload\":1e400}",
                "\u{7f}",
            ]
            .map(Self::Greeting),
        );
        all.extend([0, 1, 10, 100, u64::MAX].map(Self::MaxPayload));
        all.extend(
            [
                "MSG\r\n",
                "MSG a\r\n",
                "MSG a 1 -1\r\n",
                "MSG a x 1\r\n",
                "HMSG a 1 5 4\r\n",
                "HMSG a 1 2 4\r\nab\r\n\r\n",
            ]
            .map(Self::WrongMessages),
        );
        all
    }
}

/// The agent, and what the lies need.
struct Stage {
    server: LyingServer,
    /// The request to compile a package, which is repeated on each connection.
    compile: Vec<u8>,
    asked: u32,
}

impl Stage {
    fn request(&mut self, method: &str) -> (String, Vec<u8>) {
        self.asked += 1;
        let reply_to = format!("director.uuid.{AGENT}.{}", self.asked);
        let request =
            json!({ "protocol": 3, "method": method, "arguments": [], "reply_to": reply_to });
        (reply_to, request.to_string().into_bytes())
    }

    /// Sends a ping of a Director and waits for its reply.
    async fn assert_answers(&mut self, liar: &mut Liar) {
        let (reply_to, request) = self.request("ping");
        let message = liar.message(&request);
        liar.send(message).await.unwrap();
        assert_eq!(
            liar.reply(&reply_to).await,
            Some(json!({ "value": "pong" }))
        );
    }

    /// Whether a ping gets its reply before the agent pauses.
    async fn answers_at_once(&mut self, liar: &mut Liar) -> bool {
        let (reply_to, request) = self.request("ping");
        let message = liar.message(&request);
        liar.send(message).await.unwrap();
        while let Some(frame) = liar.next_within(Duration::from_millis(500)).await {
            if matches!(frame, Frame::Publish { subject, .. } if subject == reply_to) {
                return true;
            }
        }
        false
    }

    /// A good connection, with another copy of the request to compile.
    async fn accept(&mut self) -> Liar {
        let mut liar = self.server.accept(&honest().to_string()).await;
        let copy = liar.message(&self.compile);
        liar.send(copy).await.unwrap();
        liar
    }

    async fn tell(&mut self, lie: Lie) {
        match lie {
            Lie::Greeting(_) | Lie::NoHandshake | Lie::HalfHandshake | Lie::RefusalWithPassword => {
                self.refuse(lie).await;
            }
            Lie::MaxPayload(limit) => self.lie_about_payload(limit).await,
            Lie::CloseAtOnce
            | Lie::CloseInMessage
            | Lie::UnknownOperation
            | Lie::WrongMessages(_)
            | Lie::EmptyError
            | Lie::HugeLength => self.break_off(lie).await,
            Lie::EndlessMessage
            | Lie::EndlessLine
            | Lie::PingsWithoutEnd
            | Lie::PingsBetweenRequests
            | Lie::UnwantedMessages => self.flood(lie).await,
            Lie::OtherSubscriptions
            | Lie::Pieces
            | Lie::Errors
            | Lie::Greetings
            | Lie::Repeats
            | Lie::Crowd => {
                self.confuse(lie).await;
            }
        }
    }

    /// Lies before the agent has subscribed.
    async fn refuse(&mut self, lie: Lie) {
        match lie {
            Lie::Greeting(info) => {
                let mut tcp = self.server.tcp().await;
                let _ = tcp.write_all(format!("INFO {info}\r\n").as_bytes()).await;
            }
            Lie::NoHandshake => drop(self.server.tcp().await),
            Lie::HalfHandshake => {
                let mut tcp = self.server.tcp().await;
                let _ = tcp
                    .write_all(format!("INFO {}\r\n\x16\x03\x01", honest()).as_bytes())
                    .await;
            }
            _ => {
                let mut liar = self.server.greet(&honest().to_string()).await.unwrap();
                assert!(liar.connect.contains(PASSWORD));
                let text = liar.connect.clone();
                let _ = liar.send(format!("-ERR '{text}'\r\n")).await;
            }
        }
    }

    async fn lie_about_payload(&mut self, limit: u64) {
        let info = honest_but("max_payload", limit.into());
        let mut liar = self.server.accept(&info).await;
        let (ping, request) = self.request("ping");
        let (unknown, long) = self.request(&"x".repeat(1000));
        for request in [&request, &long] {
            let message = liar.message(request);
            liar.send(message).await.unwrap();
        }
        if limit >= 100 {
            // A value that fits, and an error that is shortened if necessary.
            let mut replies = 0;
            while replies < 2 {
                match liar.next().await.expect("a reply") {
                    Frame::Publish { subject, payload }
                        if subject == ping || subject == unknown =>
                    {
                        assert!(payload.len() as u64 <= limit);
                        replies += 1;
                    }
                    _ => {}
                }
            }
        } else {
            // The agent sends nothing that the server would not accept, except a heartbeat that it queued for an earlier connection.
            while let Some(frame) = liar.next_within(Duration::from_millis(300)).await {
                if let Frame::Publish { subject, payload } = frame {
                    let is_heartbeat = subject.starts_with("hm.agent.heartbeat.");
                    assert!(is_heartbeat || payload.len() as u64 <= limit, "{subject}");
                }
            }
        }
    }

    /// Lies after which the agent needs another connection.
    async fn break_off(&mut self, lie: Lie) {
        let mut liar = self.accept().await;
        let connect = liar.connect.clone();
        let bytes = match lie {
            Lie::CloseAtOnce => return,
            Lie::CloseInMessage => {
                let (_, request) = self.request("ping");
                let message = liar.message(&request);
                let _ = liar.send(&message[..message.len() / 2]).await;
                return;
            }
            Lie::UnknownOperation => format!("{connect}\r\n"),
            Lie::WrongMessages(text) => text.to_owned(),
            Lie::EmptyError => "-ERR\r\n".to_owned(),
            _ => format!("MSG {} {} {}\r\n", liar.subject, liar.sid, u64::MAX),
        };
        liar.send(bytes).await.unwrap();
        // The agent may keep the connection until it has another one.
        while liar.next_within(Duration::from_millis(300)).await.is_some() {}
    }

    /// Lies of any length.
    async fn flood(&mut self, lie: Lie) {
        let mut liar = self.accept().await;
        let bytes = match lie {
            Lie::EndlessMessage => {
                let head = format!("MSG {} {} {}\r\n", liar.subject, liar.sid, u32::MAX);
                liar.send(head).await.unwrap();
                vec![b'x'; 1 << 16]
            }
            Lie::EndlessLine => vec![b'x'; 1 << 16],
            Lie::UnwantedMessages => message("some.other", "7", &[b'x'; 1 << 16]),
            Lie::PingsBetweenRequests => {
                let (_, request) = self.request("ping");
                [b"PING\r\n".repeat(10_000), liar.message(&request)].concat()
            }
            _ => b"PING\r\n".repeat(10_000),
        };
        let limit = match lie {
            // A debug build handles few pings in a second.
            Lie::PingsWithoutEnd | Lie::PingsBetweenRequests if !is_soak() => 2 << 20,
            _ => TOO_MUCH,
        };
        let taken = liar.flood(&bytes, limit).await;
        eprintln!("{lie:?}: the agent took {} MiB", taken >> 20);
        assert!(taken < TOO_MUCH, "{lie:?}");
    }

    /// Lies after which the agent keeps the connection.
    async fn confuse(&mut self, lie: Lie) {
        let mut liar = self.accept().await;
        match lie {
            Lie::OtherSubscriptions => {
                for sid in ["0", "7", "18446744073709551615"] {
                    let (_, request) = self.request("ping");
                    liar.send(message("some.other", sid, &request))
                        .await
                        .unwrap();
                }
                let (reply_to, request) = self.request("ping");
                let head = format!(
                    "HMSG other.subject {} reply.to 12 {}\r\nNATS/1.0\r\n\r\n",
                    liar.sid,
                    request.len() + 12
                );
                let with_header = [head.as_bytes(), &request, b"\r\n"].concat();
                liar.send(with_header).await.unwrap();
                assert!(liar.reply(&reply_to).await.is_some());
            }
            Lie::Pieces => {
                for lengths in [&[1][..], &[2, 1, 3], &[5, 8, 1000]] {
                    let (reply_to, request) = self.request("ping");
                    let message = liar.message(&request);
                    liar.send_in_pieces(&message, lengths).await.unwrap();
                    assert!(liar.reply(&reply_to).await.is_some());
                }
            }
            Lie::Errors => {
                let long = "x".repeat(1 << 20);
                let connect = liar.connect.clone();
                for text in [
                    "Unknown Protocol Operation",
                    "",
                    PASSWORD,
                    &connect,
                    &long,
                    "Slow Consumer",
                ] {
                    liar.send(format!("-ERR '{text}'\r\n+OK\r\n"))
                        .await
                        .unwrap();
                }
            }
            Lie::Greetings => {
                for (key, value) in [
                    ("max_payload", json!(1)),
                    ("ldm", json!(true)),
                    ("connect_urls", json!(["127.0.0.1:1", "169.254.169.254:80"])),
                    ("server_id", json!("x".repeat(1 << 20))),
                ] {
                    let info = honest_but(key, value);
                    liar.send(format!("INFO {info}\r\nPING\r\nPONG\r\nPONG\r\n"))
                        .await
                        .unwrap();
                }
            }
            Lie::Repeats => self.repeat(&mut liar).await,
            _ => {
                // More at once than the agent handles at the same time; it may leave some out.
                let mut messages = Vec::new();
                for _ in 0..5000 {
                    let (_, request) = self.request("ping");
                    messages.extend(liar.message(&request));
                }
                liar.send(messages).await.unwrap();
                while !self.answers_at_once(&mut liar).await {}
            }
        }
        self.assert_answers(&mut liar).await;
    }

    /// Sends each of several requests five times, in no order. Each gets one reply.
    async fn repeat(&mut self, liar: &mut Liar) {
        let requests: Vec<_> = (0..20).map(|_| self.request("ping")).collect();
        let mut copies: Vec<usize> = (0..100).map(|at| at % 20).collect();
        let mut numbers = Numbers::new(0xbeef);
        for at in (1..copies.len()).rev() {
            copies.swap(at, numbers.below(at + 1));
        }
        let messages: Vec<Vec<u8>> = copies
            .iter()
            .map(|at| liar.message(&requests[*at].1))
            .collect();
        liar.send(messages.concat()).await.unwrap();
        let mut due: Vec<&String> = requests.iter().map(|(reply_to, _)| reply_to).collect();
        while !due.is_empty() {
            if let Frame::Publish { subject, .. } = liar.next().await.expect("a reply")
                && subject.starts_with("director.")
            {
                let at = due.iter().position(|it| **it == subject);
                due.remove(at.expect("one reply to each request"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_of_the_server_neither_end_the_agent_nor_repeat_a_compile() {
    if !is_possible() {
        return;
    }
    let blobs = Blobstore::local();
    let mut good = NatsServer::prepare("server", &[AGENT]);
    good.demand_password(AGENT, PASSWORD);
    let port = good.address().rsplit_once(':').unwrap().1.parse().unwrap();
    let mut machine = nats_machine(&good, "agent", &blobs);
    machine.mbus = machine
        .mbus
        .replace("://", &format!("://agent:{PASSWORD}@"));
    let server = LyingServer::bind(port).await;
    let mut vm = HostVm::create_with(machine, &[RETURN_MEMORY]);
    vm.survives_panics_of("nats client");
    let pid = vm.pid();

    let (runs, gate) = (vm.path("runs"), vm.path("gate"));
    let script = format!(
        "echo run >> {}\nwhile [ ! -e {} ]; do sleep 0.1; done\n",
        runs.display(),
        gate.display()
    );
    let release = source_of_script(&script);
    let package = release.package("app");
    let source = blobs.put_file(&package.blob);
    let arguments = order(package, &source, &CompiledPackages::new(), &blobs).arguments;
    let reply_to = format!("director.uuid.{AGENT}.compile");
    let compile = json!({ "protocol": 3, "method": "compile_package", "arguments": arguments, "reply_to": reply_to });
    let mut stage = Stage {
        server,
        compile: compile.to_string().into_bytes(),
        asked: 0,
    };
    let mut liar = stage.accept().await;
    let started = liar.reply(&reply_to).await.unwrap();
    let task = started["value"]["agent_task_id"]
        .as_str()
        .unwrap()
        .to_owned();
    drop(liar);

    let mut numbers = Numbers::new(0x11e5);
    let mut before = None;
    for round in 0..if is_soak() { 5 } else { 1 } {
        let mut lies = Lie::all();
        for at in (1..lies.len()).rev() {
            lies.swap(at, numbers.below(at + 1));
        }
        // Refused connections cost longer and longer pauses, so the short form tries one of each kind.
        if !is_soak() {
            let mut kinds = std::collections::HashSet::new();
            lies.retain(|lie| kinds.insert(std::mem::discriminant(lie)));
        }
        for lie in lies {
            stage.tell(lie).await;
        }
        let usage = vm.usage();
        eprintln!("after round {round}: {usage}");
        before.get_or_insert(usage);
    }
    drop(stage);
    assert_works_with(&mut good, &vm, &blobs, &task, &gate).await;
    let (before, after) = (before.unwrap(), vm.usage());
    eprintln!("after all: {after}");
    assert_eq!(
        std::fs::read_to_string(&runs).unwrap(),
        "run\n",
        "compiled twice"
    );
    assert_eq!(vm.pid(), pid);
    assert!(
        after.descriptors <= before.descriptors + 4,
        "descriptors leak"
    );
    assert!(after.anonymous <= before.anonymous + GROWTH, "memory leaks");
    assert!(after.peak < PEAK, "the agent needs {} bytes", after.peak);
    let restarted = "starting the client of the message bus again";
    assert!(vm.log().contains(restarted), "no lie has ended the client");
    let longest = vm.log().lines().map(str::len).max();
    assert!(longest < Some(5000), "a line has {longest:?} bytes");
    vm.stays_up_for(Duration::from_millis(1));
}

/// The agent connects to a good server, and ends its task.
async fn assert_works_with(
    good: &mut NatsServer,
    vm: &HostVm,
    blobs: &Blobstore,
    task: &str,
    gate: &std::path::Path,
) {
    good.launch();
    let director = director(good).await;
    director.wait_until_ready(LIMIT).await.unwrap();
    std::fs::write(gate, "").unwrap();
    let value: Value = director.wait_for_task(task).await.unwrap();
    assert!(value["result"].is_object(), "{value}");
    director.prepare(&spec()).await.unwrap();
    let other = source_of_script("echo fine > $BOSH_INSTALL_TARGET/file");
    let (package, nothing) = (other.package("app"), CompiledPackages::new());
    director.compile(package, &nothing, blobs).await.unwrap();
    wait_for("the end of all scripts", LIMIT, || {
        match vm.other_processes() {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        }
    });
}
