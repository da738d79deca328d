//! A proxy that ends connections to a server in mid-transfer.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// Forwards connections to a server, and ends each after so many bytes of its requests or of its responses, when it has called `cut`.
/// Returns the port.
pub(super) fn proxy(
    to: u16,
    [requests, responses]: [usize; 2],
    cut: impl Fn() + Send + Sync + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let cut = Arc::new(cut);
    // The threads end with the test's process.
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            // It may have been killed.
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else {
                continue;
            };
            for (from, into, limit) in [(&client, &server, requests), (&server, &client, responses)]
            {
                let (from, into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                let cut = Arc::clone(&cut);
                thread::spawn(move || forward(&from, &into, limit, &*cut));
            }
        }
    });
    port
}

/// Copies bytes until one side closes the connection or the limit is reached.
fn forward(mut from: &TcpStream, mut into: &TcpStream, limit: usize, cut: &dyn Fn()) {
    let mut left = limit;
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let count = count.min(left);
        left -= count;
        if into.write_all(&buffer[..count]).is_err() {
            break;
        }
        if left == 0 {
            cut();
            break;
        }
    }
    for stream in [from, into] {
        // The other side may have closed it.
        let _ = stream.shutdown(Shutdown::Both);
    }
}
