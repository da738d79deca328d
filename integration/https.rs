//! The agent's HTTPS transport with real clients, some of them malformed or malicious.

mod hostile;
mod requests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{is_soak, require_tools, wait_until};
use crate::support::certificates::pairs;
use bosh_agent::config::{Secret, Vcap};
use bosh_agent::machine::data::DataDirectory;
use bosh_agent::tls::{self, Profile};
use bosh_agent::transport::{Answer, BusOptions, Handle, Https, InvalidRequest};
use futures_util::{FutureExt, StreamExt};
use reqwest::{Body, Method, StatusCode};
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The time limit of everything that should succeed.
const LONG: Duration = Duration::from_secs(60);

/// The header with the password.
const AUTHORIZED: &str = "Authorization: Basic bWJ1czpzZTpjcmV0\r\n";

/// A server, and its effects that tests check.
struct World {
    https: Https,
    blobs: TempDir,
    gate: Arc<Semaphore>,
    handled: Arc<AtomicUsize>,
}

impl World {
    /// The handler answers with the request's bytes. `malformed` is an invalid request, `panic` panics, `wait` waits for the gate.
    async fn start() -> Option<Self> {
        if !require_tools(&["ruby"]) {
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
        let bus = BusOptions {
            urls: vec![Secret::new("https://mbus:se%3Acret@127.0.0.1:0")],
            ca: String::new(),
            certificate: server.certificate.clone(),
            private_key: Secret::new(server.key.clone()),
        };
        let data = DataDirectory::prepared(&Vcap::new(blobs.path()));
        let https = Https::start(&bus, data, handle).await.unwrap();
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

    /// Sends one request with the right password. Returns status and body.
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

    /// A TLS connection for arbitrary bytes.
    async fn raw(&self) -> TlsStream<TcpStream> {
        raw(self.https.address()).await
    }

    fn stored(&self) -> Vec<String> {
        // The first upload creates the directory.
        let listed = std::fs::read_dir(self.blobs.path().join("data/blobs"));
        let mut names: Vec<_> = listed
            .into_iter()
            .flatten()
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

pub(crate) async fn raw(address: SocketAddr) -> TlsStream<TcpStream> {
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

/// Sends one request with the right password on a connection that stays open. Returns the time to its reply.
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

/// All bytes from the server until it closes.
pub(crate) async fn rest(stream: &mut TlsStream<TcpStream>) -> String {
    let mut bytes = Vec::new();
    // A client that was disconnected may get a reset.
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut bytes))
        .await
        .expect("the server to close");
    String::from_utf8_lossy(&bytes).into_owned()
}
