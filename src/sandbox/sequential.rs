//! `--isolation=none`: one package after another uses the base directory itself, as with the Go agent.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::blocking::{UndoOnDrop, blocking};
use super::error::SandboxError;
use super::request::{PlaceRequest, PrivateNames};
use super::shared_tree::SharedTree;
use super::waits::ReportOnce;
use crate::release::Name;

/// The shared tree of one run, and the turn of the package in it.
#[derive(Debug)]
pub struct Sequential {
    tree: SharedTree,
    /// Locked by the package that is in the tree.
    turn: Arc<Mutex<()>>,
}

/// The place of the package in the tree.
#[derive(Debug)]
pub(super) struct SequentialPlace {
    #[expect(dead_code, reason = "held")]
    turn: OwnedMutexGuard<()>,
    /// Data directories that are removed with the package.
    private: PrivateNames,
}

impl Sequential {
    pub(super) fn new(tree: SharedTree) -> Self {
        Self {
            tree,
            turn: Arc::default(),
        }
    }

    pub(super) fn tree(&self) -> &SharedTree {
        &self.tree
    }

    /// Waits until no package is in the tree, and empties it.
    pub(super) async fn enter(
        self: &Arc<Self>,
        request: PlaceRequest,
        waits: &(dyn Fn() + Send + Sync),
    ) -> Result<Arc<SequentialPlace>, SandboxError> {
        let turn = Arc::clone(&self.turn).lock_owned();
        let turn = ReportOnce::new(waits).unless_ready(turn).await;
        let own = Arc::clone(self);
        let entered = blocking("enter", move || {
            own.tree.clear_for(&request.names())?;
            let private = PrivateNames::default();
            if own.tree.shares_scratch() {
                own.tree.share(&request.scratch)?;
            } else {
                // The scratch directories are not created in advance, as on a VM that has compiled nothing yet.
                own.note_private(&private, request.scratch)?;
            }
            let place = SequentialPlace { turn, private };
            let undo = move |place: &SequentialPlace| own.leave(place);
            Ok(UndoOnDrop::new(place, undo))
        });
        entered.await.map(UndoOnDrop::keep)
    }

    /// Notes data directories that the script may create, so that they are removed with the package.
    pub(super) async fn claim(
        self: &Arc<Self>,
        place: &SequentialPlace,
        names: &BTreeSet<Name>,
    ) -> Result<(), SandboxError> {
        let (own, private) = (Arc::clone(self), place.private.clone());
        let names: Vec<Name> = names.iter().cloned().collect();
        blocking("claim", move || own.note_private(&private, names)).await
    }

    fn note_private(&self, private: &PrivateNames, names: Vec<Name>) -> Result<(), SandboxError> {
        private.extend(|private| {
            for name in names {
                if self.tree.make_private(&name, false)? {
                    private.push(name);
                }
            }
            Ok(())
        })
    }

    /// Removes the package's directories.
    pub(super) fn leave(&self, place: &SequentialPlace) -> Result<(), SandboxError> {
        let removed = self.tree.remove_data(&place.private.leave());
        Ok(removed.and(self.tree.clear())?)
    }

    /// Removes what this run has created.
    pub(super) fn close(&self) -> Result<(), SandboxError> {
        self.tree.close()
    }
}
