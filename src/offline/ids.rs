//! The ids of the releases and packages of a run.

use crate::compile;

/// A release of a run: the position of its tarball among the inputs, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ReleaseId(usize);

impl ReleaseId {
    pub(super) fn from_position(position: usize) -> Self {
        Self(position)
    }

    pub(super) fn position(self) -> usize {
        self.0
    }
}

/// A package of a run: its index in the graph of all releases. The schedule has the packages in the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(usize);

impl NodeId {
    pub(super) fn from_index(index: usize) -> Self {
        Self(index)
    }

    pub(super) fn index(self) -> usize {
        self.0
    }
}

impl From<compile::Id> for NodeId {
    fn from(id: compile::Id) -> Self {
        Self(id.index())
    }
}
