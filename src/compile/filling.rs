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

/// The most scripts at once with which one is to fill a cache before others start. With more of them, and so more cores, compiling
/// the same several times costs less time than waiting for one package.
pub(super) const MOST_JOBS: usize = 4;

/// The most scripts at once with which the dependents that share a cache run one after another as long as it is being filled. A
/// `go build` keeps two cores busy by itself, and two of them at once compile twice what they have in common.
pub(super) const MOST_JOBS_ONE_AT_A_TIME: usize = 2;

/// How often a cache is looked at.
pub(super) const INTERVAL: Duration = Duration::from_millis(200);

/// A package that has left the cache empty for so long does something else first. Unpacking its source and copying its dependencies
/// count.
const UNUSED_LIMIT: Duration = Duration::from_secs(30);

/// Long enough to compile the standard library on one core. What is compiled later belongs to the package alone. It is counted from
/// the first use of the cache on, so it also limits how long dependents run one after another.
const USED_LIMIT: Duration = Duration::from_secs(60);

/// A cache that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    directories: Vec<PathBuf>,
    /// Since when a package may fill it.
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

    /// Whether the dependents that wait may run beside the one that fills the cache. It is asked every [`INTERVAL`].
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
    async fn package_that_leaves_the_cache_empty_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let mut filling = filling(&directory);
        assert!(!filling.is_over());
        tokio::time::advance(UNUSED_LIMIT / 2).await;
        assert!(!filling.is_over());
        tokio::time::advance(UNUSED_LIMIT).await;
        assert!(filling.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn package_that_fills_the_cache_is_waited_for_until_a_limit() {
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
