//! The agent's side of the fork server: the process that forks the parent of each script.
//!
//! The server is this program, started once more with [`ARGUMENT`] and without an environment, at the first script of a run. To
//! start a script the agent sends it three descriptors over a socket; the server forks, and the copy becomes the script's parent.
//! A fork of a small process costs a tenth of what it takes to execute this program again. `sandbox::server` is the other side.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::Pid;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::supervise::Known;
use crate::config::Environment;

/// The argument that makes this program a fork server.
pub const ARGUMENT: &str = "__sandbox-server";

/// How long the agent waits at its end for a server that still has scripts to end.
const END_LIMIT: Duration = Duration::from_secs(1);

/// The size limit of a script's orders and environment, in bytes.
const ORDERS_LIMIT: usize = 16 << 20;

/// The descriptors of a script's parent: the socket to the agent, standard output, standard error.
pub const DESCRIPTORS: usize = 3;

/// A handle to the fork server. Clones share one server.
///
/// The server starts at the first use and again when it has died. It ends when the last clone is dropped and its children have
/// ended; when the agent dies, its end of the socket closes, which the server and its children treat as a stop.
#[derive(Debug, Clone)]
pub struct ForkServer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    program: PathBuf,
    running: Mutex<Option<Server>>,
}

impl<P: Into<PathBuf>> From<P> for ForkServer {
    /// A server that will run this program file.
    fn from(program: P) -> Self {
        Self(Arc::new(Inner {
            program: program.into(),
            running: Mutex::default(),
        }))
    }
}

impl ForkServer {
    /// The program's file.
    pub(super) fn program(&self) -> &Path {
        &self.0.program
    }

    /// Has the server fork a child with these descriptors: the child's socket, standard output, standard error. Starts the
    /// server if none runs.
    ///
    /// # Errors
    /// When the server cannot be started.
    pub(super) fn fork(&self, descriptors: [OwnedFd; DESCRIPTORS]) -> io::Result<()> {
        let mut running = self
            .0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = running.as_ref()
            && server.send(&descriptors).is_ok()
        {
            return Ok(());
        }
        if running.take().is_some() {
            tracing::warn!("the sandbox server has died and is started again");
        }
        let server = Server::start(&self.0.program)?;
        server.send(&descriptors)?;
        *running = Some(server);
        Ok(())
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
                .env_clear()
                .stdin(OwnedFd::from(theirs))
                // The server outlives a killed agent for a moment and must not keep the agent's output open.
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // Ctrl-C in a terminal goes to the whole foreground group. It must reach scripts through the agent alone.
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

    fn send(&self, descriptors: &[OwnedFd; DESCRIPTORS]) -> io::Result<()> {
        let borrowed = descriptors.each_ref().map(AsFd::as_fd);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&borrowed));
        sendmsg(
            &self.socket,
            &[IoSlice::new(b".")],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }
}

impl Drop for Server {
    /// Waits for the server's end, so that the processor time of scripts is counted as the agent's and nothing is left.
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
        let _ = self.socket.set_read_timeout(Some(END_LIMIT));
        // The server's end closes the socket. With children left it takes as long as they do; the agent does not.
        let ended = match self.socket.read(&mut [0]) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        };
        if ended {
            let _ = self.process.wait();
        }
    }
}

/// Receives the descriptors of a script's parent. `None` when the agent has closed its end.
///
/// # Errors
/// When the system refuses, and for a message without three descriptors.
pub fn receive(socket: &UnixStream) -> io::Result<Option<[OwnedFd; DESCRIPTORS]>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
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
    match found.try_into() {
        Ok(descriptors) => Ok(Some(descriptors)),
        Err(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// What a script's parent reads first: the script's environment and its orders, with their length in front.
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

/// Reads what [`encode_orders`] has written: the environment and the orders.
///
/// # Errors
/// When the socket ends before, or what it holds is no such frame.
pub fn read_orders(socket: &mut impl Read) -> io::Result<(Vec<(OsString, OsString)>, Vec<u8>)> {
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
            return Ok((environment, rest.to_vec()));
        }
        // A name may begin with `=`, as the standard library reads them.
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
        assert_eq!(read, variables);
        assert_eq!(orders, b"{\"a\": 1}");
        read_orders(&mut &frame[..frame.len() - 1]).unwrap_err();
        let (read, orders) =
            read_orders(&mut encode_orders(&Environment::default(), b"").as_slice()).unwrap();
        assert!(read.is_empty() && orders.is_empty());
    }

    #[test]
    fn descriptors_cross_the_socket_and_its_end_is_seen() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let server = || -> io::Result<()> {
            let copy = OwnedFd::from(writer.try_clone()?);
            let descriptors = [copy.try_clone()?, copy.try_clone()?, copy];
            let borrowed = descriptors.each_ref().map(AsFd::as_fd);
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&borrowed));
            sendmsg(
                &ours,
                &[IoSlice::new(b".")],
                &mut control,
                SendFlags::NOSIGNAL,
            )?;
            Ok(())
        };
        server().unwrap();
        drop(writer);
        let received = receive(&theirs).unwrap().unwrap();
        let mut last = None;
        for descriptor in received {
            last = Some(descriptor);
        }
        use std::io::Write;
        std::fs::File::from(last.unwrap()).write_all(b"x").unwrap();
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, "x");
        drop(ours);
        assert!(receive(&theirs).unwrap().is_none());
    }
}
