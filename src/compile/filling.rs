//! How long the dependents of a package wait for one of them to fill the cache that they share.
//!
//! Go programs that are compiled at the same time with an empty build cache all compile the standard library. One that runs first
//! leaves it in the cache for the others, and uses several cores itself.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::installed::Installed;
use super::scratch;
use crate::config::Vcap;
use crate::fs;
use crate::process::IdleMeter;
use crate::sandbox::Sandbox;

/// Up to this many jobs, one dependent fills a cache before the others start. With more jobs, and so more cores, compiling the same
/// code several times takes less time than waiting for one package.
pub(super) const MOST_JOBS: usize = 4;

/// Up to this many jobs, the dependents that share a cache run one after another while it is being filled. A single `go build` keeps
/// two cores busy, and two concurrent ones compile their common code twice.
pub(super) const MOST_JOBS_ONE_AT_A_TIME: usize = 2;

/// How often a cache is checked.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);

/// After this time with an empty cache, the other dependents start: the package does something else first. The time includes
/// unpacking its source and copying its dependencies.
const EMPTY_LIMIT: Duration = Duration::from_secs(30);

/// Counted from the first entry in the cache; long enough to compile the standard library on one core. After it, a package compiles
/// mostly its own code, so all dependents may start, also if they ran one after another until then.
const FILLED_LIMIT: Duration = Duration::from_secs(60);

/// During this time after the first entry appeared in a cache, idle CPUs do not let another dependent start. The `go` command first
/// compiles parts of the standard library one after another, such as `runtime`: CPUs are idle, although another program would compile
/// the same parts.
const SHARED_WORK: Duration = Duration::from_secs(5);

/// The share of all CPU time that a package leaves idle while it links a program, or does other work that is not parallel.
const IDLE_SHARE: f64 = 0.25;

/// For so many checks in a row, a package must leave CPUs idle before the next one starts. A single check may fall between two
/// processes.
const IDLE_CHECKS: u32 = 2;

/// A cache that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    directories: Vec<PathBuf>,
    /// When a dependent began to fill it, then when the first entry appeared.
    since: Option<Instant>,
    has_entries: bool,
    meter: IdleMeter,
    /// In how many checks in a row CPUs were idle.
    idle_checks: u32,
}

/// Which dependents may start while a cache is being filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MayStart {
    /// None.
    None,
    /// One more: CPUs are idle.
    Next,
    /// All.
    All,
}

impl Filling {
    /// The caches that an installed package names for its dependents, if all of them are empty.
    pub(super) fn of(installed: &Installed, vcap: &Vcap, sandbox: &Sandbox) -> Option<Self> {
        let names = scratch::named_for_dependents(installed, vcap);
        let directories: Option<Vec<_>> = names
            .iter()
            .map(|name| sandbox.scratch_directory(name))
            .collect();
        let directories = directories.filter(|directories| !directories.is_empty())?;
        let filling = Self {
            directories,
            since: None,
            has_entries: false,
            meter: IdleMeter::default(),
            idle_checks: 0,
        };
        (!filling.has_content()).then_some(filling)
    }

    /// Which dependents may run concurrently with the one that fills the cache. The caller checks every [`INTERVAL`]. Reads files.
    pub(super) fn check(&mut self) -> MayStart {
        let now = Instant::now();
        if !self.has_entries && self.has_content() {
            self.has_entries = true;
            self.since = Some(now);
        }
        let elapsed = now - *self.since.get_or_insert(now);
        let limit = match self.has_entries {
            true => FILLED_LIMIT,
            false => EMPTY_LIMIT,
        };
        if elapsed >= limit {
            return MayStart::All;
        }
        let idle_share = self.meter.idle_share();
        self.after_idle(elapsed, idle_share)
    }

    /// The same, before the time limit.
    fn after_idle(&mut self, elapsed: Duration, idle_share: Option<f64>) -> MayStart {
        let is_shared_work = !self.has_entries || elapsed < SHARED_WORK;
        let is_idle = !is_shared_work && idle_share.is_some_and(|share| share >= IDLE_SHARE);
        self.idle_checks = if is_idle { self.idle_checks + 1 } else { 0 };
        if self.idle_checks < IDLE_CHECKS {
            return MayStart::None;
        }
        self.idle_checks = 0;
        MayStart::Next
    }

    fn has_content(&self) -> bool {
        let is_full = |path| fs::list(path).is_ok_and(|entries| !entries.is_empty());
        self.directories.iter().any(|path| is_full(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filling(directory: &tempfile::TempDir) -> Filling {
        Filling {
            directories: vec![directory.path().to_owned(), directory.path().join("none")],
            since: None,
            has_entries: false,
            meter: IdleMeter::default(),
            idle_checks: 0,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn dependents_stop_waiting_for_an_empty_cache() {
        let directory = tempfile::tempdir().unwrap();
        let mut filling = filling(&directory);
        assert_eq!(filling.check(), MayStart::None);
        tokio::time::advance(EMPTY_LIMIT / 2).await;
        assert_eq!(filling.check(), MayStart::None);
        tokio::time::advance(EMPTY_LIMIT).await;
        assert_eq!(filling.check(), MayStart::All);
    }

    #[tokio::test(start_paused = true)]
    async fn dependents_wait_for_a_cache_until_a_limit() {
        let directory = tempfile::tempdir().unwrap();
        let mut filling = filling(&directory);
        assert_eq!(filling.check(), MayStart::None);
        fs::write(&directory.path().join("file"), b"").unwrap();
        tokio::time::advance(2 * EMPTY_LIMIT).await;
        assert_ne!(filling.check(), MayStart::All);
        tokio::time::advance(FILLED_LIMIT - INTERVAL).await;
        assert_ne!(filling.check(), MayStart::All);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(filling.check(), MayStart::All);
    }

    #[test]
    fn next_dependent_starts_after_two_checks_with_idle_cpus() {
        let directory = tempfile::tempdir().unwrap();
        let mut filling = filling(&directory);
        for (has_entries, elapsed) in [(false, 2 * SHARED_WORK), (true, SHARED_WORK / 2)] {
            filling.has_entries = has_entries;
            for _ in 0..3 {
                let may_start = filling.after_idle(elapsed, Some(0.5));
                assert_eq!(may_start, MayStart::None, "{has_entries} {elapsed:?}");
            }
        }
        let shares = [
            (None, MayStart::None),
            (Some(0.4), MayStart::None),
            (Some(0.1), MayStart::None),
            (Some(0.4), MayStart::None),
            (Some(0.4), MayStart::Next),
            (Some(0.4), MayStart::None),
        ];
        for (share, expected) in shares {
            assert_eq!(
                filling.after_idle(SHARED_WORK, share),
                expected,
                "{share:?}"
            );
        }
    }
}
