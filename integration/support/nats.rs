//! A real NATS server, configured like a Director's, and clients in the roles of the Director and its health monitor.

use std::fs::{self, File};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Subscriber};
use bosh_agent::config::Secret;
use bosh_agent::tls::{self, Profile};
use futures_util::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::ClientConfig;
use tempfile::TempDir;

use super::certificates::{Pair, common_name, pairs, server_at};
use super::docker::Container;
use super::network::Network;
use crate::common::{free_port, wait_until};

/// A NATS server. Dropping it kills the process.
pub(crate) struct NatsServer {
    directory: TempDir,
    host: String,
    port: u16,
    address: String,
    process: Option<Child>,
    /// In which the server runs, if it is in a network of containers.
    container: Option<Container>,
}

impl NatsServer {
    /// A running server with the certificate of this name and these agents as its users.
    pub(crate) fn start(certificate: &str, agents: &[&str]) -> Self {
        let mut server = Self::prepare(certificate, agents);
        server.launch();
        server
    }

    /// A server that is not running.
    pub(crate) fn prepare(certificate: &str, agents: &[&str]) -> Self {
        Self::configured("127.0.0.1", free_port(), &pairs()[certificate], agents)
    }

    /// A running server in a container with this number in a network.
    #[track_caller]
    pub(crate) fn start_in(network: &Network, number: u8, agents: &[&str]) -> Self {
        let host = network.address(number);
        let mut server = Self::configured(&host, 4222, &server_at(&host), agents);
        let path = |name| server.directory.path().join(name).display().to_string();
        let (config, log) = (path("nats.cfg"), path("log"));
        let command = ["nats-server", "-c", &config, "-l", &log];
        let container = network.serve(
            ("nats", number),
            server.port,
            server.directory.path(),
            &command,
        );
        server.container = Some(container);
        server
    }

    fn configured(host: &str, port: u16, pair: &Pair, agents: &[&str]) -> Self {
        let server = Self {
            directory: tempfile::tempdir().unwrap(),
            host: host.to_owned(),
            port,
            address: format!("{host}:{port}"),
            process: None,
            container: None,
        };
        server.write("server.crt", &pair.certificate);
        server.write("server.key", &pair.key);
        server.write("ca.crt", &pairs()["ca"].certificate);
        server.configure(agents, 1 << 20);
        server
    }

    /// Writes the server's configuration, in the format of the release's template and bosh-nats-sync.
    pub(crate) fn configure(&self, agents: &[&str], max_payload: usize) {
        let path = |name| self.directory.path().join(name);
        let configuration = format!(
            "host: {:?}\nport: {}\nmax_payload: {max_payload}\n\
             tls {{\n  cert_file: {:?}\n  key_file: {:?}\n  ca_file: {:?}\n  verify_and_map: true\n  timeout: 5\n}}\n\
             include \"auth.json\"\n",
            self.host,
            self.port,
            path("server.crt"),
            path("server.key"),
            path("ca.crt"),
        );
        let user = |name: &str, publish: Vec<String>, subscribe: Vec<String>| {
            serde_json::json!({
                "user": format!("C=USA, O=Cloud Foundry, CN={name}"),
                "permissions": { "publish": publish, "subscribe": subscribe },
            })
        };
        let mut users = vec![
            user(
                "default.director.bosh-internal",
                vec!["agent.*".into(), "hm.director.alert".into()],
                vec!["director.>".into()],
            ),
            user(
                "default.hm.bosh-internal",
                vec![],
                vec![
                    "hm.agent.heartbeat.*".into(),
                    "hm.agent.alert.*".into(),
                    "hm.agent.shutdown.*".into(),
                ],
            ),
        ];
        for name in agents {
            let agent = name.trim_end_matches(".bootstrap");
            users.push(user(
                &common_name(name),
                vec![
                    format!("hm.agent.heartbeat.{agent}"),
                    format!("hm.agent.alert.{agent}"),
                    format!("hm.agent.shutdown.{agent}"),
                    format!("director.*.{agent}.*"),
                ],
                vec![format!("agent.{agent}")],
            ));
        }
        let authorization = serde_json::json!({ "authorization": { "users": users } });
        self.write("nats.cfg", &configuration);
        self.write("auth.json", &authorization.to_string());
    }

    /// Changes the agents that a running server accepts, as bosh-nats-sync does.
    pub(crate) fn allow(&self, agents: &[&str]) {
        self.configure(agents, 1 << 20);
        self.reload();
    }

    /// Makes a running server, or one that is not running yet, deny the subscription of an agent, as if the agent had another name.
    pub(crate) fn misname(&self, agent: &str) {
        let path = self.directory.path().join("auth.json");
        let text = fs::read_to_string(path).unwrap();
        let own = format!("\"agent.{agent}\"");
        assert!(text.contains(&own));
        self.write("auth.json", &text.replace(&own, "\"agent.other\""));
        if self.process.is_some() {
            self.reload();
        }
    }

    /// Makes a server that is not running yet demand a password of an agent, in addition to the certificate.
    pub(crate) fn demand_password(&self, agent: &str, password: &str) {
        let path = self.directory.path().join("auth.json");
        let mut value: serde_json::Value =
            serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let users = value["authorization"]["users"].as_array_mut().unwrap();
        let name = common_name(agent);
        let user = users
            .iter_mut()
            .find(|user| user["user"].as_str().unwrap().ends_with(&name));
        user.unwrap()["password"] = password.into();
        self.write("auth.json", &value.to_string());
    }

    fn reload(&self) {
        let reloads = self.log().matches("Reloaded server configuration").count();
        let process = self.process.as_ref().unwrap();
        kill(
            Pid::from_raw(i32::try_from(process.id()).unwrap()),
            Signal::SIGHUP,
        )
        .unwrap();
        wait_until("the server to reload", || {
            self.log().matches("Reloaded server configuration").count() > reloads
        });
    }

    /// Starts the server and waits until it listens.
    pub(crate) fn launch(&mut self) {
        assert!(self.process.is_none());
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .unwrap();
        let process = Command::new("nats-server")
            .arg("-c")
            .arg(self.directory.path().join("nats.cfg"))
            .env("PATH", "/usr/sbin:/usr/bin:/usr/local/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        wait_until("the server to listen", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    /// Kills the server.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        drop(self.container.take());
    }

    /// The server's URL with an IP address, as in an agent's settings.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The server's log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).unwrap();
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the NATS server's log\n{}", self.log());
        }
    }
}

/// A client in the role `director` or `monitor`.
pub(crate) async fn connect(server: &NatsServer, name: &str) -> Client {
    let pair = &pairs()[name];
    let config = ClientConfig::builder_with_provider(tls::provider(Profile::External))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(tls::roots(Some(&pairs()["ca"].certificate)).unwrap())
        .with_client_auth_cert(
            tls::certificates(&pair.certificate, "the client").unwrap(),
            tls::private_key(&Secret::new(pair.key.clone())).unwrap(),
        )
        .unwrap();
    ConnectOptions::new()
        .tls_client_config(config)
        .require_tls(true)
        .retry_on_initial_connect()
        .subscription_capacity(10_000)
        .connect(server.url())
        .await
        .unwrap()
}

/// A Director that communicates with one agent.
pub(crate) struct Director {
    client: Client,
    replies: Subscriber,
    agent: String,
}

impl Director {
    pub(crate) async fn connect(server: &NatsServer, agent: &str) -> Self {
        let client = connect(server, "director").await;
        let replies = client.subscribe("director.uuid.>").await.unwrap();
        client.flush().await.unwrap();
        Self {
            client,
            replies,
            agent: agent.to_owned(),
        }
    }

    /// The subject for the reply to a request.
    pub(crate) fn reply_to(&self, request: &str) -> String {
        format!("director.uuid.{}.{request}", self.agent)
    }

    /// Sends bytes to the agent and flushes.
    pub(crate) async fn send(&self, payload: Vec<u8>) {
        self.publish(payload).await;
        self.client.flush().await.unwrap();
    }

    /// Sends bytes to the agent without flushing.
    pub(crate) async fn publish(&self, payload: Vec<u8>) {
        let subject = format!("agent.{}", self.agent);
        self.client.publish(subject, payload.into()).await.unwrap();
    }

    /// The next reply: the request's id, and its text.
    pub(crate) async fn reply(&mut self, limit: Duration) -> Option<(String, String)> {
        let message = tokio::time::timeout(limit, self.replies.next())
            .await
            .ok()??;
        let request = message.subject.rsplit('.').next().unwrap().to_owned();
        Some((
            request,
            String::from_utf8(message.payload.to_vec()).unwrap(),
        ))
    }
}
