//! The audit log: one line per request in the Common Event Format, as in the Go agent. HTTPS requests
//! without the password, and copies of NATS requests, have no line. The lines have the log target
//! `audit` and the log level `debug`. On a VM, they are also sent to syslog.

use std::net::SocketAddr;
use std::sync::OnceLock;

use hyper::{Method, StatusCode};

use super::syslog::{Priority, Syslog};

/// The log target.
const TARGET: &str = "audit";

/// The connection to syslog. It is global, as the log is.
static SYSLOG: OnceLock<Syslog> = OnceLock::new();

/// From now on, sends the lines of all transports to the machine's syslog daemon.
pub(crate) fn send_to_syslog() {
    SYSLOG.get_or_init(Syslog::start);
}

/// Whether lines are logged or sent.
fn is_enabled() -> bool {
    SYSLOG.get().is_some() || tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
}

fn record(priority: Priority, line: &str) {
    tracing::debug!(target: TARGET, "{line}");
    if let Some(syslog) = SYSLOG.get() {
        syslog.log(priority, line);
    }
}

/// Logs a request over NATS. `server` is host and port of the NATS server. `problem` is the reason
/// if there was no reply.
pub(super) fn nats(method: &str, reply_to: &str, server: &str, problem: Option<&str>) {
    if is_enabled() {
        let line = nats_line(method, reply_to, server, &host_name(), problem);
        let priority = problem.map_or(Priority::Usual, |_| Priority::Failure);
        record(priority, &line);
    }
}

/// Logs a request over HTTPS.
pub(super) fn https(method: &Method, path: &str, user: &str, peer: SocketAddr, status: StatusCode) {
    if is_enabled() {
        let line = https_line(method, path, user, peer, &host_name(), status);
        record(Priority::Usual, &line);
    }
}

fn nats_line(
    method: &str,
    reply_to: &str,
    server: &str,
    host_name: &str,
    problem: Option<&str>,
) -> String {
    let (method, reply_to) = (short(method), short(reply_to));
    let (host, port) = server.rsplit_once(':').unwrap_or((server, ""));
    let severity = if problem.is_some() { 7 } else { 1 };
    let reason = problem.map_or_else(String::new, |problem| {
        format!("cs1={} cs1Label=statusReason", short(problem))
    });
    format!(
        "CEF:0|CloudFoundry|BOSH|1|agent_api|{method}|{severity}|duser={reply_to} src={host} spt={port} shost={host_name} {reason}"
    )
}

fn https_line(
    method: &Method,
    path: &str,
    user: &str,
    peer: SocketAddr,
    host_name: &str,
    status: StatusCode,
) -> String {
    let (path, user, ip, port) = (short(path), short(user), peer.ip(), peer.port());
    let is_failure = status.is_client_error() || status.is_server_error();
    let severity = if is_failure { 7 } else { 1 };
    let reason = if is_failure {
        "cs4= cs4Label=statusReason"
    } else {
        ""
    };
    // The headers are empty, as in the Go agent's lines.
    format!(
        "CEF:0|CloudFoundry|BOSH|1|agent_api|{path}|{severity}|duser={user} requestMethod={method} src={ip} spt={port} \
         shost={host_name} cs1=HOST=&X_REAL_IP=&X_FORWARDED_FOR=&X_FORWARDED_PROTO=&USER_AGENT= cs1Label=httpHeaders \
         cs2=basic cs2Label=authType cs3={status} cs3Label=responseStatus {reason}",
        status = status.as_u16(),
    )
}

/// Shortens a text that a peer has sent, and replaces its line breaks.
pub(super) fn short(text: &str) -> String {
    const MAX_CHARS: usize = 200;
    text.chars()
        .take(MAX_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nats_request_is_logged() {
        let line = |problem| nats_line("ping", "director.a.b.c", "10.0.0.6:4222", "vm", problem);
        assert_eq!(
            line(None),
            "CEF:0|CloudFoundry|BOSH|1|agent_api|ping|1|duser=director.a.b.c src=10.0.0.6 spt=4222 shost=vm "
        );
        assert_eq!(
            line(Some("no\nJSON")),
            "CEF:0|CloudFoundry|BOSH|1|agent_api|ping|7|duser=director.a.b.c src=10.0.0.6 spt=4222 shost=vm \
             cs1=no JSON cs1Label=statusReason"
        );
    }

    #[test]
    fn https_request_is_logged() {
        let peer = "10.0.0.7:5000".parse().unwrap();
        let line = |status| https_line(&Method::POST, "/agent", "mbus", peer, "vm", status);
        let start = "CEF:0|CloudFoundry|BOSH|1|agent_api|/agent|";
        let middle = "|duser=mbus requestMethod=POST src=10.0.0.7 spt=5000 shost=vm \
                      cs1=HOST=&X_REAL_IP=&X_FORWARDED_FOR=&X_FORWARDED_PROTO=&USER_AGENT= cs1Label=httpHeaders \
                      cs2=basic cs2Label=authType cs3=";
        assert_eq!(
            line(StatusCode::OK),
            format!("{start}1{middle}200 cs3Label=responseStatus ")
        );
        assert_eq!(
            line(StatusCode::NOT_FOUND),
            format!("{start}7{middle}404 cs3Label=responseStatus cs4= cs4Label=statusReason")
        );
    }
}
