//! The agent's HTTPS transport with real clients, polite and otherwise.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "these tests start clients from outside the agent, and a test may fail loudly"
)]

mod support {
    #[expect(dead_code, reason = "shared with the tests of NATS")]
    pub(crate) mod certificates;
    #[expect(dead_code, reason = "shared with the tests of NATS")]
    pub(crate) mod programs;
}

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bosh_agent::config::Secret;
use bosh_agent::tls::{self, Profile};
use bosh_agent::transport::{Answer, Bus, Handle, Https, InvalidRequest};
use futures_util::{FutureExt, StreamExt};
use reqwest::{Body, Method, StatusCode};
use rustls::pki_types::ServerName;
use support::certificates::pairs;
use support::programs::{require, wait_for};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Long enough for everything but what is broken.
const LONG: Duration = Duration::from_secs(60);

/// The header of those who know the password.
const AUTHORIZED: &str = "Authorization: Basic bWJ1czpzZTpjcmV0\r\n";

/// A server, and what its tests see of it.
struct World {
    https: Https,
    blobs: TempDir,
    gate: Arc<Semaphore>,
    handled: Arc<AtomicUsize>,
}

impl World {
    /// The handler answers with the request's bytes. `malformed` is none, `panic` panics, `wait` waits for the gate.
    async fn start() -> Option<Self> {
        if !require(&["ruby"]) {
            return None;
        }
        let gate = Arc::new(Semaphore::new(0));
        let handled = Arc::new(AtomicUsize::new(0));
        let handle: Handle = {
            let (gate, handled) = (Arc::clone(&gate), Arc::clone(&handled));
            Arc::new(move |bytes, limit| {
                assert_eq!(limit, None);
                let (gate, handled) = (Arc::clone(&gate), Arc::clone(&handled));
                async move {
                    match bytes.as_ref() {
                        b"malformed" => {
                            return Err(InvalidRequest::Json { line: 1, column: 1 });
                        }
                        b"panic" => panic!("as asked"),
                        b"wait" => gate.acquire().await.unwrap().forget(),
                        _ => {}
                    }
                    handled.fetch_add(1, Ordering::SeqCst);
                    Ok(Answer {
                        method: "echo".to_owned(),
                        reply_to: String::new(),
                        body: bytes.to_vec(),
                    })
                }
                .boxed()
            })
        };
        let blobs = tempfile::tempdir().unwrap();
        let server = &pairs()["server"];
        let bus = Bus {
            urls: vec![Secret::new("https://mbus:se%3Acret@127.0.0.1:0")],
            ca: String::new(),
            certificate: server.certificate.clone(),
            private_key: Secret::new(server.key.clone()),
        };
        let https = Https::start(&bus, blobs.path().join("blobs"), handle)
            .await
            .unwrap();
        Some(Self {
            https,
            blobs,
            gate,
            handled,
        })
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.https.address())
    }

    /// One request with the right password: status, body.
    async fn call(&self, method: Method, path: &str, body: impl Into<Body>) -> (u16, Vec<u8>) {
        let request = client()
            .request(method, self.url(path))
            .basic_auth("mbus", Some("se:cret"))
            .body(body);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.bytes().await.unwrap().to_vec())
    }

    async fn post(&self, body: &'static str) -> (u16, Vec<u8>) {
        self.call(Method::POST, "/agent", body).await
    }

    /// A TLS connection on which a test may write what it likes.
    async fn raw(&self) -> TlsStream<TcpStream> {
        raw(self.https.address()).await
    }

    fn stored(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.blobs.path().join("blobs"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn client() -> reqwest::Client {
    let config = tls::client(Some(&pairs()["ca"].certificate), Profile::External).unwrap();
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .build()
        .unwrap()
}

async fn raw(address: SocketAddr) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    secured(stream).await.unwrap()
}

async fn secured(stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let config = tls::client(Some(&pairs()["ca"].certificate), Profile::External).unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_gets_its_reply() {
    let Some(world) = World::start().await else {
        return;
    };
    let response = client()
        .post(world.url("/agent"))
        .basic_auth("mbus", Some("se:cret"))
        .body("{\"method\":\"ping\"}")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        response.headers()["content-type"],
        "text/plain; charset=utf-8"
    );
    assert_eq!(response.text().await.unwrap(), "{\"method\":\"ping\"}");
    world.https.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_path_and_method_has_its_status() {
    let Some(world) = World::start().await else {
        return;
    };
    let call = |method: &str, path: &'static str, body: &'static str| {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let world = &world;
        async move { world.call(method, path, body).await }
    };
    for (method, path, body, status) in [
        ("POST", "/agent", "x", 200),
        ("POST", "/agent?query", "x", 200),
        ("POST", "/agent", "malformed", 500),
        ("POST", "/agent", "panic", 500),
        ("POST", "/agent", "", 200),
        ("GET", "/agent", "", 404),
        ("PUT", "/agent", "x", 404),
        ("HEAD", "/agent", "", 404),
        ("POST", "/agent/", "x", 404),
        ("POST", "/", "x", 404),
        ("GET", "/blobs", "", 404),
        ("GET", "/blobs/", "", 404),
        ("GET", "/blobs/missing", "", 404),
        ("GET", "/blobs/..", "", 404),
        ("GET", "/blobs/%2e%2e%2fblobs", "", 404),
        ("PUT", "/blobs/a", "first", 201),
        ("PUT", "/blobs/a", "second", 201),
        ("PUT", "/blobs/x/y/b", "b", 201),
        ("PUT", "/blobs/", "x", 500),
        ("PUT", "/blobs/x%00", "x", 500),
        ("POST", "/blobs/a", "x", 404),
        ("DELETE", "/blobs/a", "", 404),
        ("HEAD", "/blobs/a", "", 404),
    ] {
        let (got, text) = call(method, path, body).await;
        assert_eq!(got, status, "{method} {path} {body}");
        let expected = if status == 200 { body } else { "" };
        if path.starts_with("/agent") {
            assert_eq!(text, expected.as_bytes(), "{method} {path} {body}");
        }
    }
    assert_eq!(call("GET", "/blobs/a", "").await, (200, b"second".to_vec()));
    assert_eq!(call("GET", "/blobs/z/b", "").await, (200, b"b".to_vec()));
    assert_eq!(world.stored(), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_gets_401_only_where_something_is() {
    let Some(world) = World::start().await else {
        return;
    };
    // Base64 of mbus:se:cret.
    let right = "Basic bWJ1czpzZTpjcmV0";
    for header in [
        None,
        Some(""),
        Some("Basic"),
        Some("Basic bWJ1czpzZTpjcmV"),
        Some("Basic bWJ1czpzZTpjcmV0 "),
        Some("basic bWJ1czpzZTpjcmV0"),
        Some("Basic  bWJ1czpzZTpjcmV0"),
        Some("Bearer bWJ1czpzZTpjcmV0"),
        Some("mbus:se:cret"),
    ] {
        for (method, path, status) in [
            (Method::POST, "/agent", 401),
            (Method::GET, "/agent", 401),
            (Method::PUT, "/blobs/a", 401),
            (Method::GET, "/blobs/a", 401),
            (Method::GET, "/", 404),
            (Method::POST, "/agents", 404),
        ] {
            let mut request = client().request(method, world.url(path)).body("x");
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            let response = request.send().await.unwrap();
            // White space around a header's value is none of it.
            if header.is_some_and(|header| header.trim() == right) {
                assert_ne!(response.status(), 401);
                continue;
            }
            assert_eq!(response.status(), status, "{header:?} {path}");
            if status == 401 {
                assert_eq!(response.headers()["www-authenticate"], "Basic realm=\"\"");
            }
            assert!(response.bytes().await.unwrap().is_empty());
        }
    }
    assert_eq!(world.handled.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_comes_back_as_it_went_and_an_unfinished_one_never_shows() {
    let Some(world) = World::start().await else {
        return;
    };
    let blob: Vec<u8> = (0..20_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let stored = world.call(Method::PUT, "/blobs/big", blob.clone()).await;
    assert_eq!(stored, (201, Vec::new()));
    let path = world.blobs.path().join("blobs/big");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o640
    );
    let (status, fetched) = world.call(Method::GET, "/blobs/big", "").await;
    assert!(status == 200 && fetched == blob);

    let mut stream = world.raw().await;
    let head =
        format!("PUT /blobs/big HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Length: 100000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[b'x'; 50_000]).await.unwrap();
    wait_for("the unfinished file", || world.stored().len() == 2);
    drop(stream);
    wait_for("its end", || world.stored() == ["big"]);
    assert!(std::fs::read(&path).unwrap() == blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_before_it_is_sent() {
    let Some(world) = World::start().await else {
        return;
    };
    let start = Instant::now();
    for (head, status) in [
        ("POST /agent HTTP/1.1", "HTTP/1.1 413 "),
        ("PUT /blobs/x HTTP/1.1", "HTTP/1.1 500 "),
    ] {
        let mut stream = world.raw().await;
        let head = format!(
            "{head}\r\nHost: x\r\n{AUTHORIZED}Content-Length: {}\r\n\r\n",
            1_u64 << 60
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with(status), "{answer}");
    }
    // Not after a wait for the body, which would be 20 seconds.
    assert!(start.elapsed() < Duration::from_secs(15));
    // Without an announcement.
    let pieces = futures_util::stream::repeat_with(|| Ok::<_, io::Error>(vec![b'x'; 1 << 20]));
    let request = client()
        .post(world.url("/agent"))
        .basic_auth("mbus", Some("se:cret"))
        .body(Body::wrap_stream(pieces.take(80)));
    match request.send().await {
        Ok(response) => assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE),
        // Closed while the client was still sending.
        Err(error) => assert!(error.is_request(), "{error:?}"),
    }
    assert_eq!(world.handled.load(Ordering::SeqCst), 0);
    assert!(world.stored().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_as_boshs_clients_do() {
    let Some(world) = World::start().await else {
        return;
    };
    if !require(&["openssl"]) {
        return;
    }
    let address = world.https.address().to_string();
    let try_with = |arguments: &[&str]| {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &address])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text)
    };
    for (arguments, expected) in [
        (vec!["-tls1_3"], "TLSv1.3"),
        (
            vec!["-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"],
            "TLSv1.2, Cipher is ECDHE-RSA-AES256-GCM-SHA384",
        ),
        (
            vec!["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"],
            "TLSv1.2, Cipher is ECDHE-RSA-AES128-GCM-SHA256",
        ),
        (vec!["-alpn", "h2,http/1.1"], "ALPN protocol: http/1.1"),
    ] {
        let (works, text) = try_with(&arguments);
        assert!(works && text.contains(expected), "{arguments:?}: {text}");
    }
    for arguments in [
        vec!["-tls1_2", "-cipher", "ECDHE-RSA-CHACHA20-POLY1305"],
        vec!["-tls1_2", "-cipher", "AES256-GCM-SHA384"],
        vec!["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        vec!["-alpn", "h2"],
    ] {
        let (works, text) = try_with(&arguments);
        assert!(!works, "{arguments:?}: {text}");
    }
    assert_eq!(world.post("x").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_do_not_wait_for_each_other_nor_end_with_their_client() {
    let Some(world) = World::start().await else {
        return;
    };
    let head =
        format!("POST /agent HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Length: 4\r\n\r\nwait");
    let mut lost = world.raw().await;
    lost.write_all(head.as_bytes()).await.unwrap();
    let mut kept = world.raw().await;
    kept.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..20 {
        assert_eq!(world.post("quick").await.0, 200);
    }
    drop(lost);
    // Closing comes before: it is the handler's turn only when the gate opens.
    assert_eq!(world.post("quick").await.0, 200);
    world.gate.add_permits(2);
    wait_for("both", || world.handled.load(Ordering::SeqCst) == 23);
    let mut answer = [0; 15];
    kept.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_requests_end_but_not_for_ever() {
    let Some(World { https, gate, .. }) = World::start().await else {
        return;
    };
    let address = https.address();
    let head = format!("POST /agent HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Length: 4\r\n\r\n");
    let mut waiting = raw(address).await;
    waiting
        .write_all(format!("{head}wait").as_bytes())
        .await
        .unwrap();
    // One that keeps its connection without a request, and has been served, so that the first one was read, too.
    let mut idle = raw(address).await;
    idle.write_all(format!("{head}done").as_bytes())
        .await
        .unwrap();
    idle.read_exact(&mut [0; 15]).await.unwrap();
    let start = Instant::now();
    let opening = async {
        rest(&mut idle).await;
        gate.add_permits(1);
        rest(&mut waiting).await
    };
    let ((), answer) = tokio::join!(https.stop(), opening);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(start.elapsed() < Duration::from_secs(4));
    assert!(TcpStream::connect(address).await.is_err());

    let world = World::start().await.unwrap();
    let mut waiting = world.raw().await;
    waiting
        .write_all(format!("{head}wait").as_bytes())
        .await
        .unwrap();
    let _silent = TcpStream::connect(world.https.address()).await.unwrap();
    assert_eq!(world.post("x").await.0, 200);
    let start = Instant::now();
    world.https.stop().await;
    assert!(start.elapsed() < LONG);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stop_talking_are_cut_off() {
    let Some(world) = World::start().await else {
        return;
    };
    let address = world.https.address();
    let mut slow = Vec::new();
    for text in [
        String::new(),
        "POST /agent HTTP/1.1\r\nHost:".to_owned(),
        format!("POST /agent HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Length: 9\r\n\r\nwai"),
        format!("PUT /blobs/x HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Length: 9\r\n\r\nwai"),
    ] {
        let mut stream = raw(address).await;
        stream.write_all(text.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let mut silent = TcpStream::connect(address).await.unwrap();
    for mut stream in slow {
        rest(&mut stream).await;
    }
    // Its end, or a reset.
    let _ = tokio::time::timeout(LONG, silent.read(&mut [0]))
        .await
        .unwrap();
    assert!(world.stored().is_empty());
}

/// Clients that connect and do not log in, until they are dropped. Together they are more than twice as many as may be
/// connected at once.
struct Crowd {
    #[expect(dead_code, reason = "ends with it")]
    clients: JoinSet<()>,
    connected: watch::Sender<usize>,
}

impl Crowd {
    const SIZE: usize = 600;

    /// A third of the clients sends nothing, a third the begin of a TLS handshake, and a third the begin of a request. A client
    /// that is cut off connects again, once in each `pace`.
    async fn gather(address: SocketAddr, peer: fn(u8) -> Ipv4Addr, pace: Duration) -> Self {
        let connected = watch::Sender::new(0);
        let mut clients = JoinSet::new();
        for number in 0..Self::SIZE {
            let peer = peer(u8::try_from(number % 200).unwrap());
            let connected = connected.clone();
            clients.spawn(async move {
                let mut next = tokio::time::interval(pace);
                loop {
                    next.tick().await;
                    let stream = connect_from(peer, address).await.unwrap();
                    connected.send_modify(|count| *count += 1);
                    // It ends with an error when the server closes the connection.
                    let _ = half_open(stream, number % 3).await;
                }
            });
        }
        let crowd = Self { clients, connected };
        crowd.wait_for_more(Self::SIZE).await;
        crowd
    }

    /// Waits for further connections.
    async fn wait_for_more(&self, count: usize) {
        let until = *self.connected.borrow() + count;
        let mut connected = self.connected.subscribe();
        let waiting = connected.wait_for(|count| *count >= until);
        tokio::time::timeout(LONG, waiting)
            .await
            .expect("clients to connect")
            .unwrap();
    }
}

async fn connect_from(peer: Ipv4Addr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((peer, 0).into())?;
    socket.connect(address).await
}

/// Says as much as a client of this kind does, and waits for the connection's end.
async fn half_open(mut stream: TcpStream, kind: usize) -> io::Result<()> {
    match kind {
        0 => {}
        // The header of a TLS record, and the first bytes of a ClientHello.
        1 => stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00").await?,
        _ => {
            let mut stream = secured(stream).await?;
            stream
                .write_all(b"POST /agent HTTP/1.1\r\nHost: x\r\n")
                .await?;
            return stream.read(&mut [0]).await.map(|_| ());
        }
    }
    stream.read(&mut [0]).await.map(|_| ())
}

fn one_peer(_: u8) -> Ipv4Addr {
    Ipv4Addr::LOCALHOST
}

fn many_peers(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, number + 2)
}

/// One request with the right password on a connection that stays open; how long its reply took.
async fn ping(stream: &mut TlsStream<TcpStream>) -> io::Result<Duration> {
    let start = Instant::now();
    let request =
        format!("POST /agent HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Length: 4\r\n\r\nping");
    stream.write_all(request.as_bytes()).await?;
    let mut reply = Vec::new();
    while !reply.ends_with(b"\r\n\r\nping") {
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reply.extend_from_slice(&bytes[..count]);
    }
    assert!(reply.starts_with(b"HTTP/1.1 200 OK"));
    Ok(start.elapsed())
}

/// A connection, and one request on it; how long both took.
async fn ping_anew(address: SocketAddr) -> io::Result<Duration> {
    let start = Instant::now();
    ping(&mut secured(TcpStream::connect(address).await?).await?).await?;
    Ok(start.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered_while_silent_clients_hold_every_slot() {
    let Some(world) = World::start().await else {
        return;
    };
    let address = world.https.address();
    // Silent clients by themselves would leave after ten seconds. The strict limit holds on a quiet machine.
    let (rounds, pace, limit) = if is_soak() {
        (1000, Duration::from_secs(1), Duration::from_millis(100))
    } else {
        (20, Duration::from_secs(5), Duration::from_secs(8))
    };
    for (peers, peer) in [
        ("one address", one_peer as fn(u8) -> Ipv4Addr),
        ("200 addresses", many_peers),
    ] {
        let mut kept = world.raw().await;
        ping(&mut kept).await.unwrap();
        let crowd = Crowd::gather(address, peer, pace).await;
        let (mut on_kept, mut anew, mut cut_off) = (Vec::new(), Vec::new(), 0);
        for _ in 0..rounds {
            on_kept.push(ping(&mut kept).await.unwrap());
            let start = Instant::now();
            while let Err(error) = ping_anew(address).await {
                cut_off += 1;
                assert!(start.elapsed() < limit, "{peers}: {error}");
            }
            anew.push(start.elapsed());
        }
        crowd.wait_for_more(Crowd::SIZE).await;
        ping(&mut kept).await.unwrap();
        for (what, took) in [("kept", &mut on_kept), ("new", &mut anew)] {
            took.sort();
            let [median, most, longest] =
                [50, 99, 100].map(|part| took[(rounds * part / 100).min(rounds - 1)]);
            eprintln!(
                "{} silent clients of {peers}, {what} connection: median {median:?}, 99 % {most:?}, longest {longest:?}",
                Crowd::SIZE,
            );
            assert!(most < limit, "{what} connection beside {peers}: {most:?}");
        }
        eprintln!(
            "{cut_off} of {rounds} cut off; {} connections of silent clients",
            *crowd.connected.borrow()
        );
        // Each address of the crowd has more connections than the one that we have.
        assert!(cut_off == 0 || peers == "one address", "{cut_off} cut off");
    }
}

fn is_soak() -> bool {
    std::env::var_os("BOSH_AGENT_SOAK").is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_trickles_its_headers_is_cut_off() {
    let Some(world) = World::start().await else {
        return;
    };
    let mut stream = world.raw().await;
    stream
        .write_all(b"POST /agent HTTP/1.1\r\nX: ")
        .await
        .unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let start = Instant::now();
    let trickle = async {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        while write.write_all(b"x").await.is_ok() && write.flush().await.is_ok() {
            tick.tick().await;
        }
    };
    let cut_off = async {
        let _ = read.read_to_end(&mut Vec::new()).await;
    };
    tokio::select! {
        () = trickle => {}
        () = cut_off => {}
        () = tokio::time::sleep(LONG) => panic!("not cut off"),
    }
    assert!(start.elapsed() > Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_harms_nobody() {
    let Some(world) = World::start().await else {
        return;
    };
    let count = if is_soak() { 50_000 } else { 1000 };
    let parts = [
        "POST /agent HTTP/1.1\r\n",
        "PUT /blobs/x HTTP/1.1\r\n",
        "GET /blobs/../../x HTTP/1.0\r\n",
        "GET\r\n",
        "Host: x\r\n",
        AUTHORIZED,
        "Content-Length: -1\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Expect: 100-continue\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "\r\n",
        "\n",
        "\0\u{1}\u{ff}",
        "ffffffffffffffff\r\n",
        "3\r\nabc\r\n0\r\n\r\n",
        ": \r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    let mut seed = 20_260_101_u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(seed >> 33).unwrap() % below
    };
    for number in 0..count {
        let text: String = (0..random(9)).map(|_| parts[random(parts.len())]).collect();
        if number % 10 == 0 {
            // Not even TLS.
            let mut stream = TcpStream::connect(world.https.address()).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
        } else {
            let mut stream = world.raw().await;
            // It may be thrown out before all is written.
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = stream.shutdown().await;
            let answer = rest(&mut stream).await;
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1."),
                "{text:?}: {answer:?}"
            );
        }
    }
    assert_eq!(world.post("x").await.0, 200);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(200_000));
    let mut stream = world.raw().await;
    let _ = stream.write_all(long.as_bytes()).await;
    rest(&mut stream).await;
    assert_eq!(world.post("x").await.0, 200);
    assert_eq!(world.stored().iter().filter(|name| *name != "x").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_work_is_an_error_at_once() {
    let Some(world) = World::start().await else {
        return;
    };
    let server = &pairs()["server"];
    let start = |url: &str, key: &str| {
        let bus = Bus {
            urls: vec![Secret::new(url)],
            ca: String::new(),
            certificate: server.certificate.clone(),
            private_key: Secret::new(key),
        };
        let handle: Handle = Arc::new(|_, _| panic!("nobody asks"));
        let directory = world.blobs.path().to_owned();
        async move { Https::start(&bus, directory, handle).await.map(|_| ()) }
    };
    let taken = format!("https://u:p@{}", world.https.address());
    let (key, other) = (server.key.as_str(), pairs()["agent"].key.as_str());
    for (url, key, said) in [
        (taken.as_str(), key, "cannot be listened on"),
        ("https://u:hidden@127.0.0.1", key, "it has no port"),
        ("nats://127.0.0.1:1", key, "it is not one of HTTPS"),
        ("https://u:hidden@127.0.0.1:0", other, "certificates"),
        ("https://u:hidden@127.0.0.1:0", "x", "certificates"),
    ] {
        let error = start(url, key).await.unwrap_err();
        let text = format!("{} {error:?}", bosh_agent::diag::Chain(&error));
        assert!(text.contains(said), "{text}");
        assert!(!text.contains("hidden"), "{text}");
    }
}

/// What the server still sends, until it closes.
async fn rest(stream: &mut TlsStream<TcpStream>) -> String {
    let mut bytes = Vec::new();
    // A client that was thrown out may see a reset.
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut bytes))
        .await
        .expect("the server to close");
    String::from_utf8_lossy(&bytes).into_owned()
}
