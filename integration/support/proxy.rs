//! A proxy for CONNECT, requests with an absolute URL, and SOCKS5. It connects to this machine, whatever the requested name.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::common::read_head;

/// A proxy on its own port.
pub(crate) struct Proxy {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        // The thread ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let log = Arc::clone(&log);
                thread::spawn(move || serve(stream.unwrap(), &log));
            }
        });
        Self { port, asked }
    }

    /// Host and port.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The received requests: `CONNECT HOST:PORT`, `SOCKS HOST:PORT` or a whole request line.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut client: TcpStream, log: &Mutex<Vec<String>>) -> Option<()> {
    let mut first = [0];
    client.read_exact(&mut first).ok()?;
    let (server, head) = if first[0] == 5 {
        (socks(&mut client, log)?, Vec::new())
    } else {
        http(&mut client, first[0], log)?
    };
    let mut server = TcpStream::connect(("127.0.0.1", server)).ok()?;
    server.write_all(&head).ok()?;
    let (client_too, server_too) = (client.try_clone().ok()?, server.try_clone().ok()?);
    let back = thread::spawn(move || pass(server_too, client_too));
    pass(client, server);
    back.join().ok()
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    // An error on one side ends the other.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// The port, and bytes that were already read for the server.
fn http(client: &mut TcpStream, first: u8, log: &Mutex<Vec<String>>) -> Option<(u16, Vec<u8>)> {
    let head = read_head([first].as_slice().chain(&mut *client)).ok()?;
    let line = head.lines().next()?.trim_end_matches(" HTTP/1.1");
    log.lock().unwrap().push(line.to_owned());
    let port_of = |authority: &str| authority.rsplit(':').next()?.parse().ok();
    if let Some(authority) = line.strip_prefix("CONNECT ") {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
        return Some((port_of(authority)?, Vec::new()));
    }
    let authority = line.split("://").nth(1)?.split('/').next()?;
    Some((port_of(authority)?, head.into_bytes()))
}

fn socks(client: &mut TcpStream, log: &Mutex<Vec<String>>) -> Option<u16> {
    let mut count = [0];
    client.read_exact(&mut count).ok()?;
    let mut methods = vec![0; count[0].into()];
    client.read_exact(&mut methods).ok()?;
    client.write_all(&[5, 0]).ok()?;
    // Version, command, reserved, address type.
    let mut request = [0; 4];
    client.read_exact(&mut request).ok()?;
    let host = if request[3] == 3 {
        let mut length = [0];
        client.read_exact(&mut length).ok()?;
        let mut name = vec![0; length[0].into()];
        client.read_exact(&mut name).ok()?;
        String::from_utf8(name).ok()?
    } else {
        let mut address = [0; 4];
        client.read_exact(&mut address).ok()?;
        std::net::Ipv4Addr::from(address).to_string()
    };
    let mut port = [0; 2];
    client.read_exact(&mut port).ok()?;
    let port = u16::from_be_bytes(port);
    log.lock().unwrap().push(format!("SOCKS {host}:{port}"));
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).ok()?;
    Some(port)
}
