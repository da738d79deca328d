//! A package whose script has succeeded: what its dependents and packing need of it.

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

/// A package whose script has done its work. Others can be compiled against it, and it is still to be packed.
#[derive(Debug)]
pub(in crate::compile) struct Built {
    pub(super) job: Arc<Job>,
    /// What was installed. `None` where it was packed in its place and nobody needs it.
    pub installed: Option<Installed>,
    pub(super) rest: Rest,
    pub(super) unrestricted: bool,
    pub(super) findings: Vec<Finding>,
    pub(super) elapsed: Duration,
    pub(super) script: Option<ScriptEnd>,
    /// The package's directories, where they are in no other package's way. Whoever has built the package removes them.
    pub left: Option<Left>,
}

/// Directories of a package that has been built.
#[derive(Debug)]
pub(in crate::compile) struct Left(pub(super) Arc<Place>);

impl Left {
    /// Removes them.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub(in crate::compile) fn remove(&self, context: &Context) -> Result<(), SandboxError> {
        context.sandbox.leave(&self.0)
    }
}

/// What is still to be done for a package.
#[derive(Debug)]
pub(super) enum Rest {
    /// Its tree is to be packed.
    Pack {
        tree: Tree,
        /// How the source was compressed, and so the blob.
        compression: Compression,
    },
    /// Nothing: it had to be packed in its place.
    Nothing(Packed),
}

/// What is to be packed.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) path: PathBuf,
    /// What it was before it was sealed.
    pub(super) unsealed: Unsealed,
    /// Whether its root is a directory that was made for the package, not by the script.
    pub(super) is_ours: bool,
}

/// A compiled blob.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) size: u64,
    pub(super) digests: Digests,
    /// What a person should know of what is in it.
    pub(super) findings: Vec<Finding>,
}
