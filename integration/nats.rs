//! The agent's NATS transport against a real server that is set up as a Director's.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "these tests start servers from outside the agent, and a test may fail loudly"
)]

mod support {
    pub(crate) mod certificates;
    pub(crate) mod nats;
    pub(crate) mod programs;
}

use std::sync::Arc;
use std::time::{Duration, Instant};

use bosh_agent::transport::{Answer, Handle, Malformed, Nats};
use futures_util::FutureExt;
use support::certificates::{AGENT, bus};
use support::nats::{Director, NatsServer};
use support::programs::{require, wait_for};
use tokio::sync::Semaphore;

/// Long enough for everything but what is broken.
const LONG: Duration = Duration::from_secs(30);

/// Answers `{"reply_to": …, "echo": …}` with the echo. Anything else is malformed. `"wait"` waits until the gate opens, and
/// `"size"` gives that many bytes.
fn echo(gate: Arc<Semaphore>) -> Handle {
    Arc::new(move |bytes, limit| {
        let gate = Arc::clone(&gate);
        async move {
            assert_eq!(limit, Some(1_048_576));
            let request: serde_json::Value =
                serde_json::from_slice(&bytes).map_err(|error| Malformed {
                    reason: error.to_string(),
                })?;
            let text = |key: &str| request[key].as_str().unwrap_or_default().to_owned();
            if request["wait"] == true {
                let _permit = gate.acquire().await.unwrap();
            }
            let body = match request["size"].as_u64() {
                Some(size) => vec![b'x'; usize::try_from(size).unwrap()],
                None => text("echo").into_bytes(),
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

fn open() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(Semaphore::MAX_PERMITS))
}

async fn start(urls: &[&str]) -> Nats {
    Nats::start(&bus(urls), AGENT, echo(open())).await.unwrap()
}

impl Director {
    /// Asks until the agent answers, as a Director pings a new VM, and says how long that took.
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

    /// The reply to this request; replies to others are passed over.
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
async fn a_request_gets_its_reply_at_once() {
    if !require(&["nats-server", "ruby"]) {
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
    assert!(times[100] < Duration::from_millis(50), "{:?}", times[100]);
    nats.stop().await;
    assert!(!server.log().contains("Violation"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_vm_is_refused_until_nats_knows_it() {
    if !require(&["nats-server", "ruby"]) {
        return;
    }
    let server = NatsServer::start("server", &[]);
    let nats = start(&[&server.url()]).await;
    let mut director = Director::connect(&server, AGENT).await;
    wait_for("the first refusals", || {
        server.log().matches("authentication error").count() >= 2
    });
    assert!(!nats.is_connected());
    server.allow(&[AGENT]);
    // The longest pause is ten seconds.
    director.wait_until_served(Duration::from_secs(12)).await;
    assert!(nats.is_connected());

    // And when its rights end and come back while it is connected.
    server.allow(&[]);
    wait_for("the connection to end", || !nats.is_connected());
    server.allow(&[AGENT]);
    director.wait_until_served(Duration::from_secs(12)).await;
    nats.stop().await;
}
