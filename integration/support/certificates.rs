//! Keys and certificates like a Director's, and the bus that they are for.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use bosh_agent::config::Secret;
use bosh_agent::transport::BusOptions;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::common::once;

/// A certificate and its key, PEM.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    /// PKCS#1, as from a Director.
    pub(crate) key: String,
}

impl Pair {
    /// The key in the other common format.
    pub(crate) fn as_pkcs8(&self) -> String {
        let mut openssl = Command::new("openssl")
            .args(["pkcs8", "-topk8", "-nocrypt"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = openssl.stdin.take().unwrap();
        stdin.write_all(self.key.as_bytes()).unwrap();
        drop(stdin);
        String::from_utf8(openssl.wait_with_output().unwrap().stdout).unwrap()
    }
}

/// The contents of a certificate.
#[derive(Debug, Clone, Serialize)]
struct Wanted {
    name: String,
    issuer: String,
    subject: Vec<(&'static str, String)>,
    names: Vec<String>,
    usage: Option<&'static str>,
    elliptic: bool,
}

impl Wanted {
    /// A CA certificate.
    fn authority(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            issuer: name.to_owned(),
            subject: subject(name),
            names: Vec::new(),
            usage: None,
            elliptic: false,
        }
    }

    /// A server certificate with a common name and alternative names such as `IP:127.0.0.1`.
    fn server(name: &str, issuer: &str, common_name: &str, names: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            issuer: issuer.to_owned(),
            subject: subject(common_name),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            usage: Some("serverAuth"),
            elliptic: false,
        }
    }

    /// A client certificate.
    fn client(name: &str, issuer: &str, common_name: &str) -> Self {
        Self {
            usage: Some("clientAuth"),
            ..Self::server(name, issuer, common_name, &[])
        }
    }
}

fn subject(common_name: &str) -> Vec<(&'static str, String)> {
    vec![
        ("C", "USA".to_owned()),
        ("O", "Cloud Foundry".to_owned()),
        ("CN", common_name.to_owned()),
    ]
}

/// The agent of most tests.
pub(crate) const AGENT: &str = "3a5e6c5e-8f0b-4f66-a9d4-32c1f3b3b3c3";

/// The same agent with the name in its first certificate, which a Director replaces at once.
pub(crate) const BOOTSTRAP: &str = "3a5e6c5e-8f0b-4f66-a9d4-32c1f3b3b3c3.bootstrap";

/// The name of a Director's NATS server.
pub(crate) const SERVER_NAME: &str = "default.nats.bosh-internal";

/// The certificates of all tests, made once: `ca` issued `server`, `wrong-name` (another common name), `wrong-host` (for another host),
/// `director`, `monitor`, `agent`, `elliptic-agent`, `bootstrap`; `other-ca` issued `other-server`.
pub(crate) fn pairs() -> &'static HashMap<String, Pair> {
    static PAIRS: OnceLock<HashMap<String, Pair>> = OnceLock::new();
    PAIRS.get_or_init(|| {
        let here = ["IP:127.0.0.1", "DNS:localhost"];
        let wanted = [
            Wanted::authority("ca"),
            Wanted::authority("other-ca"),
            Wanted::server("server", "ca", SERVER_NAME, &here),
            Wanted::server("wrong-name", "ca", "evil.example.com", &here),
            Wanted::server("wrong-host", "ca", SERVER_NAME, &["IP:127.0.0.2"]),
            Wanted::server("other-server", "other-ca", SERVER_NAME, &here),
            Wanted::client("director", "ca", "default.director.bosh-internal"),
            Wanted::client("monitor", "ca", "default.hm.bosh-internal"),
            Wanted::client("agent", "ca", &common_name(AGENT)),
            Wanted::client("bootstrap", "ca", &common_name(BOOTSTRAP)),
            Wanted {
                elliptic: true,
                ..Wanted::client("elliptic-agent", "ca", &common_name(AGENT))
            },
        ];
        let made = once("certificates", |directory| {
            let made = make(&HashMap::new(), &wanted);
            fs::write(directory.join("pairs.json"), made).unwrap();
        });
        serde_json::from_slice(&fs::read(made.join("pairs.json")).unwrap()).unwrap()
    })
}

/// A NATS server's certificate for this address, issued by `ca`.
pub(crate) fn server_at(address: &str) -> Pair {
    let name = format!("IP:{address}");
    issue(Wanted::server("server", "ca", SERVER_NAME, &[&name]))
}

/// The certificate of any agent, issued by `ca`.
pub(crate) fn agent_with_id(id: &str) -> Pair {
    issue(Wanted::client("agent", "ca", &common_name(id)))
}

fn issue(wanted: Wanted) -> Pair {
    let issuers = HashMap::from([("ca", &pairs()["ca"])]);
    let name = wanted.name.clone();
    let made = make(&issuers, &[wanted]);
    let mut made: HashMap<String, Pair> = serde_json::from_slice(&made).unwrap();
    made.remove(&name).unwrap()
}

/// The common name of an agent's certificate.
pub(crate) fn common_name(agent: &str) -> String {
    format!("{agent}.agent.bosh-internal")
}

/// A bus with these URLs, for the agent of most tests.
pub(crate) fn bus(urls: &[&str]) -> BusOptions {
    let agent = &pairs()["agent"];
    BusOptions {
        urls: urls.iter().map(|url| Secret::new(*url)).collect(),
        ca: pairs()["ca"].certificate.clone(),
        certificate: agent.certificate.clone(),
        private_key: Secret::new(agent.key.clone()),
    }
}

/// Makes certificates. Returns them as JSON, by name. Issuers are given, or come before the certificates that they sign.
fn make(issuers: &HashMap<&str, &Pair>, wanted: &[Wanted]) -> Vec<u8> {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/integration/support/certificates.rb"
    );
    let mut ruby = Command::new("ruby")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = json!({ "issuers": issuers, "wanted": wanted }).to_string();
    let mut stdin = ruby.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = ruby.wait_with_output().unwrap();
    assert!(output.status.success(), "no certificates were made");
    output.stdout
}
