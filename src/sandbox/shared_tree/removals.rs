//! Removes trees on a separate thread, so that no package waits for their removal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::diag::Chain;
use crate::fs::{self, Context};

/// How long to wait for removals if space is short. A removal may take longer, and it never ends if a disk does not respond.
const LIMIT: Duration = Duration::from_secs(60);

/// How often the free space and a stop are checked.
const INTERVAL: Duration = Duration::from_millis(100);

/// The trees that are being removed.
#[derive(Debug, Default)]
pub(super) struct Removals {
    remover: Mutex<Option<Remover>>,
    pending: Arc<Pending>,
}

/// The number of trees that are not removed yet.
#[derive(Debug, Default)]
struct Pending {
    count: Mutex<usize>,
    removed: Condvar,
}

impl Pending {
    fn count(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, tree: Doomed) {
        let _ended = Ended(self);
        tree.remove();
    }
}

/// Counts a removal as ended when dropped, also after a panic: otherwise, others would wait for it forever.
struct Ended<'a>(&'a Pending);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        *self.0.count() -= 1;
        self.0.removed.notify_all();
    }
}

/// A thread that removes trees until the sender is dropped.
#[derive(Debug)]
struct Remover {
    trees: Sender<Doomed>,
    thread: JoinHandle<()>,
}

/// A tree that was set aside and is going to be removed.
#[derive(Debug)]
pub(super) struct Doomed {
    /// The directory that contains the tree. It is open, because a script may replace its path with a link to a directory of the host.
    directory: OwnedFd,
    path: PathBuf,
}

impl Doomed {
    /// A tree at a path in an open directory.
    pub(super) fn new(directory: BorrowedFd<'_>, path: &Path) -> fs::Result<Self> {
        let directory = directory.try_clone_to_owned().at("remove", path)?;
        Ok(Self {
            directory,
            path: path.to_owned(),
        })
    }

    /// Removes the tree. A failure is logged, and the next run tries again.
    fn remove(self) {
        let removed = fs::remove_tree_in(self.directory.as_fd(), &self.path);
        if let Err(error) = removed {
            tracing::warn!(
                error = %Chain(&error),
                hint = error.hint(),
                path = %self.path.display(),
                "could not remove what a packaging script left; it was moved out of the way, and the next run tries again"
            );
        }
    }
}

impl Removals {
    /// Removes a tree that has a name of its own, on the thread. Removes it at once if no thread can be started.
    pub(super) fn add(&self, tree: Doomed) {
        let mut remover = self.remover();
        if remover.is_none() {
            *remover = Remover::start(Arc::clone(&self.pending));
        }
        *self.pending.count() += 1;
        let unsent = match &*remover {
            Some(remover) => remover.trees.send(tree).err().map(|error| error.0),
            None => Some(tree),
        };
        drop(remover);
        unsent
            .into_iter()
            .for_each(|tree| self.pending.remove(tree));
    }

    /// Waits for pending removals, up to a minute, while `is_short` returns true and `stop` does not.
    pub(super) fn wait_while(&self, is_short: &dyn Fn() -> bool, stop: &dyn Fn() -> bool) {
        let start = Instant::now();
        let mut count = self.pending.count();
        while *count > 0 {
            drop(count);
            // Call `is_short` last, and without the lock: the disk may not respond.
            if stop() || start.elapsed() >= LIMIT || !is_short() {
                return;
            }
            let waiting = self
                .pending
                .removed
                .wait_timeout(self.pending.count(), INTERVAL);
            (count, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all trees are removed.
    pub(super) fn finish(&self) {
        let Some(Remover { trees, thread }) = self.remover().take() else {
            return;
        };
        drop(trees);
        if thread.join().is_err() {
            tracing::warn!("the thread that removes directories of packages has failed");
        }
    }

    /// Whether a tree was added since the last call of [`finish`](Self::finish).
    #[cfg(test)]
    pub(super) fn has_begun(&self) -> bool {
        self.remover().is_some()
    }

    fn remover(&self) -> MutexGuard<'_, Option<Remover>> {
        self.remover.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remover {
    fn start(pending: Arc<Pending>) -> Option<Self> {
        let (trees, added) = channel();
        let work = move || added.into_iter().for_each(|tree| pending.remove(tree));
        let builder = thread::Builder::new().name("remove".to_owned());
        let thread = builder.spawn(work).ok()?;
        Some(Self { trees, thread })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_trees_are_removed_when_it_is_finished() {
        let scratch = tempfile::tempdir().unwrap();
        let removals = Removals::default();
        for round in 0..2 {
            for name in ["a", "b"] {
                let tree = scratch.path().join(format!("{name}{round}"));
                fs::create_dir_all(&tree.join("x/y")).unwrap();
                let above = fs::open(scratch.path()).unwrap();
                removals.add(Doomed::new(above.as_fd(), &tree).unwrap());
            }
            removals.finish();
            assert!(fs::list(scratch.path()).unwrap().is_empty());
        }
        removals.finish();
    }

    #[test]
    fn wait_for_space_ends_with_removals_space_or_stop() {
        let removals = Removals::default();
        removals.wait_while(&|| panic!("nothing is removed"), &|| false);
        *removals.pending.count() = 1;
        removals.wait_while(&|| false, &|| false);
        removals.wait_while(&|| panic!("the disk may not respond"), &|| true);
        let asked = std::cell::Cell::new(0);
        let is_short = || {
            asked.set(asked.get() + 1);
            if asked.get() == 3 {
                *removals.pending.count() = 0;
            }
            true
        };
        removals.wait_while(&is_short, &|| false);
        assert_eq!(asked.get(), 3);
    }
}
