//! A package after its script has succeeded (*built*), and the state of its packing. Its installed files are a tree in the store.
//! Dependents can already use this tree.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::archive::Compression;
use crate::compile::context::Context;
use crate::compile::finding::Finding;
use crate::compile::installed::Installed;
use crate::compile::job::Job;
use crate::compile::seal::Unsealed;
use crate::release::Digests;
use crate::sandbox::{Place, SandboxError, ScriptEnd};

/// A package whose script has succeeded. Its dependents can start, and it is packed later.
#[derive(Debug)]
pub(in crate::compile) struct Built {
    pub(super) job: Arc<Job>,
    /// The tree in the store. `None` for a package without dependents that was packed in its install directory.
    pub installed: Option<Installed>,
    pub(super) packing: Packing,
    /// See [`Compiled::unrestricted`](crate::compile::Compiled::unrestricted).
    pub(super) unrestricted: bool,
    pub(super) findings: Vec<Finding>,
    pub(super) elapsed: Duration,
    pub(super) script: Option<ScriptEnd>,
    /// The package's directories, which the caller of the build removes. `None` if they are already removed: packages that share a tree
    /// leave it as soon as possible.
    pub place: Option<UsedPlace>,
}

impl Built {
    /// Marks the package as the result of an unrestricted run if one of its dependencies has this mark. Passes the mark on to the package's
    /// dependents. Call this before the dependents start.
    pub(super) fn inherit_unrestricted(&mut self) {
        let mut dependencies = self.job.dependencies.iter();
        self.unrestricted |= dependencies.any(|it| it.installed.is_unrestricted());
        if self.unrestricted
            && let Some(installed) = &self.installed
        {
            installed.mark_unrestricted();
        }
    }
}

/// The directories of a built package.
#[derive(Debug)]
pub(in crate::compile) struct UsedPlace(pub(super) Arc<Place>);

impl UsedPlace {
    /// Removes the directories. Blocks.
    ///
    /// # Errors
    /// If a directory cannot be removed.
    pub(in crate::compile) fn remove(&self, context: &Context) -> Result<(), SandboxError> {
        context.sandbox.leave(&self.0)
    }
}

/// The state of packing.
#[derive(Debug)]
pub(super) enum Packing {
    Pending {
        tree: InstalledTree,
        /// The compression of the source. The compiled blob gets the same compression.
        compression: Compression,
    },
    /// The package is already packed, because sealing removes devices from the tree, or because the tree cannot be moved into the store.
    Done(CompiledBlob),
}

/// The tree that a script has installed.
#[derive(Debug)]
pub(super) struct InstalledTree {
    pub(super) path: PathBuf,
    /// The properties that the tree had before sealing.
    pub(super) unsealed: Unsealed,
    /// Whether the agent, not the script, created the root of the tree.
    pub(super) agent_made_root: bool,
}

#[derive(Debug)]
pub(super) struct CompiledBlob {
    pub(super) size: u64,
    pub(super) digests: Digests,
    /// The problems that were found in the packed files.
    pub(super) findings: Vec<Finding>,
}
