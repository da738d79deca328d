//! The agent's NATS transport with a real server that is configured like a Director's.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::{free_port, require_tools, wait_until};
use crate::support::certificates::{AGENT, bus, pairs};
use crate::support::nats::{Director, NatsServer, connect};
use bosh_agent::config::Secret;
use bosh_agent::transport::nats::PublishError;
use bosh_agent::transport::{Answer, Handle, InvalidRequest, Nats};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::Semaphore;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The time limit of everything that should succeed.
const LONG: Duration = Duration::from_secs(30);

/// Answers `{"reply_to": …, "echo": …}` with the echo. Other requests are malformed. `"wait"` waits until the gate opens, `"panic"` panics,
/// `"size"` replies with that many bytes, `"limit"` with the reply limit.
fn echo(gate: Arc<Semaphore>) -> Handle {
    Arc::new(move |bytes, limit| {
        let gate = Arc::clone(&gate);
        async move {
            let request: serde_json::Value =
                serde_json::from_slice(&bytes).map_err(|error| InvalidRequest::Json {
                    line: error.line(),
                    column: error.column(),
                })?;
            let text = |key: &str| request[key].as_str().unwrap_or_default().to_owned();
            if request["wait"] == true {
                let _permit = gate.acquire().await.unwrap();
            }
            assert_ne!(request["panic"], true, "as asked");
            let body = if let Some(size) = request["size"].as_u64() {
                vec![b'x'; usize::try_from(size).unwrap()]
            } else if request["limit"] == true {
                limit.unwrap().to_string().into_bytes()
            } else {
                text("echo").into_bytes()
            };
            Ok(Answer {
                method: "echo".to_owned(),
                reply_to: text("reply_to"),
                body,
            })
        }
        .boxed()
    })
}

/// The log of all tests' agents.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The agent's log lines that contain this text, such as a server's address.
fn logged(text: &str) -> Vec<String> {
    let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
    let lines = log.lines().filter(|line| line.contains(text));
    lines.map(str::to_owned).collect()
}

fn has_logged(server: &NatsServer, text: &str) -> bool {
    logged(server.address())
        .iter()
        .any(|line| line.contains(text))
}

fn can_run() -> bool {
    let filter = Targets::new().with_target("bosh_agent", LevelFilter::INFO);
    let _ = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(|| Log)
        .finish()
        .with(filter)
        .try_init();
    require_tools(&["nats-server", "ruby"])
}

fn open() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(Semaphore::MAX_PERMITS))
}

async fn start(urls: &[&str]) -> Nats {
    Nats::start(&bus(urls), AGENT, echo(open())).await.unwrap()
}

impl Director {
    /// Sends requests until the agent answers, as a Director pings a new VM. Returns the time that this took.
    async fn wait_until_served(&mut self, limit: Duration) -> Duration {
        let start = Instant::now();
        for attempt in 0.. {
            assert!(start.elapsed() < limit, "not served within {limit:?}");
            self.ask(&format!("ready-{attempt}"), "pong").await;
            while let Some((_, text)) = self.reply(Duration::from_millis(100)).await {
                if text == "pong" {
                    return start.elapsed();
                }
            }
        }
        unreachable!()
    }

    async fn ask(&self, request: &str, echo: &str) {
        self.ask_with(request, serde_json::json!({ "echo": echo }))
            .await;
    }

    async fn ask_with(&self, request: &str, mut body: serde_json::Value) {
        if body["reply_to"].is_null() {
            body["reply_to"] = self.reply_to(request).into();
        }
        self.send(body.to_string().into_bytes()).await;
    }

    /// The reply to this request; ignores replies to others.
    async fn reply_to_request(&mut self, request: &str) -> String {
        loop {
            let (to, text) = self.reply(LONG).await.expect("a reply");
            if to == request {
                return text;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_gets_its_reply_at_once() {
    if !can_run() {
        return;
    }
    let server = NatsServer::start("server", &[AGENT]);
    let nats = start(&[&server.url()]).await;
    let mut director = Director::connect(&server, AGENT).await;
    director.wait_until_served(LONG).await;
    let mut times = Vec::new();
    for request in 0..200 {
        let request = format!("r{request}");
        let start = Instant::now();
        director.ask(&request, "text").await;
        assert_eq!(director.reply_to_request(&request).await, "text");
        times.push(start.elapsed());
    }
    times.sort();
    eprintln!(
        "reply latency: median {:?}, 99 % {:?}",
        times[100], times[198]
    );
    // Fast also on a busy machine.
    assert!(times[100] < Duration::from_millis(500), "{:?}", times[100]);
    nats.stop().await;
    assert!(!server.log().contains("Violation"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn new_vm_connects_when_nats_accepts_it() {
    if !can_run() {
        return;
    }
    let server = NatsServer::start("server", &[]);
    let nats = start(&[&server.url()]).await;
    let mut director = Director::connect(&server, AGENT).await;
    wait_until("the first refusals", || {
        server.log().matches("authentication error").count() >= 2
    });
    assert!(!nats.is_connected());
    server.allow(&[AGENT]);
    // Its pauses are ten seconds at most.
    director.wait_until_served(LONG).await;
    assert!(nats.is_connected());

    // Also when its permissions are revoked and granted again while it is connected.
    server.allow(&[]);
    wait_until("the connection to end", || !nats.is_connected());
    server.allow(&[AGENT]);
    director.wait_until_served(LONG).await;
    nats.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_subscription_is_repeated_until_the_server_permits_it() {
    if !can_run() {
        return;
    }
    let mut server = NatsServer::prepare("server", &[AGENT]);
    server.misname(AGENT);
    server.launch();
    let nats = start(&[&server.url()]).await;
    wait_until("the reason in the log", || {
        has_logged(&server, "compare `agent_id` in the settings")
    });
    server.allow(&[AGENT]);
    let mut director = Director::connect(&server, AGENT).await;
    director.wait_until_served(LONG).await;

    // Also when the permission is lost and granted again while the agent is connected.
    server.misname(AGENT);
    server.allow(&[AGENT]);
    director.wait_until_served(LONG).await;
    nats.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_server_is_refused_with_a_logged_reason() {
    if !can_run() {
        return;
    }
    for (certificate, reason) in [
        (
            "wrong-name",
            "server Certificate CommonName does not match *.nats.bosh-internal",
        ),
        ("wrong-host", "not valid for name"),
        ("other-server", "UnknownIssuer"),
    ] {
        let server = NatsServer::start(certificate, &[AGENT]);
        let nats = start(&[&server.url()]).await;
        wait_until("two attempts", || {
            server.log().matches("TLS handshake error").count() >= 2
        });
        assert!(!nats.is_connected(), "{certificate}");
        wait_until("the reason in the log", || has_logged(&server, reason));
        assert_eq!(logged(server.address()).len(), 1, "said once");
        nats.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_key_formats_work_and_invalid_keys_fail_at_once() {
    if !can_run() {
        return;
    }
    let server = NatsServer::start("server", &[AGENT]);
    let mut good = bus(&[&server.url()]);
    let pkcs8 = pairs()["agent"].as_pkcs8();
    assert!(pkcs8.starts_with("-----BEGIN PRIVATE KEY-----"));
    good.private_key = Secret::new(pkcs8);
    let mut elliptic = bus(&[&server.url()]);
    let pair = &pairs()["elliptic-agent"];
    assert!(pair.key.starts_with("-----BEGIN EC PRIVATE KEY-----"));
    elliptic.certificate = pair.certificate.clone();
    elliptic.private_key = Secret::new(pair.key.clone());
    for bus in [good, elliptic] {
        let nats = Nats::start(&bus, AGENT, echo(open())).await.unwrap();
        tokio::time::timeout(LONG, nats.connected()).await.unwrap();
        nats.stop().await;
    }

    let mut other_key = bus(&[&server.url()]);
    other_key.private_key = Secret::new(pairs()["director"].key.clone());
    let mut no_key = bus(&[&server.url()]);
    no_key.private_key = Secret::new("nonsense");
    let mut no_authority = bus(&[&server.url()]);
    no_authority.ca = "nonsense".to_owned();
    for bus in [other_key, no_key, no_authority, bus(&["nats://"]), bus(&[])] {
        assert!(Nats::start(&bus, AGENT, echo(open())).await.is_err());
    }
    for id in ["", "a b", "*", "a\r\nPUB x 0"] {
        let bus = bus(&[&server.url()]);
        assert!(Nats::start(&bus, id, echo(open())).await.is_err(), "{id:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_reconnects_when_the_server_comes_back() {
    if !can_run() {
        return;
    }
    let mut server = NatsServer::prepare("server", &[AGENT]);
    let nats = start(&[&server.url()]).await;
    let heartbeat = format!("hm.agent.heartbeat.{AGENT}");
    nats.publish(heartbeat.clone(), b"early".to_vec()).unwrap();
    wait_until("a refusal", || has_logged(&server, "refused"));

    for text in ["early", "meanwhile"] {
        server.launch();
        let monitor = connect(&server, "monitor").await;
        let mut heartbeats = monitor.subscribe("hm.agent.heartbeat.*").await.unwrap();
        monitor.flush().await.unwrap();
        let mut director = Director::connect(&server, AGENT).await;
        director.wait_until_served(LONG).await;
        // The agent may have been faster than the monitor.
        nats.publish(heartbeat.clone(), b"now".to_vec()).unwrap();
        let first = heartbeats.next().await.unwrap().payload;
        if first != "now" {
            assert_eq!(first, text);
        }
        server.kill();
        wait_until("the loss", || !nats.is_connected());
        nats.publish(heartbeat.clone(), b"meanwhile".to_vec())
            .unwrap();
    }
    assert!(has_logged(&server, "lost the connection"));
    nats.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_messages_are_bounded_and_arrive_in_order() {
    if !can_run() {
        return;
    }
    let mut server = NatsServer::prepare("server", &[AGENT]);
    let nats = start(&[&server.url()]).await;
    let subject = format!("director.uuid.{AGENT}.x");
    let mut sent = 0;
    let refused = loop {
        let mut payload = format!("{sent} ").into_bytes();
        payload.resize(1 << 20, b'x');
        match nats.publish(subject.clone(), payload) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((sent, refused), (7, PublishError::Full));
    assert!(matches!(
        nats.publish("a b".to_owned(), Vec::new()),
        Err(PublishError::Subject(_))
    ));
    assert!(matches!(
        nats.publish(subject.clone(), vec![0; 9 << 20]),
        Err(PublishError::TooLarge(_))
    ));

    // The agent pauses for at least two seconds, so the Director is first.
    wait_until("a refusal", || has_logged(&server, "refused"));
    server.launch();
    let mut director = Director::connect(&server, AGENT).await;
    for expected in 0..sent {
        let (_, text) = director.reply(LONG).await.unwrap();
        assert!(text.starts_with(&format!("{expected} ")), "{}", &text[..20]);
    }
    nats.publish(subject, b"room again".to_vec()).unwrap();
    assert_eq!(director.reply(LONG).await.unwrap().1, "room again");
    nats.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn working_server_of_several_is_found() {
    if !can_run() {
        return;
    }
    let dead = format!("nats://127.0.0.1:{}", free_port());
    let bad = NatsServer::start("wrong-name", &[AGENT]);
    let good = NatsServer::start("server", &[AGENT]);
    let nats = start(&[&dead, &bad.url(), &good.url()]).await;
    let mut director = Director::connect(&good, AGENT).await;
    let took = director.wait_until_served(LONG).await;
    // Unreachable and wrong servers are skipped without a pause.
    assert!(took < Duration::from_secs(20), "{took:?}");
    nats.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_concurrent_requests_get_their_replies() {
    if !can_run() {
        return;
    }
    let server = NatsServer::start("server", &[AGENT]);
    let nats = start(&[&server.url()]).await;
    let mut director = Director::connect(&server, AGENT).await;
    director.wait_until_served(LONG).await;
    let start = Instant::now();
    for request in 0..500 {
        let body = serde_json::json!({ "echo": request.to_string(), "reply_to": director.reply_to(&request.to_string()) });
        director.publish(body.to_string().into_bytes()).await;
    }
    let mut answered = HashSet::new();
    while answered.len() < 500 {
        let (request, text) = director.reply(LONG).await.expect("a reply");
        if text != "pong" {
            assert_eq!(request, text);
            assert!(answered.insert(request));
        }
    }
    eprintln!("500 requests at once: {:?}", start.elapsed());
    assert!(start.elapsed() < LONG);
    nats.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_request_delays_no_other_and_is_answered_before_close() {
    if !can_run() {
        return;
    }
    let server = NatsServer::start("server", &[AGENT]);
    let gate = Arc::new(Semaphore::new(0));
    let nats = Nats::start(&bus(&[&server.url()]), AGENT, echo(Arc::clone(&gate)))
        .await
        .unwrap();
    let mut director = Director::connect(&server, AGENT).await;
    director.wait_until_served(LONG).await;
    for request in ["slow-1", "slow-2"] {
        let body = serde_json::json!({ "echo": "late", "wait": true });
        director.ask_with(request, body).await;
    }
    for request in 0..20 {
        let request = request.to_string();
        director.ask(&request, "quick").await;
        assert_eq!(director.reply_to_request(&request).await, "quick");
    }
    let stopping = nats.stop();
    let answering = async {
        gate.add_permits(2);
        assert_eq!(director.reply(LONG).await.unwrap().1, "late");
        assert_eq!(director.reply(LONG).await.unwrap().1, "late");
    };
    tokio::join!(stopping, answering);
    // No agent is connected any more.
    director.ask("after", "unanswered").await;
    assert_eq!(director.reply(Duration::from_millis(300)).await, None);
}

/// The limit of the whole stop is five seconds.
#[tokio::test(flavor = "multi_thread")]
async fn stop_without_a_connection_waits_for_nothing() {
    if !can_run() {
        return;
    }
    let server = NatsServer::prepare("server", &[AGENT]);
    let nats = start(&[&server.url()]).await;
    wait_until("a refusal", || has_logged(&server, "refused"));
    let start = Instant::now();
    nats.stop().await;
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unanswerable_message_gets_no_reply_and_keeps_the_connection() {
    if !can_run() {
        return;
    }
    let server = NatsServer::start("server", &[AGENT]);
    let nats = start(&[&server.url()]).await;
    let mut director = Director::connect(&server, AGENT).await;
    director.wait_until_served(LONG).await;
    let ours = director.reply_to("bad");
    for reply_to in [
        String::new(),
        " ".to_owned(),
        "a b".to_owned(),
        format!("{ours}\r\nPUB {ours} 1\r\nx"),
        format!("{ours}\u{0}"),
        format!("{ours}."),
        "director.*.x".to_owned(),
        ">".to_owned(),
        "x".repeat(5000),
        // Subjects that the server does not allow.
        "director.uuid.another-agent.x".to_owned(),
        "_INBOX.x".to_owned(),
    ] {
        let body = serde_json::json!({ "echo": "bad", "reply_to": reply_to });
        director.ask_with("bad", body).await;
    }
    for payload in ["", "{", "null", "\"x\"", "\u{feff}"] {
        director.send(payload.as_bytes().to_vec()).await;
    }
    let panic = serde_json::json!({ "panic": true });
    director.ask_with("panic", panic).await;
    let too_large = serde_json::json!({ "size": (1 << 20) + 1 });
    director.ask_with("too-large", too_large).await;
    let largest = serde_json::json!({ "size": 1 << 20 });
    director.ask_with("largest", largest).await;
    let (request, text) = director.reply(LONG).await.unwrap();
    assert_eq!((request.as_str(), text.len()), ("largest", 1 << 20));
    for _ in 0..20 {
        director.ask("good", "good").await;
        let (request, text) = director.reply(LONG).await.unwrap();
        assert_eq!((request.as_str(), text.as_str()), ("good", "good"));
    }
    let missing = logged("reply_to is missing");
    let is_named = |line: &String| line.contains("a request got no reply");
    assert!(missing.iter().any(is_named), "{missing:?}");
    assert!(!has_logged(&server, "lost the connection"));
    wait_until("the server's complaint in the log", || {
        has_logged(&server, "Permissions Violation")
    });
    nats.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reply_fits_the_servers_limit() {
    if !can_run() {
        return;
    }
    for (max_payload, limit) in [(4096, "4096"), (1 << 20, "1048576"), (4 << 20, "1048576")] {
        let mut server = NatsServer::prepare("server", &[AGENT]);
        server.configure(&[AGENT], max_payload);
        server.launch();
        let nats = start(&[&server.url()]).await;
        let mut director = Director::connect(&server, AGENT).await;
        director.wait_until_served(LONG).await;
        let body = serde_json::json!({ "limit": true });
        director.ask_with("limit", body).await;
        assert_eq!(director.reply_to_request("limit").await, limit);
        nats.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_connections_coexist_and_a_disconnected_one_stops() {
    if !can_run() {
        return;
    }
    let mut server = NatsServer::start("server", &[AGENT]);
    let old = start(&[&server.url()]).await;
    let new = start(&[&server.url()]).await;
    old.connected().await;
    new.connected().await;
    let mut director = Director::connect(&server, AGENT).await;
    old.stop().await;
    director.wait_until_served(LONG).await;

    server.kill();
    wait_until("the loss", || !new.is_connected());
    let outbox = new.outbox();
    outbox.publish("never.sent".to_owned(), Vec::new()).unwrap();
    let start = Instant::now();
    new.stop().await;
    assert!(start.elapsed() < LONG);
    wait_until("the end", || {
        outbox.publish("x".to_owned(), Vec::new()) == Err(PublishError::Closed)
    });
}
