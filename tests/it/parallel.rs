//! Several packages at once: what may run together does, what must wait waits, and nothing of the result tells of it.
//! `BOSH_AGENT_SOAK=1` repeats the long ones more often.

mod jobs;
mod order;
mod releases;
mod stops;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{
    Agent, Outcome, Ran, ReleaseBuilder, Running, World, compiled_packages, manifest_of,
    processes_below, require_root, snapshot, wait_for,
};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);

/// Gives everything that a script has installed one time, so that it is packed to the same bytes whenever it runs.
const TIMELESS: &str = "find $BOSH_INSTALL_TARGET/ -exec touch -h -d @1600000000 {} +";

/// Notes when a script began and ended.
fn timed(name: &str, script: &str) -> String {
    format!("date +%s%N > $FACTS/{name}.from\n{script}\ndate +%s%N > $FACTS/{name}.to")
}

/// A place for tests outside /tmp, which scripts have to themselves in namespaces.
struct Place {
    world: World,
}

impl Place {
    /// Nothing where namespaces cannot be had; then the reason has been told.
    fn new() -> Option<Self> {
        if !require_root() {
            return None;
        }
        let world = World::outside_tmp();
        std::fs::create_dir(world.path("facts")).unwrap();
        Some(Self { world })
    }

    fn agent(&self, jobs: usize) -> Agent {
        self.agent_to(jobs, "out")
    }

    fn agent_to(&self, jobs: usize, out: &str) -> Agent {
        self.world
            .agent_at("namespace", out)
            .env("FACTS", self.world.path("facts").to_str().unwrap())
            .args(&["--grace", "1", "--jobs", &jobs.to_string(), "--logs-dir"])
            .arg(self.world.path("logs"))
    }

    fn release(&self, name: &str, release: &ReleaseBuilder) -> PathBuf {
        self.world.release(name, release)
    }

    fn fact(&self, name: &str) -> PathBuf {
        self.world.path("facts").join(name)
    }

    fn has(&self, name: &str) -> bool {
        self.fact(name).exists()
    }

    /// From when until when a script ran, in nanoseconds.
    fn times(&self, name: &str) -> (u128, u128) {
        let time = |what| {
            let text = std::fs::read_to_string(self.fact(&format!("{name}.{what}"))).unwrap();
            text.trim().parse().unwrap()
        };
        (time("from"), time("to"))
    }

    /// The most of these scripts that ran at one moment.
    fn most_at_once(&self, names: &[&str]) -> usize {
        let times: Vec<(u128, u128)> = names.iter().map(|name| self.times(name)).collect();
        let at = |moment: u128| {
            let runs = |(from, to): &&(u128, u128)| *from <= moment && moment < *to;
            times.iter().filter(runs).count()
        };
        times.iter().map(|(from, _)| at(*from)).max().unwrap()
    }

    fn wait_for_facts(&self, running: &mut Running, names: &[&str]) {
        wait_for("the start of scripts", LIMIT, || {
            if names.iter().all(|name| self.has(name)) {
                return Ok(());
            }
            assert!(!running.has_ended(), "{}", running.stderr());
            Err(running.stderr())
        });
    }

    fn assert_no_process(&self) {
        let left = processes_below(&self.world.path(""));
        assert!(left.is_empty(), "{left:#?}");
    }
}

/// The only directory of this beginning below another.
fn below(directory: &Path, beginning: &str) -> PathBuf {
    let mut entries = std::fs::read_dir(directory).unwrap().flatten();
    let entry = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(beginning));
    entry.unwrap().path()
}
