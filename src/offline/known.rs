//! What is known about a package of a run after its search in the cache: a hit (found), a miss, or compiled before.

use std::path::PathBuf;
use std::sync::Arc;

use super::compiled_release::CompiledBlob;
use super::package_keys::Keyed;
use crate::cache::{Entry, Remote};
use crate::diag::Elapsed;
use crate::release::{Name, Version};

/// A package that was found in the cache, and its verified blob.
#[derive(Debug)]
pub(super) struct Hit {
    pub entry: Entry,
    pub blob: Arc<CompiledBlob>,
    pub origin: HitOrigin,
}

/// The cache in which a package was found.
#[derive(Debug, Clone)]
pub(super) enum HitOrigin {
    /// The local cache in this directory.
    Local(PathBuf),
    /// A shared cache.
    Shared(Arc<Remote>),
}

impl HitOrigin {
    /// The name of the cache for the report.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Local(directory) => directory.to_string_lossy().into_owned(),
            Self::Shared(remote) => remote.to_string(),
        }
    }
}

impl Hit {
    /// The line about the package. It starts like the line about a compiled package.
    pub(super) fn line(&self, name: &Name, version: &Version) -> String {
        let from = match &self.origin {
            HitOrigin::Local(_) => String::new(),
            HitOrigin::Shared(remote) => format!(" {remote}"),
        };
        format!(
            "Finished compiling release {name}/{version} BlobstoreID={} after 0.0s, from the cache{from} (compiled in {})",
            self.blob.digest,
            Elapsed(self.entry.elapsed())
        )
    }
}

/// The result of the search for a package.
#[derive(Debug)]
pub(super) enum Known {
    /// The package was compiled before the run, so it is not searched for.
    Compiled,
    /// The package is in the cache.
    Hit(Box<Hit>),
    /// The package must be compiled.
    Miss {
        keyed: Box<Keyed>,
        /// Why the package is not in the cache, as the end of a sentence.
        reason: String,
    },
}
