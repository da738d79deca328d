//! Servers of a shared cache that are killed in mid-transfer.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::grpc::Casd;
use super::nginx::{Nginx, USER};
use super::proxy::proxy;
use super::{Cached, noise, script};
use crate::support::{Agent, ReleaseBuilder};

/// A server that can be killed and started again with what it has stored.
trait Server {
    const SCHEME: &str;
    fn port(&self) -> u16;
    fn pid(&self) -> u32;
    fn start_again(&mut self);
}

impl Server for Nginx {
    const SCHEME: &str = "http";

    fn port(&self) -> u16 {
        self.port()
    }

    fn pid(&self) -> u32 {
        self.pid()
    }

    fn start_again(&mut self) {
        self.start_again();
    }
}

impl Server for Casd {
    const SCHEME: &str = "grpc";

    fn port(&self) -> u16 {
        self.port()
    }

    fn pid(&self) -> u32 {
        self.pid()
    }

    fn start_again(&mut self) {
        self.start_again();
    }
}

/// The size of the package during whose transfer a server is killed.
const SIZE: usize = 2_000_000;

/// In the middle of it. The other packages are small.
const MIDDLE: usize = SIZE / 2;

fn with_large_package(cached: &Cached, name: &str) -> ReleaseBuilder {
    let content = format!("cat noise - <<< {name} > $BOSH_INSTALL_TARGET/content");
    let script = script(&cached.ran(), name, &content);
    let release = cached.release("one\n").package(name, &[], &script);
    release.file("noise", 0o644, &noise(SIZE))
}

/// Kills the server when this many bytes of a connection's requests or responses have passed, and returns its URL until then.
fn killed_at<S: Server>(server: &S, limits: [usize; 2]) -> String {
    let pid = Pid::from_raw(server.pid().cast_signed());
    let port = proxy(server.port(), limits, move || {
        kill(pid, Signal::SIGKILL).unwrap();
    });
    format!("{}://127.0.0.1:{port}", S::SCHEME)
}

fn survives_a_killed_server<S: Server>(mut server: S) {
    let cached = Cached::new();
    let direct = |server: &S| format!("{}://127.0.0.1:{}", S::SCHEME, server.port());
    let agent = |flag, url: &str| -> Agent {
        let agent = cached.world.agent().arg(flag).arg(url);
        let agent = agent.env("BOSH_AGENT_CACHE_USER", USER.0);
        agent.env("BOSH_AGENT_CACHE_PASSWORD", USER.1)
    };
    for (name, limits, flag) in [
        ("fetched", [usize::MAX, MIDDLE], "--cache-from"),
        ("stored", [MIDDLE, usize::MAX], "--cache-to"),
    ] {
        let release = with_large_package(&cached, name);
        cached.run(cached.world.agent(), &release).1.succeeds();
        let result = cached.result();
        if flag == "--cache-from" {
            let stored = agent("--cache-to", &direct(&server));
            cached.run(stored, &release).1.succeeds();
        }
        let (names, ran) = cached.run(agent(flag, &killed_at(&server, limits)), &release);
        let ran = ran.succeeds();
        assert!(names.iter().any(|it| it == name), "{names:?}");
        assert_eq!(ran.stderr.matches("Warning").count(), 1, "{}", ran.stderr);
        assert!(cached.result() == result, "{name}");

        server.start_again();
        for expected in [true, false] {
            let url = direct(&server);
            let again = agent("--cache-from", &url).arg("--cache-to").arg(&url);
            let (names, ran) = cached.run(again, &release);
            ran.succeeds().does_not_say("Warning");
            // What was stored partially is stored as a whole now.
            let is_compiled = names.iter().any(|it| it == name);
            assert_eq!(is_compiled, expected && flag == "--cache-to", "{names:?}");
            assert!(cached.result() == result, "{name}");
        }
    }
}

#[test]
fn killed_http_server_costs_one_warning() {
    if let Some(nginx) = Nginx::start() {
        survives_a_killed_server(nginx);
    }
}

#[test]
fn killed_remote_execution_cache_costs_one_warning() {
    if let Some(casd) = Casd::start() {
        survives_a_killed_server(casd);
    }
}
