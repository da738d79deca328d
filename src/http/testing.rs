//! A server that fails in defined ways.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::Url;

#[path = "../../tests/support/head.rs"]
mod head;

use head::read_head;

/// What the server does with one connection.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Sends a status and a body after reading the whole request.
    Answer(u16, Vec<u8>),
    /// Like [`Answer`](Self::Answer) with an empty body, but sends no "100 Continue".
    AnswerLate(u16),
    /// Redirects to this location.
    Redirect(String),
    /// Sends a status before reading the request's body, and closes.
    Refuse(u16),
    /// Sends the first half of a body and closes.
    Cut(Vec<u8>),
    /// Reads the request and waits until the peer closes.
    Silence,
    /// Sends these bytes and waits until the peer closes.
    Stuck(Vec<u8>),
    /// Sends a status and then bytes until the peer closes.
    Endless,
    /// Sends a status, and then one byte of this body after each pause.
    Trickle(Vec<u8>, Duration),
    /// Closes immediately.
    Close,
}

/// A request that the server received.
#[derive(Debug, Clone)]
pub(crate) struct ReceivedRequest {
    /// Request line and headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// A server on a free port. It follows a script with one reply for each connection; the last reply is repeated.
#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<ReceivedRequest>>>,
}

impl Server {
    pub(crate) fn start(script: &[Reply]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (script, log) = (script.to_vec(), Arc::clone(&requests));
        // The thread ends with the test's process.
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let reply = script[number.min(script.len() - 1)].clone();
                let log = Arc::clone(&log);
                // Some tests close the connection early.
                thread::spawn(move || drop(serve(stream.unwrap(), &reply, &log)));
            }
        });
        Self { port, requests }
    }

    /// A port on which no server listens.
    pub(crate) fn unused_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self, path: &str) -> Url {
        Url::parse(&format!("http://127.0.0.1:{}{path}", self.port)).unwrap()
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<ReceivedRequest> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    reply: &Reply,
    log: &Mutex<Vec<ReceivedRequest>>,
) -> std::io::Result<()> {
    if matches!(reply, Reply::Close) {
        return Ok(());
    }
    let head = read_head(&stream)?;
    let lower = head.to_lowercase();
    if let Reply::Refuse(status) = reply {
        log.lock().unwrap().push(ReceivedRequest {
            head,
            body: Vec::new(),
        });
        return stream.write_all(answer(*status, b"").as_slice());
    }
    if lower.contains("expect: 100-continue") && !matches!(reply, Reply::AnswerLate(_)) {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let length = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    log.lock().unwrap().push(ReceivedRequest { head, body });
    match reply {
        Reply::Answer(status, body) => stream.write_all(&answer(*status, body)),
        Reply::AnswerLate(status) => stream.write_all(&answer(*status, b"")),
        Reply::Redirect(location) => stream.write_all(
            format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
                .as_bytes(),
        ),
        Reply::Cut(body) => {
            let mut whole = answer(200, body);
            whole.truncate(whole.len() - body.len() / 2);
            stream.write_all(&whole)
        }
        Reply::Stuck(bytes) => {
            stream.write_all(bytes)?;
            stream.read_to_end(&mut Vec::new()).map(drop)
        }
        Reply::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b'x'; 64 * 1024])?;
            }
        }
        Reply::Trickle(body, pause) => {
            let whole = answer(200, body);
            let head = whole.len() - body.len();
            stream.write_all(&whole[..head])?;
            for byte in &whole[head..] {
                thread::sleep(*pause);
                stream.write_all(&[*byte])?;
            }
            Ok(())
        }
        Reply::Silence => stream.read_to_end(&mut Vec::new()).map(drop),
        Reply::Refuse(_) | Reply::Close => Ok(()),
    }
}

fn answer(status: u16, body: &[u8]) -> Vec<u8> {
    let mut whole = format!(
        "HTTP/1.1 {status} Status\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    whole.extend_from_slice(body);
    whole
}
