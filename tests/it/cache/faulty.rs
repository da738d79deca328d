//! A server of a shared cache that fails in defined ways.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::support::read_head;

/// What the server does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// Responds with this status.
    Status(u16),
    /// Closes the connection in the middle of a content.
    Killed,
    /// Sends contents of the right size with other bytes.
    WrongBytes,
    /// The same, and has no space for new files.
    WrongAndFull,
    /// Sends contents that do not end.
    Endless,
    /// Sends one byte of a content in each second.
    Slow,
    /// Accepts connections and sends nothing.
    Silent,
    /// Receives files and sends no response to them.
    SilentUploads,
    /// Refuses to overwrite a file.
    WriteOnce,
}

/// Serves the files of a directory on a free port, with a fault.
pub(super) struct FaultyServer {
    port: u16,
}

impl FaultyServer {
    pub(super) fn start(fault: Fault, directory: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let directory = directory.to_owned();
        // The threads end with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let directory = directory.clone();
                // The agent may close the connection early.
                thread::spawn(move || drop(serve(stream.unwrap(), fault, &directory)));
            }
        });
        Self { port }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A URL where no server listens.
    pub(super) fn unused_url() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    }
}

fn serve(mut stream: TcpStream, fault: Fault, directory: &Path) -> std::io::Result<()> {
    let head = read_head(&stream)?;
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let is_silent = match fault {
        Fault::Silent => true,
        Fault::SilentUploads => method == "PUT",
        _ => false,
    };
    if is_silent {
        return stream.read_to_end(&mut Vec::new()).map(drop);
    }
    if let Fault::Status(status) = fault {
        return write!(
            stream,
            "HTTP/1.1 {status} Status\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let file: PathBuf = directory.join(path.trim_start_matches('/'));
    if method == "PUT" && matches!(fault, Fault::WrongAndFull) {
        return stream
            .write_all(b"HTTP/1.1 507 Full\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let Ok(mut body) = std::fs::read(file) else {
        if method == "PUT" {
            // Killed while it receives.
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            return stream.read_exact(&mut [0]);
        }
        return stream
            .write_all(b"HTTP/1.1 404 Missing\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    if method == "PUT" {
        return stream
            .write_all(b"HTTP/1.1 409 Exists\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let length = body.len();
    let is_content = path.contains("/content/");
    match fault {
        Fault::WrongBytes | Fault::WrongAndFull if is_content => {
            body.iter_mut().for_each(|byte| *byte ^= 1)
        }
        Fault::Killed if is_content => body.truncate(length / 2),
        Fault::Endless if is_content => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b'x'; 4096])?;
            }
        }
        _ => {}
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    if matches!(fault, Fault::Slow) && is_content {
        for byte in body {
            thread::sleep(Duration::from_secs(1));
            stream.write_all(&[byte])?;
        }
        return Ok(());
    }
    stream.write_all(&body)
}
