//! Removes trees on a thread of its own, so that no package waits for that.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::diag::Chain;
use crate::fs::{self, Context};

/// The trees that are being removed.
#[derive(Debug, Default)]
pub(super) struct Removals(Mutex<Option<Remover>>);

/// A thread that removes trees until the sender is dropped.
#[derive(Debug)]
struct Remover {
    trees: Sender<Doomed>,
    thread: JoinHandle<()>,
}

/// A tree that was set aside.
#[derive(Debug)]
pub(super) struct Doomed {
    /// The directory that contains it. A script may put a link to one of the host at the path of this directory.
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

    /// If that fails, the next run tries again.
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
    /// Removes a tree whose name nothing else uses. Does not wait for that, if a thread can be started.
    pub(super) fn add(&self, tree: Doomed) {
        let mut remover = self.remover();
        if remover.is_none() {
            *remover = Remover::start();
        }
        let unsent = match &*remover {
            Some(remover) => remover.trees.send(tree).err().map(|error| error.0),
            None => Some(tree),
        };
        drop(remover);
        unsent.into_iter().for_each(Doomed::remove);
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

    /// Whether trees are being removed, or were since the last call of [`finish`](Self::finish).
    #[cfg(test)]
    pub(super) fn has_begun(&self) -> bool {
        self.remover().is_some()
    }

    fn remover(&self) -> MutexGuard<'_, Option<Remover>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remover {
    fn start() -> Option<Self> {
        let (trees, added) = channel();
        let work = move || added.into_iter().for_each(Doomed::remove);
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
}
