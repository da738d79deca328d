//! Private networks of containers.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{getegid, geteuid};

use super::docker::{Container, docker, name_of};
use super::inputs::STEMCELL_IMAGE;
use super::vm::LIMIT;
use crate::common::wait_for;

/// The number of possible subnets: those of 198.18.0.0/15, which is reserved for tests.
const SUBNETS: u32 = 512;

/// A network that its containers and this machine can reach, but no other machine. Dropping it removes it; its containers must be removed
/// before.
pub(crate) struct Network {
    name: String,
    /// The first three bytes of its addresses.
    prefix: String,
}

impl Network {
    /// Creates a network with a subnet that no other network of containers has.
    #[track_caller]
    pub(crate) fn create(label: &str) -> Self {
        let name = name_of(label);
        // Concurrent tests start with different subnets.
        for number in (0..SUBNETS).map(|at| (std::process::id() + at) % SUBNETS) {
            let prefix = format!("198.{}.{}", 18 + number / 256, number % 256);
            let subnet = format!("{prefix}.0/24");
            let arguments = [
                "network",
                "create",
                "--internal",
                "--subnet",
                &subnet,
                &name,
            ];
            let outcome = docker(&arguments, LIMIT);
            if outcome.code == Some(0) {
                return Self { name, prefix };
            }
            assert!(
                outcome.stderr.contains("overlaps"),
                "docker network create: {outcome}"
            );
        }
        panic!("all subnets are in use");
    }

    /// The address of the container with this number.
    pub(crate) fn address(&self, number: u8) -> String {
        format!("{}.{number}", self.prefix)
    }

    /// The options of `docker run` for a container with this number.
    pub(crate) fn options(&self, number: u8) -> [String; 4] {
        ["--network", &self.name, "--ip", &self.address(number)].map(str::to_owned)
    }

    /// Connects a running container with this number. If the container was connected before, its connections continue.
    #[track_caller]
    pub(crate) fn connect(&self, container: &str, number: u8) {
        let address = self.address(number);
        let arguments = [
            "network", "connect", "--ip", &address, &self.name, container,
        ];
        docker(&arguments, LIMIT).expect_code(0, "docker network connect");
    }

    /// Disconnects a running container. Its connections are not closed, but their packets are lost.
    #[track_caller]
    pub(crate) fn disconnect(&self, container: &str) {
        let arguments = ["network", "disconnect", &self.name, container];
        docker(&arguments, LIMIT).expect_code(0, "docker network disconnect");
    }

    /// Starts a server of this machine in a container with this label and number, and waits until it listens on this port. The container
    /// has the same directory with the server's files. The image is made of this machine's packages, so it has the libraries.
    #[track_caller]
    pub(crate) fn serve(
        &self,
        (label, number): (&str, u8),
        port: u16,
        directory: &Path,
        command: &[&str],
    ) -> Container {
        let container = Container::new(label);
        let program = installed(command[0]).display().to_string();
        let volumes = [
            format!("{program}:{program}:ro"),
            format!("{0}:{0}", directory.display()),
        ];
        let user = format!("{}:{}", geteuid(), getegid());
        let options = self.options(number);
        let mut arguments = vec!["run", "--detach", "--name", container.name()];
        arguments.extend(options.iter().map(String::as_str));
        arguments.extend(["--user", &user, "-v", &volumes[0], "-v", &volumes[1]]);
        arguments.extend([STEMCELL_IMAGE, &program]);
        arguments.extend(&command[1..]);
        docker(&arguments, LIMIT).expect_code(0, "docker run");
        let address = format!("{}:{port}", self.address(number));
        wait_for(&format!("{program} at {address}"), LIMIT, || {
            TcpStream::connect(&address).map_err(|error| {
                let log = docker(&["logs", container.name()], LIMIT);
                format!("{error}: {log}")
            })
        });
        container
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A failure would hide why the test failed. A test that passes checks that no network is left.
        let _ = Command::new("docker")
            .args(["network", "rm", &self.name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// The path of an installed program.
#[track_caller]
fn installed(program: &str) -> PathBuf {
    ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/bin"]
        .map(|directory| Path::new(directory).join(program))
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{program} is not installed"))
}
