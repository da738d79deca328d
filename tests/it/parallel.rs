//! Concurrent packages: independent packages run together, dependents wait, and the result does not depend on the order.
//! `BOSH_AGENT_SOAK=1` repeats the long tests more often.

mod jobs;
mod order;
mod releases;
mod stops;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{
    Agent, NamespaceWorld, Outcome, Ran, ReleaseBuilder, Running, World, compiled_packages,
    manifest_of, processes_below, snapshot, wait_for,
};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);

/// Gives all installed files the same time, so that each run packs the same bytes.
const TIMELESS: &str = "find $BOSH_INSTALL_TARGET/ -exec touch -h -d @1600000000 {} +";

/// Records the start and end of a script.
fn timed(name: &str, script: &str) -> String {
    format!("date +%s%N > $FACTS/{name}.from\n{script}\ndate +%s%N > $FACTS/{name}.to")
}

impl NamespaceWorld {
    fn agent_with_jobs(&self, jobs: usize) -> Agent {
        self.agent_with_jobs_to(jobs, "out")
    }

    fn agent_with_jobs_to(&self, jobs: usize, out: &str) -> Agent {
        self.agent_at("namespace", out)
            .args(&["--grace", "1", "--jobs", &jobs.to_string()])
    }

    /// Start and end of a script, in nanoseconds.
    fn times(&self, name: &str) -> (u128, u128) {
        let time = |what| {
            let text = std::fs::read_to_string(self.fact(&format!("{name}.{what}"))).unwrap();
            text.trim().parse().unwrap()
        };
        (time("from"), time("to"))
    }

    /// The maximum number of these scripts that ran concurrently.
    fn most_at_once(&self, names: &[&str]) -> usize {
        let times: Vec<(u128, u128)> = names.iter().map(|name| self.times(name)).collect();
        let at = |moment: u128| {
            let runs = |(from, to): &&(u128, u128)| *from <= moment && moment < *to;
            times.iter().filter(runs).count()
        };
        times.iter().map(|(from, _)| at(*from)).max().unwrap()
    }

    fn assert_no_process(&self) {
        let left = processes_below(&self.world.path(""));
        assert!(left.is_empty(), "{left:#?}");
    }
}

/// The only directory below another whose name has this prefix.
fn below(directory: &Path, beginning: &str) -> PathBuf {
    let mut entries = std::fs::read_dir(directory).unwrap().flatten();
    let entry = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(beginning));
    entry.unwrap().path()
}
