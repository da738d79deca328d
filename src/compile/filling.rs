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
use crate::sandbox::Sandbox;

/// Up to this many jobs, one dependent fills a cache before the others start. With more jobs, and so more cores, compiling the same
/// code several times takes less time than waiting for one package.
pub(super) const MOST_JOBS: usize = 4;

/// Up to this many jobs, the dependents that share a cache run one after another while it is being filled. A single `go build` keeps
/// two cores busy, and two concurrent ones compile their common code twice.
pub(super) const MOST_JOBS_ONE_AT_A_TIME: usize = 2;

/// How often a cache is checked.
pub(super) const INTERVAL: Duration = Duration::from_millis(200);

/// After this time with an empty cache, the other dependents start: the package does something else first. The time includes
/// unpacking its source and copying its dependencies.
const UNUSED_LIMIT: Duration = Duration::from_secs(30);

/// Long enough to compile the standard library on one core. Later, the package compiles mostly its own code. The time starts at the
/// first use of the cache, so it also limits how long dependents run one after another.
const USED_LIMIT: Duration = Duration::from_secs(60);

/// A cache that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    directories: Vec<PathBuf>,
    /// When a dependent began to fill it.
    since: Option<Instant>,
    is_used: bool,
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
            is_used: false,
        };
        (!filling.has_content()).then_some(filling)
    }

    /// Whether the waiting dependents may run concurrently with the one that fills the cache. The caller checks every [`INTERVAL`].
    /// Blocks.
    pub(super) fn is_over(&mut self) -> bool {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        if !self.is_used && self.has_content() {
            self.is_used = true;
            self.since = Some(now);
            return false;
        }
        let limit = match self.is_used {
            true => USED_LIMIT,
            false => UNUSED_LIMIT,
        };
        now - since >= limit
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
            is_used: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn dependents_stop_waiting_for_an_empty_cache() {
        let directory = tempfile::tempdir().unwrap();
        let mut filling = filling(&directory);
        assert!(!filling.is_over());
        tokio::time::advance(UNUSED_LIMIT / 2).await;
        assert!(!filling.is_over());
        tokio::time::advance(UNUSED_LIMIT).await;
        assert!(filling.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn dependents_wait_for_a_cache_until_a_limit() {
        let directory = tempfile::tempdir().unwrap();
        let mut filling = filling(&directory);
        assert!(!filling.is_over());
        fs::write(&directory.path().join("file"), b"").unwrap();
        tokio::time::advance(2 * UNUSED_LIMIT).await;
        assert!(!filling.is_over());
        tokio::time::advance(USED_LIMIT - INTERVAL).await;
        assert!(!filling.is_over());
        tokio::time::advance(INTERVAL).await;
        assert!(filling.is_over());
    }
}
