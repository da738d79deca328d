//! Decides how long the dependents of a package wait while one of them fills a cache that they share, such as Go's build cache.
//!
//! If several Go programs are compiled concurrently with an empty build cache, each of them compiles the standard library. If one program
//! is compiled first, the other programs find the compiled library in the cache.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::context::Context;
use super::installed::Installed;
use super::scratch;
use crate::fs::ChildDirectory;
use crate::process::IdleMeter;
use crate::runtime;

/// With at most this many jobs, one dependent fills a cache before the others start. With more jobs, and so more cores, compiling the same
/// code several times takes less time than waiting for one package.
pub(super) const MAX_JOBS: usize = 4;

/// With at most this many jobs, the dependents that share a cache run one after another while it is being filled. A single `go build`
/// already uses two cores, and two concurrent `go build` compile their common code twice.
pub(super) const MAX_JOBS_ONE_AT_A_TIME: usize = 2;

/// How often a cache is checked.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);

/// If the cache is still empty after this time, the other dependents start, because the first dependent does not use the cache yet. The
/// time includes unpacking the source and copying the dependencies of the first dependent.
const EMPTY_LIMIT: Duration = Duration::from_secs(30);

/// All dependents may start this long after the first entry appeared in the cache, even if they ran one after another until then. The time
/// is long enough to compile the standard library on one core; later, a package compiles mostly its own code.
const FILLED_LIMIT: Duration = Duration::from_secs(60);

/// For this time after the first entry appeared in a cache, no other dependent starts even if CPUs are idle. The `go` command first compiles
/// parts of the standard library, such as `runtime`, one after another. Some CPUs are idle meanwhile, but another program would compile the
/// same parts.
const SERIAL_START: Duration = Duration::from_secs(5);

/// The CPUs are considered idle if at least this share of the CPU time is unused. It is unused while a package links a program, or does
/// other work that is not parallel.
const IDLE_SHARE: f64 = 0.25;

/// The next dependent starts after this many consecutive checks that found idle CPUs. After a single check, the CPUs may be idle only
/// because one process has ended and the next one has not started yet.
const IDLE_CHECKS: u32 = 2;

/// The time limit of the first look into a cache. If it is exceeded, the dependents do not wait for each other.
const FIRST_LOOK_LIMIT: Duration = Duration::from_secs(5);

/// A cache that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    cache: Arc<Cache>,
    /// When a dependent began to fill the cache or, later, when the first entry appeared.
    since: Option<Instant>,
    has_entries: bool,
    meter: IdleMeter,
    /// The number of checks in a row that found idle CPUs.
    idle_checks: u32,
}

/// Which dependents may start while a cache is being filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MayStart {
    /// None.
    None,
    /// One more, because CPUs are idle.
    Next,
    /// All.
    All,
}

/// The directories of a cache. Blocking threads read them, so that a disk that does not respond does not block the run.
struct Cache {
    directories: Vec<Box<dyn CacheDirectory>>,
    /// Whether a thread is reading the directories.
    is_looking: AtomicBool,
    has_entries: AtomicBool,
}

/// A directory of a cache. Tests replace it.
trait CacheDirectory: Send + Sync {
    /// Whether the directory has entries. `None` if it cannot be read.
    fn has_entries(&self) -> Option<bool>;
}

impl CacheDirectory for ChildDirectory {
    fn has_entries(&self) -> Option<bool> {
        self.has_entries()
    }
}

impl Filling {
    /// Starts to observe the caches that an installed package names for its dependents. `None` if the package names no cache, or if a cache
    /// is not known to be empty.
    pub(super) async fn of(installed: &Installed, context: &Context) -> Option<Self> {
        let names = scratch::named_for_dependents(installed, &context.vcap);
        let directories: Option<Vec<_>> = names
            .iter()
            .map(|name| {
                let directory = context.sandbox.examinable_scratch(name)?;
                Some(Box::new(directory) as Box<dyn CacheDirectory>)
            })
            .collect();
        let directories = directories.filter(|directories| !directories.is_empty())?;
        let filling = Self::new(directories);
        let cache = Arc::clone(&filling.cache);
        let looking = runtime::spawn_blocking("cache", move || cache.is_empty());
        let is_empty = tokio::time::timeout(FIRST_LOOK_LIMIT, looking).await;
        matches!(is_empty, Ok(Ok(true))).then_some(filling)
    }

    fn new(directories: Vec<Box<dyn CacheDirectory>>) -> Self {
        Self {
            cache: Arc::new(Cache {
                directories,
                is_looking: AtomicBool::new(false),
                has_entries: AtomicBool::new(false),
            }),
            since: None,
            has_entries: false,
            meter: IdleMeter::default(),
            idle_checks: 0,
        }
    }

    /// Decides which dependents may start while another one fills the cache. The caller calls this every [`INTERVAL`]. The cache is treated
    /// as empty until a thread has found an entry in it.
    pub(super) fn check(&mut self) -> MayStart {
        let now = Instant::now();
        if !self.has_entries {
            if self.cache.has_entries.load(Ordering::Relaxed) {
                self.has_entries = true;
                self.since = Some(now);
            } else {
                self.cache.look();
            }
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
        self.check_idle(elapsed, idle_share)
    }

    /// Decides by the idle CPUs. `elapsed` is below the time limit.
    fn check_idle(&mut self, elapsed: Duration, idle_share: Option<f64>) -> MayStart {
        let is_early = !self.has_entries || elapsed < SERIAL_START;
        let is_idle = !is_early && idle_share.is_some_and(|share| share >= IDLE_SHARE);
        self.idle_checks = if is_idle { self.idle_checks + 1 } else { 0 };
        if self.idle_checks < IDLE_CHECKS {
            return MayStart::None;
        }
        self.idle_checks = 0;
        MayStart::Next
    }
}

impl Cache {
    /// Looks for entries on a blocking thread, unless such a thread is still running.
    fn look(self: &Arc<Self>) {
        if self.is_looking.swap(true, Ordering::Acquire) {
            return;
        }
        let cache = Arc::clone(self);
        let looking = runtime::spawn_blocking("cache", move || {
            let mut directories = cache.directories.iter();
            if directories.any(|directory| directory.has_entries() == Some(true)) {
                cache.has_entries.store(true, Ordering::Relaxed);
            }
            cache.is_looking.store(false, Ordering::Release);
        });
        looking.detach();
    }

    /// Whether all directories are known to be empty. Blocks.
    fn is_empty(&self) -> bool {
        let mut directories = self.directories.iter();
        directories.all(|directory| directory.has_entries() == Some(false))
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("is_looking", &self.is_looking)
            .field("has_entries", &self.has_entries)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::fs;

    fn filling(directory: &tempfile::TempDir) -> Filling {
        let directories = ["cache", "none"].map(|name| {
            let above = fs::open(directory.path()).unwrap();
            let cache = ChildDirectory::new(above.as_fd(), name).unwrap();
            Box::new(cache) as Box<dyn CacheDirectory>
        });
        fs::create_dir(&directory.path().join("cache")).unwrap();
        Filling::new(directories.into())
    }

    /// Waits until no thread looks into the cache.
    fn finish_look(filling: &Filling) {
        while filling.cache.is_looking.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    /// A directory that answers when the test sends an answer.
    struct Slow {
        asked: Sender<()>,
        answers: Mutex<Receiver<bool>>,
    }

    impl CacheDirectory for Slow {
        fn has_entries(&self) -> Option<bool> {
            self.asked.send(()).unwrap();
            self.answers.lock().unwrap().recv().ok()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn cache_that_does_not_answer_counts_as_empty() {
        let ((asked, asks), (answer, answers)) = (channel(), channel());
        let answers = Mutex::new(answers);
        let mut filling = Filling::new(vec![Box::new(Slow { asked, answers })]);
        for _ in 0..3 {
            assert_eq!(filling.check(), MayStart::None);
            tokio::time::advance(INTERVAL).await;
        }
        asks.recv().unwrap();
        assert!(asks.try_recv().is_err(), "one thread looks at a time");
        tokio::time::advance(EMPTY_LIMIT).await;
        assert_eq!(filling.check(), MayStart::All);
        answer.send(true).unwrap();
        finish_look(&filling);
        assert_ne!(filling.check(), MayStart::All, "it has an entry now");
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
        finish_look(&filling);
        fs::write(&directory.path().join("cache/file"), b"").unwrap();
        tokio::time::advance(EMPTY_LIMIT / 2).await;
        assert_eq!(filling.check(), MayStart::None);
        finish_look(&filling);
        tokio::time::advance(EMPTY_LIMIT).await;
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
        for (has_entries, elapsed) in [(false, 2 * SERIAL_START), (true, SERIAL_START / 2)] {
            filling.has_entries = has_entries;
            for _ in 0..3 {
                let may_start = filling.check_idle(elapsed, Some(0.5));
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
                filling.check_idle(SERIAL_START, share),
                expected,
                "{share:?}"
            );
        }
    }
}
