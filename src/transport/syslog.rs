//! Sends audit lines to the machine's syslog daemon, from which operators collect them.

use std::io;
use std::path::PathBuf;

use chrono::{DateTime, Local};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixDatagram, UnixStream};
use tokio::sync::mpsc;

use crate::runtime::{self, Task};

/// The sockets of syslog daemons, in the order in which they are tried.
const SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// The maximum number of lines that wait to be sent. Further ones are dropped.
const QUEUE: usize = 1000;

/// The tag by which syslog daemons recognize the lines, as in the Go agent.
const TAG: &str = "vcap.agent";

/// The importance of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// A failure (`LOG_ERR`).
    Failure = 3,
    /// Any other line (`LOG_DEBUG`).
    Usual = 7,
}

/// A connection to the syslog daemon. Without a daemon, lines are dropped.
#[derive(Debug)]
pub(super) struct Syslog {
    lines: mpsc::Sender<String>,
    _sending: Task<()>,
}

impl Syslog {
    /// Sends lines to the first socket that accepts a connection.
    pub(super) fn start() -> Self {
        Self::to(SOCKETS.iter().map(PathBuf::from).collect())
    }

    fn to(sockets: Vec<PathBuf>) -> Self {
        let (lines, receiver) = mpsc::channel(QUEUE);
        Self {
            lines,
            _sending: runtime::spawn("syslog", send(sockets, receiver)),
        }
    }

    /// Queues a line. If the queue is full, the line is dropped.
    pub(super) fn log(&self, priority: Priority, line: &str) {
        let packet = packet(priority, std::process::id(), Local::now(), line);
        let _ = self.lines.try_send(packet);
    }
}

/// A line in the format of the Go agent, which contains the time twice.
fn packet(priority: Priority, process: u32, at: DateTime<Local>, line: &str) -> String {
    let (priority, short) = (priority as u8, at.format("%b %e %H:%M:%S"));
    let long = at.format("%Y/%m/%d %H:%M:%S");
    format!("<{priority}>{short} {TAG}[{process}]: {long} {line}\n")
}

enum Connection {
    Datagram(UnixDatagram),
    Stream(UnixStream),
}

async fn send(sockets: Vec<PathBuf>, mut lines: mpsc::Receiver<String>) {
    let mut connection = None;
    while let Some(line) = lines.recv().await {
        // If the daemon was restarted, the first attempt fails.
        for _ in 0..2 {
            if connection.is_none() {
                connection = connect(&sockets).await;
            }
            let Some(connected) = &mut connection else {
                break;
            };
            if connected.write(line.as_bytes()).await.is_ok() {
                break;
            }
            connection = None;
        }
    }
}

async fn connect(sockets: &[PathBuf]) -> Option<Connection> {
    for path in sockets {
        let datagram = UnixDatagram::unbound().and_then(|socket| {
            socket.connect(path)?;
            Ok(socket)
        });
        if let Ok(socket) = datagram {
            return Some(Connection::Datagram(socket));
        }
        if let Ok(socket) = UnixStream::connect(path).await {
            return Some(Connection::Stream(socket));
        }
    }
    None
}

impl Connection {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Datagram(socket) => socket.send(bytes).await.map(drop),
            Self::Stream(socket) => socket.write_all(bytes).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    use tokio::net::UnixListener;

    use super::*;
    use crate::fs;

    #[test]
    fn packet_has_the_go_agents_format() {
        let at = Local.with_ymd_and_hms(2026, 1, 2, 3, 4, 5).unwrap();
        assert_eq!(
            packet(Priority::Usual, 12, at, "CEF:0"),
            "<7>Jan  2 03:04:05 vcap.agent[12]: 2026/01/02 03:04:05 CEF:0\n"
        );
    }

    #[tokio::test]
    async fn lines_reach_a_daemon_that_was_restarted() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        let syslog = Syslog::to(vec![scratch.path().join("none"), path.clone()]);
        let mut buffer = [0; 1000];
        for line in ["first", "second"] {
            let daemon = UnixDatagram::bind(&path).unwrap();
            syslog.log(Priority::Failure, line);
            let length = daemon.recv(&mut buffer).await.unwrap();
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            assert!(text.starts_with("<3>"), "{text}");
            assert!(text.ends_with(&format!(" {line}\n")), "{text}");
            drop(daemon);
            fs::remove_file(&path).unwrap();
        }
        let daemon = UnixListener::bind(&path).unwrap();
        syslog.log(Priority::Usual, "third");
        let (stream, _) = daemon.accept().await.unwrap();
        let mut text = String::new();
        BufReader::new(stream).read_line(&mut text).await.unwrap();
        assert!(text.ends_with(" third\n"), "{text}");
    }

    #[tokio::test]
    async fn lines_are_dropped_without_a_daemon() {
        let scratch = tempfile::tempdir().unwrap();
        let syslog = Syslog::to(vec![scratch.path().join("none")]);
        for _ in 0..2 * QUEUE {
            syslog.log(Priority::Usual, "line");
        }
    }
}
