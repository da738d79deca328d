//! Faults of the disk while a release is compiled: full, read-only, truncated blobs, files that other programs remove.
//!
//! Each run ends by itself with exit code 4 and reports the operation, the path, the free space and a remedy. It leaves no files and no
//! partial result, and an older result is unchanged. `BOSH_AGENT_SOAK=1` tries more sizes of disks.

mod full_disks;
mod read_only;
mod small_disks;
mod taken_away;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{
    Agent, Compression, Kind, Member, Outcome, Ran, ReleaseBuilder, Running, STEMCELL, USER, World,
    archive, processes_below, require_landlock, require_root, require_tools, run_tool, snapshot,
    wait_for,
};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

const LIMIT: Duration = Duration::from_secs(60);

const NO_ROOM: &str = "Hint: free disk space, or choose a larger disk with --work-dir, --output-directory or --base-directory\n";

/// Whether to try all sizes.
fn is_long() -> bool {
    std::env::var_os("BOSH_AGENT_SOAK").is_some()
}

/// A world with a small disk: a tmpfs that only the programs started by the test see. It ends with this value.
struct Place {
    world: World,
    /// Keeps the mount.
    keeper: Child,
    isolation: &'static str,
    jobs: usize,
    /// The directories on the disk: some of `work`, `out`, `logs`, and `vcap`, the base directory.
    on_disk: &'static [&'static str],
    /// The files that a failed run must not change, and their state before.
    before: BTreeMap<PathBuf, BTreeMap<String, String>>,
    mounts: Vec<String>,
}

impl Place {
    /// `None` if the disk cannot be created; then the reason was printed.
    fn new(
        isolation: &'static str,
        options: &str,
        on_disk: &'static [&'static str],
    ) -> Option<Self> {
        if !require_root() || !require_tools(&["unshare", "nsenter", "mount", "df"]) {
            return None;
        }
        if isolation == "landlock" && !require_landlock() {
            return None;
        }
        let world = World::outside_tmp();
        let facts = world.path("facts");
        std::fs::create_dir(&facts).unwrap();
        nix::unistd::mkfifo(&facts.join("gate"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        std::fs::create_dir(world.path("disk")).unwrap();
        let script = "mount -t tmpfs -o mode=755,$2 small \"$1\" && echo mounted && exec cat";
        let mut keeper = Command::new("unshare")
            .args(["-m", "sh", "-c", script, "sh"])
            .arg(world.path("disk"))
            .arg(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut told = BufReader::new(keeper.stdout.as_mut().unwrap());
        told.read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n", "the disk is there");
        let mut place = Self {
            world,
            keeper,
            isolation,
            jobs: 1,
            on_disk,
            before: BTreeMap::new(),
            mounts: Vec::new(),
        };
        place.mounts = place.mountinfo();
        Some(place)
    }

    /// The path of a directory in the mount namespace.
    fn path(&self, name: &str) -> PathBuf {
        match self.on_disk.contains(&name) {
            true => self.world.path("disk").join(name),
            false => self.world.path(name),
        }
    }

    /// The path by which a test reaches a file.
    fn inside(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.keeper.id()));
        root.join(path.strip_prefix("/").unwrap())
    }

    fn mountinfo(&self) -> Vec<String> {
        let own = self.world.path("").display().to_string();
        let own = own.trim_end_matches('/');
        let mounts = format!("/proc/{}/mountinfo", self.keeper.id());
        let mounts = std::fs::read_to_string(mounts).unwrap();
        // Others end when their directories are removed, also in this namespace.
        let mounts = mounts.lines().filter(|mount| mount.contains(own));
        mounts.map(str::to_owned).collect()
    }

    /// Runs a tool in the mount namespace of the disk.
    fn tool(&self, words: &[&str]) {
        let keeper = self.keeper.id().to_string();
        run_tool("nsenter", &[&["-t", &keeper, "-m"], words].concat());
    }

    fn agent(&self) -> Agent {
        let keeper = self.keeper.id().to_string();
        let before = ["nsenter", "-t", &keeper, "-m"];
        let agent = Agent::wrapped(&self.world.path("printed"), &before)
            .env("FACTS", self.world.path("facts").to_str().unwrap())
            .args(&["compile", "--isolation", self.isolation])
            .args(&["--stemcell", STEMCELL, "--grace", "1", "--jobs"])
            .arg(self.jobs.to_string());
        let directories = [
            ("--work-dir", "work"),
            ("--output-directory", "out"),
            ("--logs-dir", "logs"),
            ("--base-directory", "vcap"),
        ];
        let flags = directories.into_iter();
        flags.fold(agent, |agent, (flag, name)| {
            agent.arg(flag).arg(self.path(name))
        })
    }

    fn result(&self) -> PathBuf {
        let name = self.world.result("demo-1.10");
        self.path("out").join(name.file_name().unwrap())
    }

    /// Creates an older result, and records the state of all files.
    fn remember(&mut self) {
        let result = self.inside(&self.result());
        // The disk may have too little room for it.
        let _ = std::fs::create_dir(result.parent().unwrap());
        let _ = std::fs::write(result, "older");
        let directories = [self.world.path("disk"), self.path("out"), self.path("work")];
        for directory in directories.into_iter().chain([self.path("vcap")]) {
            let directory = self.inside(&directory);
            self.before.insert(directory.clone(), entries(&directory));
        }
    }

    /// Asserts that no file has changed.
    #[track_caller]
    fn assert_unchanged(&self, ran: &Ran) {
        for (directory, before) in &self.before {
            let mut after = entries(directory);
            // Logs are kept.
            after.retain(|name, _| {
                let top = name.split('/').next().unwrap_or_default();
                top != "logs" && !top.ends_with(".failed")
            });
            assert_eq!(&after, before, "something changed:\n{}", ran.stderr);
        }
        assert_eq!(self.mountinfo(), self.mounts, "{}", ran.stderr);
        let left = processes_below(&self.world.path("facts"));
        assert!(left.is_empty(), "{left:#?}");
    }

    /// Runs and fails, without changing a file.
    #[track_caller]
    fn run_that_fails(&mut self, release: &ReleaseBuilder) -> Ran {
        self.remember();
        let tarball = self.world.release("release.tgz", release);
        let ran = self.agent().arg(tarball).run();
        self.assert_unchanged(&ran);
        ran
    }

    /// The same for a full disk, which is reported with the free space and a remedy.
    #[track_caller]
    fn run_without_room(&mut self, release: &ReleaseBuilder) -> Ran {
        assert_no_room(self.run_that_fails(release))
    }

    /// Starts a run, and waits until a script has reached [`GATE`].
    fn start_to_gate(&self, release: &ReleaseBuilder) -> Running {
        let tarball = self.world.release("release.tgz", release);
        let mut running = self.agent().arg(tarball).start();
        wait_for("the script", LIMIT, || {
            assert!(!running.has_ended(), "{}", running.stderr());
            let is_there = self.world.path("facts/waits").exists();
            is_there.then_some(()).ok_or_else(|| running.stderr())
        });
        running
    }

    /// Lets that script continue.
    fn open_gate(&self) {
        let gate = self.world.path("facts/gate");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let mut gate = wait_for("another program at the gate", LIMIT, || {
            options.open(&gate).map_err(|error| error.to_string())
        });
        gate.write_all(b"go\n").unwrap();
    }

    /// The work directory of the running command, in its namespace.
    fn work(&self) -> PathBuf {
        let work = self.path("work");
        let mut found = std::fs::read_dir(self.inside(&work)).unwrap();
        work.join(found.next().unwrap().unwrap().file_name())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// The entries of a directory; empty if it does not exist.
fn entries(directory: &Path) -> BTreeMap<String, String> {
    match directory.exists() {
        true => snapshot(directory),
        false => BTreeMap::new(),
    }
}

/// A script that waits until the test opens the gate.
const GATE: &str = "set -e; touch $FACTS/waits; read line < $FACTS/gate; rm $FACTS/waits";

/// Asserts that a full disk is reported with its path, the free space and a remedy.
#[track_caller]
fn assert_no_room(ran: Ran) -> Ran {
    let figures = ran.stderr.lines().any(|line| {
        ["B free", "B of ", "inodes free"]
            .iter()
            .any(|figure| line.contains(figure))
    });
    assert!(figures, "no line has figures:\n{}", ran.stderr);
    let hints = ran.stderr.matches("Hint: free disk space").count();
    assert_eq!(hints, 1, "{}", ran.stderr);
    ran
}

/// Fills the disk of the package, except for this number of KiB.
fn fill(left: u64) -> String {
    format!(
        "set -e; free=$(df --output=avail -k $BOSH_INSTALL_TARGET/ | tail -n 1); \
         head -c $(((free - {left}) << 10)) /dev/zero > $BOSH_INSTALL_TARGET/filler"
    )
}

/// A release whose package `app` comes after one that leaves this number of KiB.
fn after_filling(left: u64, script: &str) -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .package("filler", &[], &fill(left))
        .package("app", &["filler"], script)
}

/// Incompressible bytes.
fn random(length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let source = std::fs::File::open("/dev/urandom").unwrap();
    source.take(length).read_to_end(&mut bytes).unwrap();
    bytes
}

/// The operation that failed.
fn step(stderr: &str) -> &'static str {
    let steps = [
        ("failed to extract `", "spool"),
        ("failed to unpack the source of package `", "unpack"),
        ("the packaging script exited", "script"),
        ("failed to pack the files of package `", "pack"),
        ("/blobs/0/app.tgz`: No space left", "pack"),
        ("failed to write the compiled release `", "assemble"),
    ];
    let found = steps.iter().find(|(text, _)| stderr.contains(text));
    found.map_or("other", |(_, step)| step)
}
