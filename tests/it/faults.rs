//! Faults of the disk while a release is compiled: full, read-only, blobs that end early, files that somebody takes away.
//!
//! Each time the call ends by itself with exit code 1 and says what, where, how much and what to do; nothing of it stays, no
//! half of a result is there, and an older result is as it was. `BOSH_AGENT_SOAK=1` goes through the sizes of disks in smaller
//! steps.

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

/// Whether everything is to be tried, rather than enough.
fn is_long() -> bool {
    std::env::var_os("BOSH_AGENT_SOAK").is_some()
}

/// A world with a small disk: a file system in memory, mounted where only the programs that are started here see it. It ends
/// with this.
struct Place {
    world: World,
    /// Keeps the mount.
    keeper: Child,
    isolation: &'static str,
    jobs: usize,
    /// Which of the call's directories are on the disk: `work`, `out`, `logs`, and `vcap`, the base directory.
    on_disk: &'static [&'static str],
    /// What is to be as it was when a call has failed, and how it was.
    before: BTreeMap<PathBuf, BTreeMap<String, String>>,
    mounts: Vec<String>,
}

impl Place {
    /// Nothing where no disk can be made; then the reason has been told.
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

    /// One of the call's directories.
    fn path(&self, name: &str) -> PathBuf {
        match self.on_disk.contains(&name) {
            true => self.world.path("disk").join(name),
            false => self.world.path(name),
        }
    }

    /// How a test reaches a file.
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

    /// Runs a tool where the disk is.
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

    /// Puts an older result where a new one would be, and remembers how everything is.
    fn remember(&mut self) {
        let result = self.inside(&self.result());
        // Where the disk has not even room for that there is none.
        let _ = std::fs::create_dir(result.parent().unwrap());
        let _ = std::fs::write(result, "older");
        let directories = [self.world.path("disk"), self.path("out"), self.path("work")];
        for directory in directories.into_iter().chain([self.path("vcap")]) {
            let directory = self.inside(&directory);
            self.before.insert(directory.clone(), entries(&directory));
        }
    }

    /// Everything is as it was.
    #[track_caller]
    fn is_as_before(&self, ran: &Ran) {
        for (directory, before) in &self.before {
            let mut after = entries(directory);
            // Logs are there to stay.
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

    /// A run that leaves everything as it was.
    #[track_caller]
    fn run_that_fails(&mut self, release: &ReleaseBuilder) -> Ran {
        self.remember();
        let tarball = self.world.release("release.tgz", release);
        let ran = self.agent().arg(tarball).run();
        self.is_as_before(&ran);
        ran
    }

    /// The same for want of room, which is told with how much there is and with what to do.
    #[track_caller]
    fn has_no_room_for(&mut self, release: &ReleaseBuilder) -> Ran {
        has_no_room(self.run_that_fails(release))
    }

    /// Starts a run, and waits for a script of it that has come to [`GATE`].
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

    /// Lets that script go on.
    fn open_gate(&self) {
        let gate = self.world.path("facts/gate");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let mut gate = wait_for("somebody at the gate", LIMIT, || {
            options.open(&gate).map_err(|error| error.to_string())
        });
        gate.write_all(b"go\n").unwrap();
    }

    /// The work directory of the call that runs, as the call knows it.
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

/// What is in a directory that may be there or not.
fn entries(directory: &Path) -> BTreeMap<String, String> {
    match directory.exists() {
        true => snapshot(directory),
        false => BTreeMap::new(),
    }
}

/// A script that waits until the test lets it go on.
const GATE: &str = "set -e; touch $FACTS/waits; read line < $FACTS/gate; rm $FACTS/waits";

/// A full disk is told with how much is free where, and with what to do.
#[track_caller]
fn has_no_room(ran: Ran) -> Ran {
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

/// Fills the disk of the package so that so many KiB are free on it.
fn fill(left: u64) -> String {
    format!(
        "set -e; free=$(df --output=avail -k $BOSH_INSTALL_TARGET/ | tail -n 1); \
         head -c $(((free - {left}) << 10)) /dev/zero > $BOSH_INSTALL_TARGET/filler"
    )
}

/// A release whose package `app` comes after one that leaves so many KiB.
fn after_filling(left: u64, script: &str) -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .package("filler", &[], &fill(left))
        .package("app", &["filler"], script)
}

/// Bytes that no compression makes smaller.
fn random(length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let source = std::fs::File::open("/dev/urandom").unwrap();
    source.take(length).read_to_end(&mut bytes).unwrap();
    bytes
}

/// What a failure is about.
fn step(stderr: &str) -> &'static str {
    let steps = [
        ("failed to extract `", "spool"),
        ("failed to unpack the source of package `", "unpack"),
        ("the packaging script exited", "script"),
        ("failed to pack what package `", "pack"),
        ("/blobs/0/app.tgz`: No space left", "pack"),
        ("failed to write the compiled release `", "assemble"),
    ];
    let found = steps.iter().find(|(text, _)| stderr.contains(text));
    found.map_or("other", |(_, step)| step)
}
