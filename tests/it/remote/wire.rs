//! What a run sends to the server and receives from it, counted on the wire.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// Bytes that messages, logs, reports and small packages may take.
const SLACK: u64 = 1 << 20;

/// The size of a package that cannot be compressed.
const LARGE: u64 = 6 << 20;

/// Passes connections on to a server, and counts the bytes.
struct Wire {
    port: u16,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
}

impl Wire {
    /// Its threads end with the test.
    fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Self {
            port: listener.local_addr().unwrap().port(),
            sent: Arc::default(),
            received: Arc::default(),
        };
        let (sent, received) = (Arc::clone(&wire.sent), Arc::clone(&wire.received));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", server)))
                else {
                    return;
                };
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                pass(client, server, Arc::clone(&sent));
                pass(back.0, back.1, Arc::clone(&received));
            }
        });
        wire
    }

    /// The bytes that were sent and received since the last call.
    fn count(&self) -> (u64, u64) {
        let take = |it: &AtomicU64| it.swap(0, Ordering::Relaxed);
        (take(&self.sent), take(&self.received))
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, count: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            count.fetch_add(length as u64, Ordering::Relaxed);
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

#[test]
fn dependencies_stay_on_the_server_except_for_results() {
    let Some(server) = Server::start() else {
        return;
    };
    let world = World::for_everybody();
    let large = format!("head -c {LARGE} /dev/urandom > $BOSH_INSTALL_TARGET/large");
    // Two packages are compiled against the large one, and one of these against the other.
    let release = ReleaseBuilder::new("demo", "1")
        .package("lib", &[], &large)
        .package(
            "mid",
            &["lib"],
            "ls @packages@/lib/large > $BOSH_INSTALL_TARGET/mid",
        )
        .package(
            "app",
            &["lib", "mid"],
            "ls @packages@/lib/large > $BOSH_INSTALL_TARGET/app",
        );
    let tarball = world.release("release.tgz", &release);
    let wire = Wire::to(server.port);
    let run = |flags: &[&str]| {
        let agent = world.agent_at("auto", "elsewhere").args(flags);
        let agent = agent
            .arg("--remote")
            .arg(format!("grpc://127.0.0.1:{}", wire.port));
        agent.arg(&tarball).run().succeeds();
        wire.count()
    };
    let program = std::fs::metadata(env!("CARGO_BIN_EXE_bosh-agent"))
        .unwrap()
        .len();
    let (sent, received) = run(&[]);
    assert!(
        sent < program + program / 8 + SLACK,
        "{sent} bytes were sent"
    );
    // The large package is downloaded once, for the result.
    assert!(
        (LARGE..LARGE + SLACK).contains(&received),
        "{received} bytes were received"
    );
    // A later run downloads the result, and uploads nothing.
    let (sent, received) = run(&[]);
    assert!(sent < SLACK, "{sent} bytes were sent");
    assert!(
        (LARGE..LARGE + SLACK).contains(&received),
        "{received} bytes were received"
    );
    // A plan downloads no package.
    let (sent, received) = run(&["--dry-run"]);
    assert!(sent < SLACK, "{sent} bytes were sent");
    assert!(received < SLACK, "{received} bytes were received");

    // The dependency of a package that is not yet compiled is not in this run's way, either: only results are downloaded.
    let changed = release.package("top", &["lib", "app"], "touch $BOSH_INSTALL_TARGET/top");
    let tarball = world.release("changed.tgz", &changed);
    let agent = world.agent_at("auto", "changed");
    let agent = agent
        .arg("--remote")
        .arg(format!("grpc://127.0.0.1:{}", wire.port));
    agent.arg(&tarball).run().succeeds();
    let (sent, received) = wire.count();
    assert!(sent < SLACK, "{sent} bytes were sent");
    assert!(
        (LARGE..LARGE + SLACK).contains(&received),
        "{received} bytes were received"
    );
}
