//! Admits packages to the tree: several at the same time, or one alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

/// Admits packages to one tree.
#[derive(Debug)]
pub(super) struct Admission {
    /// Locked for reading by packages that share the tree, for writing by one that is alone.
    lock: Arc<RwLock<()>>,
    /// The number of packages in the tree that have not [left](Occupant::leave).
    occupants: Arc<watch::Sender<usize>>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            lock: Arc::default(),
            occupants: Arc::new(watch::Sender::new(0)),
        }
    }
}

/// The permission to be in the tree, until it is dropped.
#[derive(Debug)]
pub(super) enum Admitted {
    WithOthers(#[expect(dead_code, reason = "held")] OwnedRwLockReadGuard<()>),
    Alone(#[expect(dead_code, reason = "held")] OwnedRwLockWriteGuard<()>),
}

impl Admission {
    /// Waits until no package is alone in the tree or waits to be alone.
    pub(super) async fn with_others(&self) -> Admitted {
        Admitted::WithOthers(Arc::clone(&self.lock).read_owned().await)
    }

    /// Waits until the tree is empty. Packages that come later wait behind this one, so that it does not starve. `waits` receives the
    /// number of packages in the tree, each time it changes.
    pub(super) async fn alone(&self, waits: &(dyn Fn(usize) + Send + Sync)) -> Admitted {
        let admitted = Arc::clone(&self.lock).write_owned();
        tokio::pin!(admitted);
        let mut occupants = self.occupants.subscribe();
        let mut reported = 0;
        loop {
            let count = *occupants.borrow_and_update();
            tokio::select! {
                biased;
                // Cancel-safe: the same future is polled in the next round.
                lock = &mut admitted => return Admitted::Alone(lock),
                () = std::future::ready(()), if count != reported => {
                    waits(count);
                    reported = count;
                }
                // Cancel-safe per docs on `changed`. The sender lives as long as this tree.
                Ok(()) = occupants.changed() => {}
            }
        }
    }

    /// Counts a package.
    pub(super) fn count(&self) -> Occupant {
        self.occupants.send_modify(|count| *count += 1);
        Occupant {
            occupants: Arc::clone(&self.occupants),
            has_left: AtomicBool::new(false),
        }
    }

    /// The number of counted packages.
    pub(super) fn occupants(&self) -> usize {
        *self.occupants.borrow()
    }
}

/// A counted package. It counts until its script has ended, which [`leave`](Self::leave) reports, or until it is dropped.
#[derive(Debug)]
pub(super) struct Occupant {
    occupants: Arc<watch::Sender<usize>>,
    has_left: AtomicBool,
}

impl Occupant {
    pub(super) fn leave(&self) {
        if !self.has_left.swap(true, Ordering::AcqRel) {
            self.occupants
                .send_modify(|count| *count = count.saturating_sub(1));
        }
    }
}

impl Drop for Occupant {
    fn drop(&mut self) {
        self.leave();
    }
}
