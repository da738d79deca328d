//! Directories in the data directory, other than those of packages: shared scratch, and directories that one package has to itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{LandlockPlace, Landlocked};
use crate::release::Name;
use crate::sandbox::blocking::blocking;
use crate::sandbox::error::SandboxError;

impl Landlocked {
    /// Waits until no other package has one of these directories to itself, and gives them to a package. Shared scratch and existing
    /// directories of the machine stay as they are.
    ///
    /// Cancel-safe: directories that were claimed before a cancellation are removed when the package leaves.
    pub(in crate::sandbox) async fn claim(
        self: &Arc<Self>,
        place: &LandlockPlace,
        names: &BTreeSet<Name>,
    ) -> Result<(), SandboxError> {
        let names: BTreeSet<Name> = names.iter().chain(&place.unshared).cloned().collect();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Changes from now on end the wait below.
            changed.as_mut().enable();
            if self.try_claim(place, &names).await? {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Claims the directories, or returns `false` if another package has one of them to itself.
    pub(super) async fn try_claim(
        self: &Arc<Self>,
        place: &LandlockPlace,
        names: &BTreeSet<Name>,
    ) -> Result<bool, SandboxError> {
        let (own, names) = (Arc::clone(self), names.clone());
        let (claimed, has_rules) = (place.private.clone(), place.has_rules);
        blocking("claim", move || {
            let mut data_names = own.data_names();
            if names.iter().any(|name| data_names.private.contains(name)) {
                return Ok(false);
            }
            claimed.extend(|claimed| {
                for name in names {
                    // A script without rules creates its directories itself, and may expect that they do not exist.
                    if !data_names.shared.contains(&name)
                        && own.tree.make_private(&name, has_rules)?
                    {
                        data_names.private.insert(name.clone());
                        claimed.push(name);
                    }
                }
                Ok(())
            })?;
            Ok(true)
        })
        .await
    }

    /// The requested names that packages share.
    pub(super) fn shared<'a>(&self, scratch: &'a [Name]) -> &'a [Name] {
        match self.tree.shares_scratch() {
            true => scratch,
            false => &[],
        }
    }

    /// The requested names that a package gets to itself because packages share none.
    pub(super) fn unshared(
        &self,
        scratch: &[Name],
        is_wanted: impl Fn(&Name) -> bool,
    ) -> Vec<Name> {
        let is_off = !self.tree.shares_scratch();
        let wanted = scratch.iter().filter(|name| is_off && is_wanted(name));
        wanted.cloned().collect()
    }

    /// Makes shared scratch directories.
    pub(super) fn share(&self, scratch: &[Name]) -> Result<(), SandboxError> {
        let shared = self.shared(scratch);
        self.data_names().shared.extend(shared.iter().cloned());
        self.tree.share(shared)
    }

    /// Removes directories that a package had to itself. Those that cannot be removed stay closed to others.
    pub(super) fn release(&self, private: &[Name]) -> Result<(), SandboxError> {
        self.tree.remove_data(private)?;
        let mut data_names = self.data_names();
        for name in private {
            data_names.private.remove(name);
        }
        Ok(())
    }
}
