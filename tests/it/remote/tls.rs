//! Executions through nginx with TLS, passwords, tokens and client certificates.

use crate::cache::nginx::{Nginx, USER, USER_IN_BASE64};
use crate::support::{Agent, ReleaseBuilder, World};

use super::server::Server;

/// A server behind nginx.
struct Scene {
    server: Server,
    nginx: Nginx,
    world: World,
}

impl Scene {
    /// The scene, if everything is installed.
    fn new(nginx: fn(u16) -> Option<Nginx>) -> Option<Self> {
        let server = Server::start()?;
        Some(Self {
            nginx: nginx(server.port())?,
            server,
            world: World::for_everybody(),
        })
    }

    /// Compiles through nginx. Without `trusted`, the client does not know the CA.
    fn agent(&self, trusted: bool) -> Agent {
        let script = "echo lib > $BOSH_INSTALL_TARGET/lib";
        let release = ReleaseBuilder::new("demo", "1").package("lib", &[], script);
        let tarball = self.world.release("release.tgz", &release);
        let url = format!("grpcs://127.0.0.1:{}", self.nginx.port());
        let agent = self.server.agent_at(&self.world, &url).arg(tarball);
        match trusted {
            true => agent.env("SSL_CERT_FILE", self.nginx.ca().to_str().unwrap()),
            false => agent,
        }
    }
}

#[test]
fn packages_are_compiled_through_tls_with_a_password() {
    let Some(scene) = Scene::new(Nginx::before_grpc) else {
        return;
    };
    let agent = scene.agent(true).env("BOSH_AGENT_REMOTE_USER", USER.0);
    agent
        .env("BOSH_AGENT_REMOTE_PASSWORD", USER.1)
        .run()
        .succeeds()
        .says("Finished compiling release lib/")
        .does_not_say("Warning")
        .does_not_say(USER.1)
        .does_not_say(USER_IN_BASE64);
    assert!(
        scene
            .nginx
            .requests("POST /build.bazel.remote.execution.v2.Execution/Execute 200")
            > 0
    );
}

#[test]
fn unknown_ca_ends_the_run() {
    let Some(scene) = Scene::new(Nginx::before_grpc) else {
        return;
    };
    scene
        .agent(false)
        .run()
        .blames_the_machine()
        .says("cannot compile packages on the machines of `grpcs://127.0.0.1:")
        .says("the TLS handshake with");
}

#[test]
fn refused_token_ends_the_run_and_stays_secret() {
    let Some(scene) = Scene::new(Nginx::before_grpc) else {
        return;
    };
    scene
        .agent(true)
        .env("BOSH_AGENT_REMOTE_TOKEN", "wrong-token")
        .run()
        .blames_the_machine()
        .says("returned 401 Unauthorized")
        .does_not_say("wrong-token");
}

#[test]
fn client_certificate_opens_the_server() {
    let Some(scene) = Scene::new(Nginx::with_client_certificates) else {
        return;
    };
    scene
        .agent(true)
        .run()
        .blames_the_machine()
        .says("returned 403 Forbidden");
    let [certificate, key] = scene.nginx.client_certificate();
    scene
        .agent(true)
        .env(
            "BOSH_AGENT_REMOTE_CERTIFICATE",
            certificate.to_str().unwrap(),
        )
        .env("BOSH_AGENT_REMOTE_KEY", key.to_str().unwrap())
        .run()
        .succeeds()
        .does_not_say("Warning");
}
