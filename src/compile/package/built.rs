//! A built package and the state of its packing.

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
    /// The tree in the store. `None` if it was packed where it was and has no dependents.
    pub installed: Option<Installed>,
    pub(super) packing: Packing,
    /// See [`Compiled::unrestricted`](crate::compile::Compiled::unrestricted).
    pub(super) unrestricted: bool,
    pub(super) findings: Vec<Finding>,
    pub(super) elapsed: Duration,
    pub(super) script: Option<ScriptEnd>,
    /// The package's directories, if no other package waits for them. The caller of the build removes them.
    pub place: Option<UsedPlace>,
}

impl Built {
    /// Marks the package, and what will be compiled against it, if the package or one of its dependencies is the result of an unrestricted
    /// run. Call this before its dependents start.
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
        /// The compression of the source, which the blob gets, too.
        compression: Compression,
    },
    /// It had to be packed before its tree was sealed, or where it was.
    Done(CompiledBlob),
}

/// The tree that a script has installed.
#[derive(Debug)]
pub(super) struct InstalledTree {
    pub(super) path: PathBuf,
    /// Its properties before it was sealed.
    pub(super) unsealed: Unsealed,
    /// Whether its root was created by the agent, not by the script.
    pub(super) has_own_root: bool,
}

#[derive(Debug)]
pub(super) struct CompiledBlob {
    pub(super) size: u64,
    pub(super) digests: Digests,
    /// Problems of the packed files.
    pub(super) findings: Vec<Finding>,
}
