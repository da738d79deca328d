//! A server of a shared cache whose answers a test controls.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use crate::support::read_head;

/// Serves the files of a directory on a free port.
pub(super) struct WatchedServer {
    port: u16,
    requested: Arc<Mutex<Vec<String>>>,
}

impl WatchedServer {
    /// `answer` gets the path of each file that is requested and its bytes, and returns the bytes to send. It may block.
    pub(super) fn start(
        directory: &Path,
        answer: impl Fn(&str, Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requested = Arc::<Mutex<Vec<String>>>::default();
        let (directory, paths) = (directory.to_owned(), Arc::clone(&requested));
        let answer = Arc::new(answer);
        // The threads end with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (directory, paths) = (directory.clone(), Arc::clone(&paths));
                let (answer, stream) = (Arc::clone(&answer), stream.unwrap());
                // The agent may close the connection early.
                thread::spawn(move || drop(serve(stream, &directory, &paths, &*answer)));
            }
        });
        Self { port, requested }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Whether a path that contains `part` was requested.
    pub(super) fn was_asked_for(&self, part: &str) -> bool {
        let requested = self.requested.lock().unwrap();
        requested.iter().any(|path| path.contains(part))
    }
}

fn serve(
    mut stream: TcpStream,
    directory: &Path,
    requested: &Mutex<Vec<String>>,
    answer: &dyn Fn(&str, Vec<u8>) -> Vec<u8>,
) -> std::io::Result<()> {
    let head = read_head(&stream)?;
    let path = head.split(' ').nth(1).unwrap().to_owned();
    requested.lock().unwrap().push(path.clone());
    let Ok(body) = std::fs::read(directory.join(path.trim_start_matches('/'))) else {
        return stream
            .write_all(b"HTTP/1.1 404 Missing\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let body = answer(&path, body);
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)
}

/// The SHA-256 of the blob of a package in the directory of a cache, which has one entry of that name.
pub(super) fn blob_of(directory: &Path, package: &str) -> String {
    let entries = directory.join("v1/entries").join(package);
    let entry = std::fs::read_dir(entries).unwrap().next().unwrap();
    let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
    let entry: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    entry["blob"]["sha256"].as_str().unwrap().to_owned()
}
