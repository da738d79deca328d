//! A TCP proxy that can cut its connections.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A proxy before a server, until the test's process ends.
pub(super) struct Proxy {
    port: u16,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    /// How many more bytes it passes on before it cuts all connections once.
    rest: Arc<AtomicI64>,
}

impl Proxy {
    /// Passes connections on to this port.
    pub(super) fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Self {
            port: listener.local_addr().unwrap().port(),
            connections: Arc::default(),
            rest: Arc::new(AtomicI64::new(i64::MAX)),
        };
        let (connections, rest) = (Arc::clone(&this.connections), Arc::clone(&this.rest));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else {
                    continue;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (connections, rest) = (Arc::clone(&connections), Arc::clone(&rest));
                    thread::spawn(move || pass_on(from, to, &rest, &connections));
                }
                connections.lock().unwrap().extend([client, server]);
            }
        });
        this
    }

    pub(super) fn url(&self) -> String {
        format!("grpc://127.0.0.1:{}", self.port)
    }

    /// Cuts all connections.
    pub(super) fn cut(&self) {
        cut(&self.connections);
    }

    /// Cuts all connections once after this number of bytes.
    pub(super) fn cut_after(&self, bytes: i64) {
        self.rest.store(bytes, Ordering::SeqCst);
    }

    /// Whether the connections were cut after the number of bytes.
    pub(super) fn has_cut(&self) -> bool {
        self.rest.load(Ordering::SeqCst) == i64::MAX
    }
}

fn cut(connections: &Mutex<Vec<TcpStream>>) {
    for connection in connections.lock().unwrap().drain(..) {
        let _ = connection.shutdown(Shutdown::Both);
    }
}

fn pass_on(
    mut from: TcpStream,
    mut to: TcpStream,
    rest: &AtomicI64,
    connections: &Mutex<Vec<TcpStream>>,
) {
    let mut buffer = [0; 1 << 14];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let count_rest = |rest: i64| match rest {
            i64::MAX => None,
            rest => Some(rest - i64::try_from(count).unwrap()),
        };
        let before = rest.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count_rest);
        if before.is_ok_and(|before| before < i64::try_from(count).unwrap()) {
            rest.store(i64::MAX, Ordering::SeqCst);
            cut(connections);
            return;
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
