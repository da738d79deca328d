//! A NATS server that sends what the test wants instead of what the protocol wants. It has the certificate of a Director's server, and demands that
//! of the agent.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bosh_agent::config::Secret;
use bosh_agent::tls::{self, Profile};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::pairs;

/// The time limit of every step of the agent. It connects again after at most ten seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// The server.
pub(crate) struct LyingServer {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

/// A greeting of a server that tells the truth.
pub(crate) fn honest() -> Value {
    json!({
        "server_id": "L", "version": "2.11.0", "proto": 1, "host": "127.0.0.1", "port": 4222, "headers": true,
        "tls_required": true, "max_payload": 1 << 20, "client_id": 7,
    })
}

/// A truthful greeting with another value.
pub(crate) fn honest_but(key: &str, value: Value) -> String {
    let mut info = honest();
    info[key] = value;
    info.to_string()
}

impl LyingServer {
    /// Listens on a port of this machine.
    pub(crate) async fn bind(port: u16) -> Self {
        let provider = tls::provider(Profile::External);
        let roots = tls::roots(Some(&pairs()["ca"].certificate)).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
        let pair = &pairs()["server"];
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                tls::certificates(&pair.certificate, "the server").unwrap(),
                tls::private_key(&Secret::new(pair.key.clone())).unwrap(),
            )
            .unwrap();
        Self {
            listener: TcpListener::bind(("127.0.0.1", port)).await.unwrap(),
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }

    /// The next connection of the agent, on which nothing was sent.
    pub(crate) async fn tcp(&self) -> TcpStream {
        let accepting = tokio::time::timeout(LIMIT, self.listener.accept());
        accepting.await.expect("the agent to connect").unwrap().0
    }

    /// The next connection, up to the TLS handshake and the agent's `CONNECT`. `info` is the text after `INFO`.
    pub(crate) async fn greet(&self, info: &str) -> io::Result<Liar> {
        let mut tcp = self.tcp().await;
        tcp.write_all(format!("INFO {info}\r\n").as_bytes()).await?;
        let accepting = tokio::time::timeout(LIMIT, self.acceptor.accept(tcp));
        let stream = accepting.await.map_err(io::Error::other)??;
        let mut liar = Liar {
            stream: BufReader::new(stream),
            connect: String::new(),
            sid: String::new(),
            subject: String::new(),
        };
        match liar.next().await {
            Some(Frame::Connect(connect)) => liar.connect = connect,
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(liar)
    }

    /// The next connection, up to the agent's subscription.
    pub(crate) async fn accept(&self, info: &str) -> Liar {
        let mut liar = self.greet(info).await.unwrap();
        while liar.sid.is_empty() {
            match liar.next().await {
                Some(Frame::Subscribe { subject, sid }) => {
                    (liar.subject, liar.sid) = (subject, sid)
                }
                Some(_) => {}
                None => panic!("the agent has closed the connection"),
            }
        }
        liar
    }
}

/// What the agent has sent.
#[derive(Debug)]
pub(crate) enum Frame {
    Connect(String),
    Subscribe { subject: String, sid: String },
    Publish { subject: String, payload: Vec<u8> },
    Other,
}

/// A connection.
pub(crate) struct Liar {
    stream: BufReader<TlsStream<TcpStream>>,
    /// The agent's options, with its credentials.
    pub(crate) connect: String,
    pub(crate) sid: String,
    pub(crate) subject: String,
}

impl Liar {
    /// Sends bytes.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await
    }

    /// Sends bytes, each piece of these lengths in a record of its own.
    pub(crate) async fn send_in_pieces(
        &mut self,
        bytes: &[u8],
        lengths: &[usize],
    ) -> io::Result<()> {
        let mut rest = bytes;
        for length in lengths.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, others) = rest.split_at((*length).min(rest.len()));
            self.send(piece).await?;
            rest = others;
        }
        Ok(())
    }

    /// A message for the agent's subscription.
    pub(crate) fn message(&self, payload: &[u8]) -> Vec<u8> {
        message(&self.subject, &self.sid, payload)
    }

    /// The agent's next frame, except pings, which are answered. `None` if the agent has closed the connection.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        tokio::time::timeout(LIMIT, self.read())
            .await
            .expect("a frame")
    }

    /// The same, if it comes within this time.
    pub(crate) async fn next_within(&mut self, limit: Duration) -> Option<Frame> {
        tokio::time::timeout(limit, self.read()).await.ok()?
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let line = line.trim_end();
            let fields: Vec<&str> = line.split(' ').collect();
            return Some(match fields[..] {
                ["PING"] => {
                    self.send("PONG\r\n").await.ok()?;
                    continue;
                }
                ["CONNECT", ..] => Frame::Connect(line.to_owned()),
                ["SUB", subject, sid] => Frame::Subscribe {
                    subject: subject.to_owned(),
                    sid: sid.to_owned(),
                },
                ["PUB", subject, length] => {
                    let mut payload = vec![0; length.parse::<usize>().unwrap() + 2];
                    self.stream.read_exact(&mut payload).await.ok()?;
                    payload.truncate(payload.len() - 2);
                    Frame::Publish {
                        subject: subject.to_owned(),
                        payload,
                    }
                }
                _ => Frame::Other,
            });
        }
    }

    /// The next reply to this subject; ignores everything else. `None` if the agent has closed the connection.
    pub(crate) async fn reply(&mut self, to: &str) -> Option<Value> {
        loop {
            if let Frame::Publish { subject, payload } = self.next().await?
                && subject == to
            {
                return Some(serde_json::from_slice(&payload).unwrap());
            }
        }
    }

    /// Sends copies of these bytes, as a fast network would deliver them, until the agent closes the connection or has taken `limit` bytes. Returns how many it has taken.
    pub(crate) async fn flood(self, bytes: &[u8], limit: u64) -> u64 {
        let (mut reader, mut writer) = tokio::io::split(self.stream);
        let mut taken = 0;
        let mut pace = tokio::time::interval(Duration::from_millis(1));
        let sending = async {
            while taken < limit && writer.write_all(bytes).await.is_ok() {
                taken += bytes.len() as u64;
                pace.tick().await;
            }
        };
        let reading = async {
            let mut answers = vec![0; 1 << 16];
            while matches!(reader.read(&mut answers).await, Ok(1..)) {}
        };
        tokio::select! {
            () = sending => {}
            () = reading => {}
            () = tokio::time::sleep(LIMIT) => panic!("the agent neither reads nor closes"),
        }
        taken
    }
}

/// A message for a subscription.
pub(crate) fn message(subject: &str, sid: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("MSG {subject} {sid} {}\r\n", payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"\r\n");
    bytes
}
