//! The agent's side of the fork server, a small process that forks children: the parent of each
//! script, and processes that look up or copy files. `sandbox::server` is the other side.
//!
//! The agent starts the server when it needs the first child, by running this program again with
//! [`ARGUMENT`] and the limit of open files for scripts, and without an environment. To start a
//! child, the agent sends three descriptors over a socket, and the server forks. Forking a small
//! process takes less than half the time of running this program again.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::unistd::Pid;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::open_files::inherited_limit_of_open_files;
use super::orphans::Known;
use crate::config::Environment;

/// The argument that makes this program a fork server.
pub(crate) const ARGUMENT: &str = "__sandbox-server";

/// How long the agent waits for the server's end if the server still has children.
const END_LIMIT: Duration = Duration::from_secs(1);

/// The size limit of a child's environment and orders, in bytes.
const ORDERS_LIMIT: usize = 16 << 20;

/// A request for a child.
const FORK: u8 = b'f';

/// A request to kill a child.
const KILL: u8 = b'k';

/// The number of descriptors that a child receives: the socket to the agent, standard
/// output and standard error.
pub(crate) const DESCRIPTORS: usize = 3;

/// A handle to the fork server. Clones share one server.
///
/// The server starts at the first use, and is restarted if it has died. It ends when the last clone
/// is dropped and the server's children have ended. If the agent dies, its sockets close; the
/// server and its children then stop.
#[derive(Debug, Clone)]
pub struct ForkServer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    program: PathBuf,
    running: Mutex<Option<Server>>,
    /// The number of the next child.
    next: AtomicU32,
}

impl Default for ForkServer {
    /// A server that runs the executable of this process, even if its file is replaced or removed.
    fn default() -> Self {
        "/proc/self/exe".into()
    }
}

impl<P: Into<PathBuf>> From<P> for ForkServer {
    /// A server that runs this executable file.
    fn from(program: P) -> Self {
        Self(Arc::new(Inner {
            program: program.into(),
            running: Mutex::default(),
            next: AtomicU32::new(0),
        }))
    }
}

impl ForkServer {
    /// The executable file of the server.
    pub(super) fn program(&self) -> &Path {
        &self.0.program
    }

    /// Makes the server fork a child with these descriptors: the child's socket, standard output
    /// and standard error. Starts the server if none runs. Returns the number that identifies the
    /// child in later requests.
    ///
    /// # Errors
    /// If the server cannot be started.
    pub(super) fn fork(&self, descriptors: &[OwnedFd; DESCRIPTORS]) -> io::Result<u32> {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let mut running = self.running();
        if let Some(server) = running.as_ref()
            && server.ask_to_fork(number, descriptors).is_ok()
        {
            return Ok(number);
        }
        if running.take().is_some() {
            tracing::warn!("the process sandbox-server has ended unexpectedly; restarting it");
        }
        let server = Server::start(&self.0.program)?;
        server.ask_to_fork(number, descriptors)?;
        *running = Some(server);
        Ok(number)
    }

    /// Makes the server kill a child that has not stopped in time.
    pub(super) fn kill(&self, number: u32) {
        if let Some(server) = self.running().as_ref() {
            // If the server has ended, its children have ended, too.
            let _ = server.send(KILL, number, &[]);
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Server>> {
        self.0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running fork server.
#[derive(Debug)]
struct Server {
    process: Child,
    socket: UnixStream,
    #[expect(
        dead_code,
        reason = "held: keeps the server from being treated as an orphan"
    )]
    known: Known,
}

impl Server {
    #[expect(
        clippy::disallowed_methods,
        reason = "one of the places that start processes"
    )]
    fn start(program: &Path) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let (process, known) = Known::start(|| {
            let process = Command::new(program)
                .arg0("bosh-agent")
                .arg(ARGUMENT)
                .args(inherited_limit_of_open_files())
                .env_clear()
                .stdin(OwnedFd::from(theirs))
                // The server lives slightly longer than a killed agent, and must not keep the
                // agent's output open.
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // Ctrl-C in a terminal signals the whole foreground process group. Only the agent
                // may stop scripts, so the server gets its own group.
                .process_group(0)
                .spawn()?;
            let id = Pid::from_raw(process.id().cast_signed());
            Ok::<_, io::Error>((process, Some(id)))
        })?;
        Ok(Self {
            process,
            socket: ours,
            known,
        })
    }

    fn ask_to_fork(&self, number: u32, descriptors: &[OwnedFd; DESCRIPTORS]) -> io::Result<()> {
        self.send(FORK, number, &descriptors.each_ref().map(AsFd::as_fd))
    }

    fn send(&self, operation: u8, number: u32, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(&self.socket, operation, number, descriptors)
    }
}

/// Sends a request: one byte for the operation, and the child's number. The request is so short
/// that it is always sent and received as a whole.
fn send(
    socket: &UnixStream,
    operation: u8,
    number: u32,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let [first, second, third, fourth] = number.to_le_bytes();
    let request = [operation, first, second, third, fourth];
    sendmsg(
        socket,
        &[IoSlice::new(&request)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

impl Drop for Server {
    /// Waits for the server's end, so that the CPU time of scripts is added to the agent's.
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
        let _ = self.socket.set_read_timeout(Some(END_LIMIT));
        // The read returns when the server has ended. A server with children ends after them, so
        // the wait has a time limit.
        let ended = match self.socket.read(&mut [0]) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        };
        if ended {
            let _ = self.process.wait();
        }
    }
}

/// A request to the server.
#[derive(Debug)]
pub(crate) enum Request {
    /// Fork a child with this number and these descriptors.
    Fork(u32, [OwnedFd; DESCRIPTORS]),
    /// Kill a child.
    Kill(u32),
}

/// Receives a request. `None` if the agent has closed its end of the socket.
///
/// # Errors
/// Receiving failed, or the message is not a request.
pub(crate) fn receive(socket: &UnixStream) -> io::Result<Option<Request>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut request = [0; 5];
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut request)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
    )?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut found = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            found.extend(descriptors);
        }
    }
    let [operation, first, second, third, fourth] = request;
    let number = u32::from_le_bytes([first, second, third, fourth]);
    match (operation, found.try_into()) {
        (FORK, Ok(descriptors)) => Ok(Some(Request::Fork(number, descriptors))),
        (KILL, _) => Ok(Some(Request::Kill(number))),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Encodes what a child reads first: its environment and its orders, preceded by their total
/// length.
#[must_use]
pub(super) fn encode_orders(environment: &Environment, orders: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; size_of::<u32>()];
    for (name, value) in environment.iter() {
        for part in [name.as_bytes(), b"=", value.as_bytes(), b"\0"] {
            frame.extend_from_slice(part);
        }
    }
    frame.push(0);
    frame.extend_from_slice(orders);
    let length = u32::try_from(frame.len() - size_of::<u32>()).unwrap_or(u32::MAX);
    frame[..size_of::<u32>()].copy_from_slice(&length.to_le_bytes());
    frame
}

/// Decodes the output of `encode_orders` from a socket.
///
/// # Errors
/// If the socket ends early, or the data is invalid.
pub(crate) fn read_orders(socket: &mut impl Read) -> io::Result<(Environment, Vec<u8>)> {
    let mut length = [0; size_of::<u32>()];
    socket.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > ORDERS_LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length];
    socket.read_exact(&mut frame)?;
    let mut environment = Vec::new();
    let mut rest = frame.as_slice();
    loop {
        let end = rest.iter().position(|byte| *byte == 0);
        let (variable, behind) = match end {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => return Err(io::ErrorKind::InvalidData.into()),
        };
        rest = behind;
        if variable.is_empty() {
            return Ok((environment.into_iter().collect(), rest.to_vec()));
        }
        // The name of a variable may begin with `=`, as in the standard library.
        let Some(split) = variable.iter().skip(1).position(|byte| *byte == b'=') else {
            continue;
        };
        let (name, value) = (&variable[..=split], &variable[split + 2..]);
        environment.push((
            OsStr::from_bytes(name).to_owned(),
            OsString::from_vec(value.to_vec()),
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn environment_and_orders_survive_the_socket() {
        let variables = [
            ("PATH", "/bin:/usr/bin"),
            ("LINES", "a\nb"),
            ("EMPTY", ""),
            ("=odd", "x=y"),
        ]
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let bytes = OsString::from_vec(vec![0xff, b'=']);
        let mut variables = variables.to_vec();
        variables.push(("BYTES".into(), bytes));
        let environment: Environment = variables.iter().cloned().collect();
        let frame = encode_orders(&environment, b"{\"a\": 1}");
        let (read, orders) = read_orders(&mut frame.as_slice()).unwrap();
        let pairs = |environment: &Environment| -> Vec<(OsString, OsString)> {
            let pairs = environment.iter();
            pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect()
        };
        assert_eq!(pairs(&read), variables);
        assert_eq!(orders, b"{\"a\": 1}");
        read_orders(&mut &frame[..frame.len() - 1]).unwrap_err();
        let (read, orders) =
            read_orders(&mut encode_orders(&Environment::default(), b"").as_slice()).unwrap();
        assert!(pairs(&read).is_empty() && orders.is_empty());
    }

    #[test]
    fn requests_cross_the_socket_with_their_descriptors() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&ours, FORK, 7, &[writer.as_fd(); DESCRIPTORS]).unwrap();
        send(&ours, KILL, 0x0102_0304, &[]).unwrap();
        drop(writer);
        let Some(Request::Fork(7, [.., last])) = receive(&theirs).unwrap() else {
            panic!("no request for a child");
        };
        std::fs::File::from(last).write_all(b"x").unwrap();
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, "x");
        let killed = receive(&theirs).unwrap();
        assert!(matches!(killed, Some(Request::Kill(0x0102_0304))));
        send(&ours, FORK, 8, &[reader.as_fd()]).unwrap();
        receive(&theirs).unwrap_err();
        drop(ours);
        assert!(receive(&theirs).unwrap().is_none());
    }
}
