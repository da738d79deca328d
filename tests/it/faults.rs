//! Faults of the disk while a release is compiled: full, read-only, blobs that end early, files that somebody takes away.
//!
//! Each time the call ends by itself with exit code 1 and says what, where, how much and what to do; nothing of it stays, no
//! half of a result is there, and an older result is as it was. `BOSH_AGENT_SOAK=1` goes through the sizes of disks in smaller
//! steps.

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

const NO_ROOM: &str = "Hint: make room, or choose a larger disk by --work-dir, --output-directory or --base-directory\n";

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
            after.retain(|name, _| name != "logs" && !name.starts_with("logs/"));
            assert_eq!(&after, before, "something changed:\n{}", ran.stderr);
        }
        assert_eq!(self.mountinfo(), self.mounts, "{}", ran.stderr);
        let left = processes_below(&self.world.path("facts"));
        assert!(left.is_empty(), "{left:#?}");
    }

    /// A run that fails and leaves everything as it was.
    #[track_caller]
    fn fails(&mut self, release: &ReleaseBuilder) -> Ran {
        self.remember();
        let tarball = self.world.release("release.tgz", release);
        let ran = self.agent().arg(tarball).run().fails();
        self.is_as_before(&ran);
        ran
    }

    /// The same for want of room, which is told with how much there is and with what to do.
    #[track_caller]
    fn has_no_room_for(&mut self, release: &ReleaseBuilder) -> Ran {
        has_no_room(self.fails(release))
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
    let hints = ran.stderr.matches("Hint: make room").count();
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
        ("failed to take `", "spool"),
        ("failed to unpack the source of package `", "unpack"),
        ("the packaging script exited", "script"),
        ("failed to pack what package `", "pack"),
        ("/blobs/0/app.tgz`: No space left", "pack"),
        ("failed to write the compiled release `", "assemble"),
    ];
    let found = steps.iter().find(|(text, _)| stderr.contains(text));
    found.map_or("other", |(_, step)| step)
}

/// Everything on one disk, of every size from one that has room for nothing to one that has room for all.
fn every_size(isolation: &'static str) {
    let mut release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "app",
            &[],
            "set -e; head -c 768K /dev/urandom > $BOSH_INSTALL_TARGET/data",
        )
        // What is compressed in the tarball, and not in the result.
        .other("docs/zeros", &[0; 1536 << 10])
        .no_compression();
    for number in 0..96 {
        // More on the disk than in the archive.
        release = release.file(&format!("small/{number}"), 0o644, b"x");
    }
    let tarball = Compression::Gzip.apply(&archive(&release.members()));
    let unit = if is_long() { 64 } else { 256 };
    let mut steps = BTreeSet::new();
    let mut last = None;
    for size in (unit..=5632).step_by(unit) {
        let options = format!("size={size}k");
        let Some(mut place) = Place::new(isolation, &options, &["work", "out", "vcap"]) else {
            return;
        };
        place.remember();
        let tarball = place.world.write("release.tgz", &tarball);
        let ran = place.agent().arg(tarball).run();
        last = ran.code;
        if ran.code == Some(0) {
            Outcome::of(&place.inside(&place.result()));
            continue;
        }
        let ran = has_no_room(ran.fails());
        place.is_as_before(&ran);
        steps.insert(step(&ran.stderr));
    }
    assert_eq!(last, Some(0), "the largest has room for all");
    for expected in ["spool", "unpack", "script", "pack", "assemble"] {
        assert!(steps.contains(expected), "{expected} is not in {steps:?}");
    }
}

#[test]
fn a_disk_of_any_size_has_room_or_is_told_of_in_namespaces() {
    every_size("namespace");
}

#[test]
fn a_disk_of_any_size_has_room_or_is_told_of_under_rules() {
    every_size("landlock");
}

#[test]
fn a_disk_of_any_size_has_room_or_is_told_of_in_place() {
    every_size("none");
}

/// As many files as one disk can have, from too few for anything to enough.
fn every_number_of_files(isolation: &'static str) {
    let copy = "set -e; cp -R @packages@/lib/. $BOSH_INSTALL_TARGET/";
    let mut release = ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/file")
        .compiled("tool", &[], STEMCELL, ("tool", b"tool"))
        .package("other", &["lib", "tool"], copy)
        .package("app", &["lib"], copy);
    for number in 0..24 {
        release = release.file(&format!("{number}"), 0o644, b"x");
    }
    let (mut last, mut failures) = (None, 0);
    let step = if is_long() { 1 } else { 4 };
    for files in (1..=129).step_by(step) {
        let options = format!("nr_inodes={files},size=4m");
        let Some(mut place) = Place::new(isolation, &options, &["work", "out", "vcap"]) else {
            return;
        };
        place.jobs = 2;
        place.remember();
        let tarball = place.world.release("release.tgz", &release);
        let ran = place.agent().arg(tarball).run();
        last = ran.code;
        if ran.code == Some(0) {
            Outcome::of(&place.inside(&place.result()));
            continue;
        }
        failures += 1;
        let ran = has_no_room(ran.fails()).does_not_say("no namespaces");
        let ran = ran.says(&format!(" of {files} inodes free"));
        place.is_as_before(&ran);
    }
    assert_eq!(last, Some(0), "the largest has room for all");
    assert!(failures >= 10, "{failures} failures");
}

#[test]
fn a_disk_for_any_number_of_files_has_room_or_is_told_of_by_default() {
    every_number_of_files("auto");
}

#[test]
fn a_disk_for_any_number_of_files_has_room_or_is_told_of_under_rules() {
    every_number_of_files("landlock");
}

#[test]
fn a_disk_for_any_number_of_files_has_room_or_is_told_of_in_place() {
    every_number_of_files("none");
}

#[test]
fn a_disk_that_fills_while_blobs_are_read_is_told_with_the_tarball() {
    let options = "size=1m";
    let Some(mut place) = Place::new("namespace", options, &["work"]) else {
        return;
    };
    let release = ReleaseBuilder::of_script("true").other("docs/zeros", &[0; 2 << 20]);
    let tarball = place.world.path("release.tgz").display().to_string();
    place
        .has_no_room_for(&release)
        .says(&format!(
            "Error: failed to take `{tarball}` apart: failed to write `"
        ))
        .says("/spool/0/")
        .says(" of 1.0 MiB free at ")
        .says(NO_ROOM);
}

#[test]
fn a_disk_that_fills_while_a_large_source_is_unpacked_is_told_with_the_package() {
    let Some(mut place) = Place::new("namespace", "size=4m", &["work"]) else {
        return;
    };
    let release = after_filling(1024, "true").file("zeros", 0o644, &[0; 2 << 20]);
    place
        .has_no_room_for(&release)
        .says("Error: failed to compile package app/")
        .says(" of release demo/1.10: no space left in `")
        .says(
            " of 4.0 MiB free: failed to unpack the source of package `app`: failed to write to `",
        )
        .says("/zeros`: No space left on device")
        .says(NO_ROOM);
}

#[test]
fn a_disk_that_fills_with_the_files_of_a_source_is_told_with_the_package() {
    let options = "nr_inodes=64,size=4m";
    let Some(mut place) = Place::new("namespace", options, &["work"]) else {
        return;
    };
    let mut release = ReleaseBuilder::of_script("true");
    for number in 0..64 {
        release = release.file(&format!("{number}"), 0o644, b"");
    }
    place
        .has_no_room_for(&release)
        .says("failed to unpack the source of package `app`: failed to create `")
        .says(" and 0 of 64 inodes free: ")
        .says(NO_ROOM);
}

/// The directories of a package, the links to it and its dependencies, the log, the blob: each is the first for which there is
/// no room in one of these runs.
#[test]
fn a_disk_for_every_number_of_files_after_a_first_package_is_told_with_what_was_made() {
    let expected = [
        "failed to create",
        "failed to create the directory",
        "failed to create the link",
        "the sandbox of a packaging script could not be made: failed to prepare",
    ];
    let mut made = BTreeSet::new();
    // What is removed beside the next script decides where the room ends, so one sweep does not meet every step.
    for left in (0..16).cycle().take(16 * 20) {
        if expected.iter().all(|step| made.contains(*step)) && left == 0 {
            return;
        }
        let options = "nr_inodes=256,size=4m";
        let Some(mut place) = Place::new("namespace", options, &["work", "logs"]) else {
            return;
        };
        let script = format!(
            "set -e; cd $BOSH_INSTALL_TARGET/; free=$(df --output=iavail . | tail -n 1); \
             seq $((free - {left})) | xargs touch"
        );
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("filler", &[], &script)
            .package("app", &["filler"], "true");
        place.remember();
        let tarball = place.world.release("release.tgz", &release);
        let ran = place.agent().arg(tarball).run();
        if ran.code == Some(0) {
            continue;
        }
        let ran = has_no_room(ran.fails())
            .says("Error: failed to compile package ")
            .says("of 256 inodes free: ");
        place.is_as_before(&ran);
        let (_, what) = ran.stderr.split_once("inodes free: ").unwrap();
        let what = what.split('`').next().unwrap_or_default();
        made.insert(what.trim_end().to_owned());
    }
    panic!("not all of {expected:?} are in {made:?}");
}

#[test]
fn a_disk_that_a_script_fills_is_told_as_the_cause_with_its_figures() {
    for isolation in ["namespace", "landlock", "none"] {
        let Some(mut place) = Place::new(isolation, "size=2m", &["work", "vcap"]) else {
            return;
        };
        // Also with what else is taken for a sign of rules.
        let release = ReleaseBuilder::of_script(
            "set -e; echo run >> $FACTS/runs; echo 'x: Permission denied'; \
             head -c 3M /dev/zero > $BOSH_INSTALL_TARGET/data",
        );
        let ran = place
            .has_no_room_for(&release)
            .says("Error: failed to compile package app/")
            .says("(no space left on the device of `")
            .says(" of 2.0 MiB free)")
            .says(NO_ROOM);
        let ended = ran.stderr.matches("Error: ").count();
        assert_eq!(ended, 1, "{}", ran.stderr);
        assert_eq!(place.world.read("facts/runs"), "run\n", "{isolation}");
    }
}

#[test]
fn a_disk_that_a_script_fills_with_files_is_told_as_the_cause_with_its_figures() {
    let options = "nr_inodes=128,size=4m";
    let Some(mut place) = Place::new("namespace", options, &["work"]) else {
        return;
    };
    let release =
        ReleaseBuilder::of_script("set -e; cd $BOSH_INSTALL_TARGET/; seq 200 | xargs touch");
    place
        .has_no_room_for(&release)
        .says("(no space left on the device of `")
        .says(" and 0 of 128 inodes free)")
        .says(NO_ROOM);
}

#[test]
fn a_disk_that_fills_while_a_package_is_packed_is_told_with_the_package() {
    let Some(mut place) = Place::new("namespace", "size=2m", &["work"]) else {
        return;
    };
    let release = ReleaseBuilder::of_script(&format!(
        "head -c 300K /dev/urandom > $BOSH_INSTALL_TARGET/data; {}",
        fill(100)
    ));
    place
        .has_no_room_for(&release)
        .says("Error: failed to compile package app/")
        .says("no space left in `")
        .says("/blobs/0`: ")
        .says(" of 2.0 MiB free: ")
        .says("No space left on device")
        .says(NO_ROOM);
}

#[test]
fn a_disk_that_fills_while_a_package_is_packed_stops_those_that_need_it() {
    let Some(mut place) = Place::new("namespace", "size=2m", &["work"]) else {
        return;
    };
    place.jobs = 2;
    let script = format!(
        "head -c 300K /dev/urandom > $BOSH_INSTALL_TARGET/data; {}",
        fill(150)
    );
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], &script)
        // Whether it has begun by then or not, it would never end by itself.
        .package("wait", &["lib"], GATE);
    place
        .has_no_room_for(&release)
        .says("Error: failed to compile package lib/")
        .says("/blobs/0`: ")
        .says(" of 2.0 MiB free: ")
        .says(NO_ROOM);
}

#[test]
fn a_disk_that_fills_while_a_tree_is_made_ready_for_dependents_is_told_with_the_package() {
    let Some(mut place) = Place::new("namespace", "size=2m", &["work"]) else {
        return;
    };
    // What has a name outside the tree is copied when the tree is sealed.
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "lib",
            &[],
            &format!(
                "head -c 500K /dev/zero > own; ln own $BOSH_INSTALL_TARGET/data; {}",
                fill(100)
            ),
        )
        .package("app", &["lib"], "true");
    place
        .has_no_room_for(&release)
        .says("Error: failed to compile package lib/")
        .says("no space left in `")
        .says(" of 2.0 MiB free: ")
        .says("failed to write `")
        .says(NO_ROOM);

    // In place it goes from one disk to another.
    let Some(mut place) = Place::new("none", "size=1m", &["work"]) else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "lib",
            &[],
            "head -c 2M /dev/zero > $BOSH_INSTALL_TARGET/data",
        )
        .package("app", &["lib"], "true");
    let store = place.path("work").display().to_string();
    place
        .has_no_room_for(&release)
        .says("Error: failed to compile package lib/")
        .says(&format!("no space left in `{store}/"))
        .says(" of 1.0 MiB free: ")
        .says(&format!("failed to write `{store}/"))
        .says(NO_ROOM);
}

#[test]
fn a_disk_that_fills_while_a_dependency_is_copied_into_place_is_told_with_the_disk_that_is_full() {
    let Some(mut place) = Place::new("none", "size=2m", &["vcap"]) else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "a",
            &[],
            "head -c 1200K /dev/zero > $BOSH_INSTALL_TARGET/data",
        )
        .package(
            "b",
            &[],
            "head -c 1200K /dev/zero > $BOSH_INSTALL_TARGET/data",
        )
        .package("app", &["a", "b"], "true");
    let base = place.path("vcap").display().to_string();
    place
        .has_no_room_for(&release)
        .says("Error: failed to compile package app/")
        .says(&format!("no space left in `{base}/data/packages/"))
        .says(" of 2.0 MiB free: ")
        .says(&format!("failed to write `{base}/data/packages/"))
        .says(NO_ROOM);
}

#[test]
fn a_disk_that_fills_while_a_compiled_package_is_unpacked_is_told_with_the_package() {
    let Some(mut place) = Place::new("namespace", "size=1m", &["work"]) else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .compiled("lib", &[], STEMCELL, ("zeros", &[0; 2 << 20]))
        .package("app", &["lib"], "true");
    place
        .has_no_room_for(&release)
        .says("Error: failed to compile package lib/")
        .says("no space left in `")
        .says(" of 1.0 MiB free: failed to unpack the compiled package `lib`: failed to write to `")
        .says("/zeros`: No space left on device")
        .says(NO_ROOM);
}

#[test]
fn a_disk_that_fills_while_the_result_is_written_is_told_and_the_older_result_stays() {
    let release = ReleaseBuilder::of_script("cp data $BOSH_INSTALL_TARGET/")
        .file("data", 0o644, &random(100 << 10))
        .other("docs/data", &random(2 << 20));
    // On a disk of its own, and on the disk on which packages are compiled.
    let on_disks: [(&str, &'static [&'static str]); 2] =
        [("1m", &["out"]), ("3m", &["work", "out"])];
    for (size, on_disk) in on_disks {
        let Some(mut place) = Place::new("namespace", &format!("size={size}"), on_disk) else {
            return;
        };
        let result = place.result().display().to_string();
        place
            .has_no_room_for(&release)
            .says(&format!(
                "Error: failed to write the compiled release `{result}`: "
            ))
            .says("No space left on device")
            .says(&format!(" free at {}\n", place.path("out").display()))
            .says(NO_ROOM);
        let older = std::fs::read_to_string(place.inside(&place.result())).unwrap();
        assert_eq!(older, "older");
    }
}

#[test]
fn a_disk_that_fills_while_a_compiled_release_is_passed_on_is_told_and_the_older_result_stays() {
    let Some(mut place) = Place::new("namespace", "size=1m", &["out"]) else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .compiled("lib", &[], STEMCELL, ("data", b""))
        .other("docs/data", &random(2 << 20));
    let result = place.result().display().to_string();
    place
        .has_no_room_for(&release)
        .says(&format!(
            "Error: failed to write the compiled release `{result}`: "
        ))
        .says(&format!(" free at {}\n", place.path("out").display()))
        .says(NO_ROOM);
}

#[test]
fn a_disk_without_room_for_a_result_or_a_log_is_told_before_anything_runs() {
    let release = ReleaseBuilder::of_script("touch $FACTS/ran");
    for (files, name, told) in [
        (2, "out", "the output directory cannot be used: "),
        (2, "logs", "/disk/logs`: No space left on device"),
        (3, "logs", "failed to create `"),
    ] {
        let options = format!("nr_inodes={files}");
        let on_disk: &'static [&'static str] = match name {
            "out" => &["out"],
            _ => &["logs"],
        };
        let Some(mut place) = Place::new("namespace", &options, on_disk) else {
            return;
        };
        place
            .has_no_room_for(&release)
            .says(told)
            .says(&format!("0 of {files} inodes free"))
            .says(&place.path(name).display().to_string());
        assert!(!place.world.path("facts/ran").exists());
    }
}

/// Without its log a package is as good as with it, so this is no failure.
#[test]
fn a_disk_that_fills_with_logs_stops_nothing_and_is_told() {
    let Some(place) = Place::new("namespace", "size=128k", &["logs"]) else {
        return;
    };
    let script = "{ set +x; } 2>/dev/null\nyes | head -c 1M; echo end; echo file > $BOSH_INSTALL_TARGET/file";
    let tarball = place
        .world
        .release("release.tgz", &ReleaseBuilder::of_script(script));
    let ran = place.agent().arg(tarball).run().succeeds();
    let log = place.path("logs").join("demo-1.10/app.log");
    ran.says(&format!(
        "Warning: the log of the packaging script of app is not complete: `{}`: No space left on device",
        log.display()
    ))
    .says("0 B of 128.0 KiB free")
    .says("Warning: how long packages took is not kept for the next run: ");
    let outcome = Outcome::of(&place.result());
    assert_eq!(outcome.packages["app"]["file"], "100644 file\n");
    let left: Vec<String> = entries(&place.inside(&place.path("logs")))
        .into_keys()
        .collect();
    assert_eq!(left, ["", "demo-1.10", "demo-1.10/app.log"]);
}

#[test]
fn a_work_directory_that_is_read_only_is_told_before_anything_runs() {
    let Some(mut place) = Place::new("namespace", "ro,size=1m", &["work"]) else {
        return;
    };
    let release = ReleaseBuilder::of_script("touch $FACTS/ran");
    place
        .fails(&release)
        .says("disk/work`: Read-only file system")
        .says("Hint: ")
        .says("--work-dir");
    assert!(!place.world.path("facts/ran").exists());

    let Some(mut place) = Place::new("none", "ro,size=1m", &["vcap"]) else {
        return;
    };
    place
        .fails(&release)
        .says("disk/vcap`: Read-only file system")
        .says("Hint: ")
        .says("--base-directory");
    assert!(!place.world.path("facts/ran").exists());
}

/// Makes the disk read-only for everybody who goes there by a path from now on. What is open for writing stays so, as it does
/// not when the kernel does this for an error of the disk: it refuses to do so on anybody's order.
fn turn_read_only(place: &Place) {
    let disk = place.world.path("disk");
    let disk = disk.to_str().unwrap();
    place.tool(&["mount", "--bind", disk, disk]);
    place.tool(&["mount", "-o", "remount,bind,ro", disk]);
}

fn turned_read_only(isolation: &'static str) {
    let on_disk = &["work", "vcap", "out"];
    let Some(mut place) = Place::new(isolation, "size=4m", on_disk) else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/file")
        .package("app", &["lib"], GATE);
    place.remember();
    let running = place.start_to_gate(&release);
    turn_read_only(&place);
    let work = place.work();
    place.open_gate();
    let ran = running
        .end()
        .fails()
        .says("Error: failed to compile package app/")
        .says("Read-only file system")
        .says("Hint: ")
        // Nobody can remove it now.
        .says(&format!("Warning: could not remove `{}`", work.display()));
    let left = processes_below(&place.world.path("facts"));
    assert!(left.is_empty(), "{left:#?}");

    // Once that is mended, the next run clears it all away.
    let disk = place.world.path("disk");
    place.tool(&["umount", disk.to_str().unwrap()]);
    let tarball = place
        .world
        .release("release.tgz", &ReleaseBuilder::of_script("exit 1"));
    place.agent().arg(tarball).run().fails();
    let before = &place.before[&place.inside(&disk)];
    let mut after = entries(&place.inside(&disk));
    after.retain(|name, _| !before.contains_key(name));
    // Whose directories these are nobody knows any more.
    let directories: Vec<&str> = after.keys().map(String::as_str).collect();
    let allowed = [
        "vcap",
        "vcap/data",
        "vcap/data/compile",
        "vcap/data/packages",
        "vcap/packages",
        "work",
    ];
    let stay = directories.iter().all(|name| allowed.contains(name));
    assert!(stay, "{directories:?}\n{}", ran.stderr);
    assert_eq!(place.mountinfo(), place.mounts);
}

#[test]
fn a_disk_that_turns_read_only_is_told_and_cleared_by_the_next_run_in_namespaces() {
    turned_read_only("namespace");
}

#[test]
fn a_disk_that_turns_read_only_is_told_and_cleared_by_the_next_run_under_rules() {
    turned_read_only("landlock");
}

#[test]
fn a_disk_that_turns_read_only_is_told_and_cleared_by_the_next_run_in_place() {
    turned_read_only("none");
}

/// Archives that end before they should, each with what is said of it.
fn cut_blobs() -> Vec<(Vec<u8>, &'static str)> {
    let tar = archive(&[
        Member::directory("./"),
        Member::file("./packaging", b"touch $FACTS/ran"),
        Member::file("./data", &random(100_000)),
        Member::link(Kind::Symlink, "./link", "data"),
    ]);
    let gzip = Compression::Gzip.apply(&tar);
    let in_entry = &tar[..tar.len() / 2];
    let in_header = &tar[..700];
    vec![
        (gzip[..gzip.len() / 2].to_vec(), "gzip data ends early"),
        (gzip[..gzip.len() - 4].to_vec(), "gzip data ends early"),
        (gzip[..12].to_vec(), "gzip data ends early"),
        (
            Compression::Gzip.apply(in_entry),
            "the archive ends early, in the middle of `./data`",
        ),
        (
            in_entry.to_vec(),
            "the archive ends early, in the middle of `./data`",
        ),
        (
            Compression::Gzip.apply(in_header),
            "the archive ends early, in a header at byte 512",
        ),
    ]
}

#[test]
fn a_source_that_ends_early_is_told_with_its_package_and_its_size() {
    for (blob, told) in cut_blobs() {
        // So small a disk that a number from the middle of a blob is no size of anything on it.
        let Some(mut place) = Place::new("namespace", "size=4m", &["work", "out"]) else {
            return;
        };
        let release = ReleaseBuilder::of_script("").blob(&blob);
        place
            .fails(&release)
            .says("Error: failed to compile package app/")
            .says(" of release demo/1.10: failed to unpack the source of package `app`: ")
            .says(told)
            .says("Hint: ")
            .says("packages/app.tgz")
            .does_not_say("not enough space");
        assert!(!place.world.path("facts/ran").exists());
    }
}

#[test]
fn a_compiled_package_that_ends_early_is_told_with_its_package_and_its_size() {
    for (blob, told) in cut_blobs() {
        let Some(mut place) = Place::new("namespace", "size=4m", &["work", "out"]) else {
            return;
        };
        let release = ReleaseBuilder::new("demo", "1.10")
            .compiled("lib", &[], STEMCELL, ("", b""))
            .blob(&blob)
            .package("app", &["lib"], "touch $FACTS/ran");
        place
            .fails(&release)
            .says("Error: failed to compile package lib/")
            .says(" of release demo/1.10: failed to unpack the compiled package `lib`: ")
            .says(told)
            .says("Hint: ")
            .says("compiled_packages/lib.tgz");
        assert!(!place.world.path("facts/ran").exists());
    }
}

/// A package, one that waits, and one that needs both.
fn with_gate(needed_at_gate: &[&str]) -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/file")
        .package("wait", needed_at_gate, GATE)
        .package(
            "app",
            &["lib", "wait"],
            "set -e; touch $FACTS/ran; cp @packages@/lib/file $BOSH_INSTALL_TARGET/",
        )
}

/// Waits until the first package of [`with_gate`] is ready in every respect.
fn wait_for_first(running: &Running) {
    wait_for("the first package", LIMIT, || {
        let stderr = running.stderr();
        let is_done = stderr.contains("Finished compiling release lib/");
        is_done.then_some(()).ok_or(stderr)
    });
}

/// Removes a package from the store, where it has a directory of its own.
fn remove_sealed(store: &Path, package: &str) {
    let directories = std::fs::read_dir(store).unwrap().flatten();
    let sealed = directories
        .map(|directory| directory.path())
        .find(|directory| directory.join(package).exists());
    std::fs::remove_dir_all(sealed.unwrap()).unwrap();
}

/// The sealed tree of a dependency disappears, and with it the compiled package or not.
fn dependency_taken_away(isolation: &'static str, with_blob: bool) {
    let Some(mut place) = Place::new(isolation, "size=4m", &["work", "vcap"]) else {
        return;
    };
    place.remember();
    let running = place.start_to_gate(&with_gate(&[]));
    wait_for_first(&running);
    remove_sealed(&place.inside(&place.work().join("store")), "lib");
    if with_blob {
        let blob = place.work().join("blobs/0/lib.tgz");
        std::fs::remove_file(place.inside(&blob)).unwrap();
    }
    place.open_gate();
    let changed = "what package lib installed was changed afterwards: `.` (No such file or directory (os error 2))";
    if !with_blob {
        running.end().succeeds().says(&format!(
            "Warning: {changed}. It is installed again from its compiled package.\nSince its last check, the packaging script of \
             `wait` ran"
        ));
        let outcome = Outcome::of(&place.inside(&place.result()));
        assert_eq!(outcome.packages["app"]["file"], "100644 lib\n");
        return;
    }
    let ran = running
        .end()
        .fails()
        .says("Error: failed to compile package app/")
        .says(&changed.replace(" lib ", " `lib` "))
        .says(": there is no compiled package to install it from again")
        .says("Hint: since its last check, the packaging script of `wait` ran");
    assert!(!place.world.path("facts/ran").exists());
    place.is_as_before(&ran);
}

#[test]
fn a_dependency_that_is_taken_away_is_installed_again_in_namespaces() {
    dependency_taken_away("namespace", false);
}

#[test]
fn a_dependency_that_is_taken_away_is_installed_again_under_rules() {
    dependency_taken_away("landlock", false);
}

#[test]
fn a_dependency_that_is_taken_away_is_installed_again_in_place() {
    dependency_taken_away("none", false);
}

#[test]
fn a_dependency_that_is_taken_away_with_its_blob_is_told_in_namespaces() {
    dependency_taken_away("namespace", true);
}

#[test]
fn a_dependency_that_is_taken_away_with_its_blob_is_told_under_rules() {
    dependency_taken_away("landlock", true);
}

#[test]
fn a_dependency_that_is_taken_away_with_its_blob_is_told_in_place() {
    dependency_taken_away("none", true);
}

/// Under rules a dependency is copied once for all that need it, and nobody can write to the copy.
#[test]
fn a_dependency_that_is_taken_away_when_it_is_in_place_does_no_harm() {
    let Some(place) = Place::new("landlock", "size=4m", &["work", "vcap"]) else {
        return;
    };
    let running = place.start_to_gate(&with_gate(&["lib"]));
    wait_for_first(&running);
    let store = place.work().join("store");
    remove_sealed(&place.inside(&store), "lib");
    place.open_gate();
    running.end().succeeds();
    let outcome = Outcome::of(&place.inside(&place.result()));
    assert_eq!(outcome.packages["app"]["file"], "100644 lib\n");
}

#[test]
fn a_compiled_blob_that_is_taken_away_or_cut_is_told_with_the_result() {
    for (is_cut, told) in [
        (false, "No such file or directory"),
        (true, " bytes that were announced"),
    ] {
        let Some(mut place) = Place::new("namespace", "size=4m", &["work", "out"]) else {
            return;
        };
        place.remember();
        let running = place.start_to_gate(&with_gate(&[]));
        wait_for_first(&running);
        let blob = place.inside(&place.work().join("blobs/0/lib.tgz"));
        if is_cut {
            let size = std::fs::metadata(&blob).unwrap().len();
            let file = std::fs::OpenOptions::new().write(true).open(&blob).unwrap();
            file.set_len(size / 2).unwrap();
        } else {
            std::fs::remove_file(&blob).unwrap();
        }
        place.open_gate();
        let ran = running
            .end()
            .fails()
            .says(&format!(
                "Error: failed to write the compiled release `{}`: ",
                place.result().display()
            ))
            .says("lib.tgz")
            .says(told)
            .says("Hint: ");
        place.is_as_before(&ran);
    }
}

fn tree_taken_away(isolation: &'static str) {
    let Some(mut place) = Place::new(isolation, "size=4m", &["work", "vcap"]) else {
        return;
    };
    place.remember();
    let running = place.start_to_gate(&ReleaseBuilder::of_script(GATE));
    let trees = match isolation {
        "namespace" => place.work().join("places"),
        _ => place.path("vcap").join("data"),
    };
    for entry in std::fs::read_dir(place.inside(&trees)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    place.open_gate();
    if isolation == "landlock" {
        // It may have been for the rules that there is nothing, so the script is run once more, and then all is well.
        wait_for("the second run", LIMIT, || {
            let stderr = running.stderr();
            let is_there = stderr.contains("app will be compiled again");
            is_there.then_some(()).ok_or(stderr)
        });
        place.open_gate();
        running.end().succeeds();
        assert!(
            Outcome::of(&place.inside(&place.result()))
                .packages
                .contains_key("app")
        );
        return;
    }
    let ran = running
        .end()
        .fails()
        .says("Error: failed to compile package app/")
        .says("package `app` has no directory at its install target `")
        .says("Hint: ");
    place.is_as_before(&ran);
}

fn work_taken_away(isolation: &'static str) {
    let Some(mut place) = Place::new(isolation, "size=4m", &["work", "vcap"]) else {
        return;
    };
    place.remember();
    let running = place.start_to_gate(&with_gate(&["lib"]));
    wait_for_first(&running);
    let work = place.work();
    std::fs::remove_dir_all(place.inside(&work)).unwrap();
    place.open_gate();
    let ran = running
        .end()
        .fails()
        .says("Error: failed to compile package ")
        .says(&format!(
            "Warning: `{}` has been removed by something else",
            work.display()
        ));
    place.is_as_before(&ran);
}

#[test]
fn a_work_directory_that_is_taken_away_is_told_in_namespaces() {
    work_taken_away("namespace");
}

#[test]
fn a_work_directory_that_is_taken_away_is_told_under_rules() {
    work_taken_away("landlock");
}

#[test]
fn a_work_directory_that_is_taken_away_is_told_in_place() {
    work_taken_away("none");
}

#[test]
fn a_package_whose_files_are_taken_away_while_its_script_runs_is_told_in_namespaces() {
    tree_taken_away("namespace");
}

#[test]
fn a_package_whose_files_are_taken_away_while_its_script_runs_is_told_under_rules() {
    tree_taken_away("landlock");
}

#[test]
fn a_package_whose_files_are_taken_away_while_its_script_runs_is_told_in_place() {
    tree_taken_away("none");
}

/// A call with few descriptors, or few threads, ends by itself: it succeeds, or says what is missing.
#[test]
fn missing_descriptors_or_threads_are_an_error_not_a_panic() {
    if !require_root() || !require_tools(&["prlimit", "setpriv"]) {
        return;
    }
    let world = World::for_everybody();
    for directory in ["printed", "logs"] {
        let directory = world.path(directory);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o777)).unwrap();
    }
    std::fs::set_permissions(world.path(""), PermissionsExt::from_mode(0o777)).unwrap();
    // The program itself may lie where only root can go.
    let agent = world.path("bosh-agent");
    run_tool(
        "cp",
        &[env!("CARGO_BIN_EXE_bosh-agent").as_ref(), agent.as_os_str()],
    );
    let release = world.release("release.tgz", &ReleaseBuilder::of_script("true"));
    std::fs::set_permissions(&release, PermissionsExt::from_mode(0o644)).unwrap();
    let try_with = |limit: String| {
        // The limit of processes holds for users alone; this one has no other processes.
        let user = USER.to_string();
        let through = [
            "setpriv",
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "prlimit",
            &limit,
        ];
        let words = through
            .map(AsRef::as_ref)
            .into_iter()
            .chain([agent.as_os_str()]);
        let ran = world
            .flags_with(Agent::through(&world.path("printed"), words), "none")
            .arg(&release)
            .run();
        for word in ["panicked", "RUST_BACKTRACE"] {
            assert!(!ran.stderr.contains(word), "{limit}: {}", ran.stderr);
        }
        assert!(matches!(ran.code, Some(0 | 1)), "{limit}: {ran:?}");
        let is_told = ran.code == Some(0) || ran.stderr.contains("Error: ");
        assert!(is_told, "{limit}: {}", ran.stderr);
        ran
    };
    let short = "failed to start";
    for limit in [5, 6, 7, 8] {
        let ran = try_with(format!("--nofile={limit}:{limit}"));
        assert!(ran.stderr.contains(short), "{}", ran.stderr);
    }
    for limit in (9..40).step_by(if is_long() { 1 } else { 6 }) {
        try_with(format!("--nofile={limit}:{limit}"));
    }
    for limit in [1, 2] {
        let ran = try_with(format!("--nproc={limit}:{limit}"));
        assert!(ran.stderr.contains(short), "{}", ran.stderr);
    }
    for limit in (3..20).step_by(if is_long() { 1 } else { 4 }) {
        try_with(format!("--nproc={limit}:{limit}"));
    }
}
