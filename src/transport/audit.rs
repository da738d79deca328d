//! One line for each request in the Common Event Format, as the Go agent writes them. They go to the log's target
//! `audit`, at level debug.

use std::net::SocketAddr;

use hyper::{Method, StatusCode};

/// The target of these lines.
const TARGET: &str = "audit";

/// Whether anybody reads them.
fn is_on() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
}

/// A request over NATS. `server` is host and port; `problem` is why it got no reply.
pub(super) fn nats(method: &str, reply_to: &str, server: &str, problem: Option<&str>) {
    if is_on() {
        let line = nats_line(method, reply_to, server, &host_name(), problem);
        tracing::debug!(target: TARGET, "{line}");
    }
}

/// A request over HTTPS.
pub(super) fn https(method: &Method, path: &str, user: &str, peer: SocketAddr, status: StatusCode) {
    if is_on() {
        let line = https_line(method, path, user, peer, &host_name(), status);
        tracing::debug!(target: TARGET, "{line}");
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
    // The headers are always empty in the Go agent's lines, too.
    format!(
        "CEF:0|CloudFoundry|BOSH|1|agent_api|{path}|{severity}|duser={user} requestMethod={method} src={ip} spt={port} \
         shost={host_name} cs1=HOST=&X_REAL_IP=&X_FORWARDED_FOR=&X_FORWARDED_PROTO=&USER_AGENT= cs1Label=httpHeaders \
         cs2=basic cs2Label=authType cs3={status} cs3Label=responseStatus {reason}",
        status = status.as_u16(),
    )
}

/// What a peer sends may be long, and must not begin another line.
pub(super) fn short(text: &str) -> String {
    const MOST: usize = 200;
    text.chars()
        .take(MOST)
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
    fn a_nats_request_has_its_line() {
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
    fn an_https_request_has_its_line() {
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
