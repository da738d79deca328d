//! SIGKILL while hostile scripts run, repeatedly, in each tier and for a daemon: the next run and the next daemon work, and nothing
//! accumulates. `BOSH_AGENT_SOAK=1` kills a hundred times.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::daemon::{assert_compiles, kinds_of_data, wait_for_data};
use crate::support::{
    LANDLOCK, LANDLOCK_OF_ROOT, NAMESPACE, NONE, Place, Play, ReleaseBuilder, Running, Tier, USER,
    USERNS_OF_A_USER, USERNS_OF_ROOT, Who, World, in_tiers, is_soak, processes_below,
    require_tools, snapshot, wait_for,
};

in_tiers!(next_run_works: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK_OF_ROOT NONE);
in_tiers!(next_daemon_works: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK);

const LIMIT: Duration = Duration::from_secs(60);

/// The longest time from the script's start to the kill, and from that of the agent in rounds that do not wait for the script.
const SPAN_MS: u64 = 350;

/// Scripts whose leftovers are hard to remove, or that replace the agent's directories. `@host@` is a directory of the host.
const HOSTILE: [&str; 8] = [
    "for tree in $BOSH_COMPILE_TARGET $BOSH_INSTALL_TARGET; do \
       perl -e 'chdir $ARGV[0] or die; for (1..15000) { mkdir \"d\" or die; chdir \"d\" or die } open F, \">file\"' $tree; done",
    "mkdir bound memory; mount --bind @host@ bound; mount -t tmpfs none memory; echo > memory/file; \
     mkdir $BOSH_INSTALL_TARGET/bound; mount --bind @host@ $BOSH_INSTALL_TARGET/bound",
    "mkdir -p a/b; echo > a/b/file; chattr +i a/b/file a/b; chattr +a a .; echo > $BOSH_INSTALL_TARGET/file; \
     chattr +i $BOSH_INSTALL_TARGET/file $BOSH_INSTALL_TARGET",
    "mkdir -p a/b; echo > a/b/file; chmod 0 a/b/file a/b a; chmod 0 .; chmod 0 $BOSH_INSTALL_TARGET",
    "cd /; mv @base@/data/compile @base@/data/compile-moved; ln -s @host@ @base@/data/compile",
    "cd /; rm -rf @base@/data/packages/[bc]; ln -s @host@ @base@/data/packages/b; \
     mv @base@/packages @base@/packages-moved; ln -s @host@ @base@/packages",
    // The installed files of the dependency, and the directories that contain them.
    "chattr -R +i @base@/packages/a/ @base@/data/packages/; chattr +a @base@/data/compile",
    "cd /; tac /proc/self/mountinfo | cut -d ' ' -f 5 | grep -e '^@base@' -e '^@out@' | while read -r at; do umount -l $at; done; \
     chattr -R +i @base@/packages/a/; echo > @base@/packages/a/file",
];

fn rounds() -> usize {
    if is_soak() { 100 } else { 10 }
}

/// A hostile script that first creates the file `started`.
fn filled(script: &str, world: &World) -> String {
    let path = |path: PathBuf| path.display().to_string();
    let script = script
        .replace("@host@", &path(world.path("host")))
        .replace("@base@", &path(world.base()))
        .replace("@out@", &path(world.out()));
    let started = path(world.path("facts/started"));
    format!(">{started}\n{script}\nsleep 0.3")
}

/// xorshift: random enough, and reproducible.
struct Chance(u64);

impl Chance {
    fn wait(&mut self) {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The time is the variable of this test; it waits for no event.
        std::thread::sleep(Duration::from_millis(self.0 % SPAN_MS));
    }
}

/// A directory that the scripts link to and mount, with files that the agent would use and remove by path. Returns its state.
fn make_host(world: &World, who: Who) -> BTreeMap<String, String> {
    let host = world.path("host");
    for directory in ["b", "c", "compile/b", "packages/b"] {
        let directory = host.join(directory);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("file"), "the host's").unwrap();
    }
    if who == Who::User {
        let owner = format!("{USER}:{USER}");
        let arguments = ["-R".as_ref(), owner.as_ref(), host.as_os_str()];
        crate::support::run_tool("chown", &arguments);
    }
    snapshot(&host)
}

/// Directories with other files in the base directory.
struct Site {
    place: Place,
    host: BTreeMap<String, String>,
    before: BTreeMap<String, String>,
    chance: Chance,
}

impl Site {
    fn new(tier: Tier) -> Option<Self> {
        if !require_tools(&["chattr", "perl"]) {
            return None;
        }
        let place = Place::new(tier)?;
        let base = place.world.base();
        for directory in ["", "bosh", "data"] {
            let directory = base.join(directory);
            std::fs::create_dir(&directory).unwrap();
            if tier.who == Who::User {
                chown(&directory, Some(USER), Some(USER)).unwrap();
            }
        }
        Some(Self {
            host: make_host(&place.world, tier.who),
            before: snapshot(&base),
            place,
            chance: Chance(0x9e37_79b9_7f4a_7c15),
        })
    }

    fn release(&self, name: &str, release: &ReleaseBuilder) -> PathBuf {
        let path = self.place.world.release(name, release);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        path
    }

    fn start(&self, script: &str) -> Running {
        let script = filled(script, &self.place.world);
        let release = ReleaseBuilder::new("hostile", "1")
            .package("a", &[], "(trap '' TERM; sleep 10) & sleep 0.02")
            .package("b", &[], &script)
            .package("c", &["a"], &script);
        let agent = self.place.agent().args(&["--grace", "1"]);
        agent.arg(self.release("hostile.tgz", &release)).start()
    }

    /// Whether the script has started before a kill at some later time.
    fn kill(&mut self, mut running: Running, waits: bool) -> bool {
        let started = self.place.world.path("facts/started");
        if waits {
            wait_for("the script", LIMIT, || {
                let is_there = started.exists() || running.has_ended();
                is_there.then_some(()).ok_or_else(|| running.stderr())
            });
        }
        self.chance.wait();
        running.signal(Signal::SIGKILL);
        running.end();
        std::fs::remove_file(started).is_ok()
    }

    /// Asserts that the run after a killed one succeeds and removes its leftovers.
    fn assert_next_run_leaves_nothing(&self, plain: &Path) {
        let agent = self.place.agent().args(&["--grace", "1"]);
        // Also if the script has moved the marker away: the lock file repeats the notes.
        agent.arg(plain).run().succeeds();
        let moved =
            ["packages-moved", "data/compile-moved"].map(|it| self.place.world.base().join(it));
        // No isolation tier, and no run, knows where a script has moved directories of the host.
        for moved in moved.iter().filter(|moved| moved.exists()) {
            std::fs::remove_dir_all(moved).unwrap();
        }
        let out = self.place.world.out();
        for path in crate::support::listed(out) {
            // Complete.
            crate::support::list(&path);
            std::fs::remove_file(path).unwrap();
        }
        wait_for("the end of all processes", LIMIT, || {
            let left = processes_below(&self.place.world.path(""));
            left.is_empty().then_some(()).ok_or(format!("{left:#?}"))
        });
        let after = snapshot(&self.place.world.base());
        let left: Vec<&String> = after
            .keys()
            .filter(|name| !self.before.contains_key(*name))
            // Empty directories that the killed run created for packages.
            .filter(|name| !matches!(name.as_str(), "packages" | "data/packages" | "data/compile"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// The number of mounts below the test's directory.
    fn mounts(&self) -> usize {
        let own = self.place.world.path("").display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = own.trim_end_matches('/');
        mounts.lines().filter(|mount| mount.contains(own)).count()
    }
}

mod bodies {
    use super::*;

    pub(super) fn next_run_works(tier: Tier) {
        let Some(mut site) = Site::new(tier) else {
            return;
        };
        let mounts = site.mounts();
        let plain = ReleaseBuilder::new("demo", "1.10")
            .package("b", &[], "echo > $BOSH_INSTALL_TARGET/file")
            .package("c", &["b"], "cat @packages@/b/file");
        let plain = site.release("plain.tgz", &plain);
        let mut started = 0;
        for (round, script) in (0..rounds()).zip(HOSTILE.iter().cycle()) {
            let running = site.start(script);
            started += usize::from(site.kill(running, round % 4 != 3));
            site.assert_next_run_leaves_nothing(&plain);
            let host = snapshot(&site.place.world.path("host"));
            assert_eq!(host, site.host, "round {round}: {script}");
            assert_eq!(site.mounts(), mounts, "round {round}: {script}");
        }
        assert!(started >= rounds() * 7 / 10, "{started}");
    }

    pub(super) fn next_daemon_works(tier: Tier) {
        if !require_tools(&["openssl", "curl", "chattr", "perl"]) {
            return;
        }
        let Some(place) = Place::new(tier) else {
            return;
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(kill_daemons(place));
    }
}

async fn kill_daemons(place: Place) {
    let world = place.world.clone();
    let host = make_host(&world, place.tier.who);
    let mut play = Play::in_process(place);
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    assert_compiles(&play, "plain").await;
    let before = kinds_of_data(&play);
    let mut started = 0;
    for (round, script) in (0..rounds()).zip(HOSTILE.iter().cycle()) {
        let lib = play.source("a", "echo > $BOSH_INSTALL_TARGET/file", json!({}));
        let lib = play.order(&lib).await;
        let lib = play.end(&lib).await["value"]["result"].clone();
        let lib = json!({"k": {"name": "a", "version": "1.1", "blobstore_id": lib["blobstore_id"], "sha1": lib["sha1"]}});
        let task = play
            .order(&play.source("c", &filled(script, &world), lib))
            .await;
        let fact = world.path("facts/started");
        if round % 4 != 3 {
            // Not by asking for the task: replies wait for its end.
            wait_for("the script", LIMIT, || {
                fact.exists().then_some(()).ok_or_else(|| task.clone())
            });
        }
        chance.wait();
        play = play.killed();
        started += usize::from(std::fs::remove_file(fact).is_ok());
        assert_compiles(&play, "plain").await;
        wait_for_data(&play, &before);
        assert_eq!(snapshot(&world.path("host")), host, "{round}: {script}");
    }
    assert!(started >= rounds() * 7 / 10, "{started}");
    assert!(play.stop().await);
    assert_eq!(processes_below(&world.base()), [""; 0]);
}
