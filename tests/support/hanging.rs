//! A FUSE file system that does not answer.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::tools::{require, require_root, require_tools, wait_for};
use super::world::World;

const LIMIT: Duration = Duration::from_secs(60);

/// A file system that does not answer, like that of a lost server.
pub(crate) struct Hanging {
    server: Child,
    at: PathBuf,
    /// Its removal would wait for the file system.
    _world: World,
}

impl Hanging {
    /// Mounts it at `hanging`. It creates `facts/hung` when the first process hangs; `facts` must exist. `None` without FUSE.
    pub(crate) fn mount(world: &World) -> Option<Self> {
        Self::start(world, "hanging", &[])
    }

    /// The same, and even its root has no attributes.
    pub(crate) fn mount_silent(world: &World) -> Option<Self> {
        Self::mount_silent_at(world, "hanging")
    }

    /// The same at another path in the world.
    pub(crate) fn mount_silent_at(world: &World, at: &str) -> Option<Self> {
        Self::start(world, at, &["silent"])
    }

    /// From now on, it does not even read what processes ask, so these can be killed.
    pub(crate) fn pause(&self) {
        let server = Pid::from_raw(self.server.id().cast_signed());
        kill(server, Signal::SIGSTOP).unwrap();
        wait_for("the stopped server", LIMIT, || {
            let stat = std::fs::read_to_string(format!("/proc/{server}/stat")).unwrap();
            let is_stopped = stat.contains(") T ");
            is_stopped.then_some(()).ok_or(stat)
        });
    }

    /// Ends the server. The file system stays mounted, and each access is an error.
    pub(crate) fn end_server(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    fn start(world: &World, at: &str, arguments: &[&str]) -> Option<Self> {
        if !require_root()
            || !require_tools(&["python3"])
            || !require(Path::new("/dev/fuse").exists(), "FUSE")
        {
            return None;
        }
        let (at, facts) = (world.path(at), world.path("facts"));
        std::fs::create_dir_all(&at).unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/hanging.py");
        let server = Command::new("python3")
            .arg(program)
            .args([&at, &facts])
            .args(arguments)
            .spawn()
            .unwrap();
        let mut hanging = Self {
            server,
            at,
            _world: world.clone(),
        };
        wait_for("the mount", LIMIT, || {
            let is_mounted = facts.join("mounted").exists();
            // An agent may have unmounted it since.
            assert!(
                is_mounted || hanging.server.try_wait().unwrap().is_none(),
                "no FUSE mount"
            );
            is_mounted.then_some(()).ok_or_else(String::new)
        });
        Some(hanging)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        // The connection ends with its server, which wakes all waiting processes.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}
