//! A server in front of another one that answers some requests with faults.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A fault of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Another status.
    Status(u16),
    /// The first half of the real response.
    Cut,
    /// The real response with one byte of the body changed.
    Spoiled,
    /// The connection ends without a response.
    Dead,
    /// No response while the client waits.
    Silent,
}

/// The planned faults of the next requests of each method, in order.
type Plan = Arc<Mutex<Vec<(&'static str, Fault)>>>;

/// A server on its own port.
pub(crate) struct FaultyServer {
    port: u16,
    plan: Plan,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FaultyServer {
    /// A server in front of a server without TLS at this URL.
    pub(crate) fn before(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Plan::default();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let behind = url.trim_start_matches("http://").to_owned();
        let (planned, log) = (Arc::clone(&plan), Arc::clone(&asked));
        // The thread ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (behind, plan, log) = (behind.clone(), Arc::clone(&planned), Arc::clone(&log));
                thread::spawn(move || serve(stream.unwrap(), &behind, &plan, &log));
            }
        });
        Self { port, plan, asked }
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sets the faults of the next requests of a method, in order. The other server answers later requests.
    pub(crate) fn plan(&self, method: &'static str, faults: &[Fault]) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        *plan = faults.iter().map(|fault| (method, *fault)).collect();
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// The number of requests of a method since the last plan.
    pub(crate) fn asked(&self, method: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().filter(|asked| *asked == method).count()
    }
}

/// Handles one request. The connection ends with the response.
fn serve(mut client: TcpStream, behind: &str, plan: &Plan, log: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut head = String::new();
    let (mut length, mut waits) = (0, false);
    loop {
        let mut line = String::new();
        reader
            .read_line(&mut line)
            .ok()
            .filter(|count| *count > 0)?;
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if lower.starts_with("expect:") {
            waits = true;
            continue;
        }
        if line == "\r\n" {
            head.push_str("Connection: close\r\n\r\n");
            break;
        }
        if !lower.starts_with("connection:") {
            head.push_str(&line);
        }
    }
    let method = head.split(' ').next()?.to_owned();
    log.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(method.clone());
    let fault = {
        let mut plan = plan.lock().unwrap_or_else(PoisonError::into_inner);
        let at = plan.iter().position(|(of, _)| *of == method);
        at.map(|at| plan.remove(at).1)
    };
    match fault {
        Some(Fault::Dead) => return Some(()),
        Some(Fault::Silent) => {
            // Until the client disconnects.
            let _ = client.read_to_end(&mut Vec::new());
            return Some(());
        }
        Some(Fault::Status(status)) => {
            let answer = format!(
                "HTTP/1.1 {status} Fault\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            return client.write_all(answer.as_bytes()).ok();
        }
        _ => {}
    }
    if waits {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut server = TcpStream::connect(behind).ok()?;
    server.write_all(head.as_bytes()).ok()?;
    server.write_all(&body).ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    match fault {
        Some(Fault::Cut) => answer.truncate(answer.len() / 2),
        Some(Fault::Spoiled) => *answer.last_mut()? ^= 1,
        _ => {}
    }
    client.write_all(&answer).ok()
}
