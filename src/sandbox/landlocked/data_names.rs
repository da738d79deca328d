//! The names of directories in the data directory, other than those of packages, that packages use.

use std::collections::BTreeSet;

use crate::release::Name;

/// Names by use.
#[derive(Debug, Default)]
pub(super) struct DataNames {
    /// Scratch that packages share.
    pub(super) shared: BTreeSet<Name>,
    /// Directories that one package has to itself.
    pub(super) private: BTreeSet<Name>,
}

impl DataNames {
    pub(super) fn contains(&self, name: &Name) -> bool {
        self.shared.contains(name) || self.private.contains(name)
    }
}
