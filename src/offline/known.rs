//! A package of a run, as far as the cache knows it.

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

/// The cache of a package.
#[derive(Debug, Clone)]
pub(super) enum HitOrigin {
    /// The directory of the local cache.
    Local(PathBuf),
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
    /// The line about the package. It starts as that of a compiled one.
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

/// A package of the run, as far as the cache knows it.
#[derive(Debug)]
pub(super) enum Known {
    /// It was compiled before the run.
    Compiled,
    /// It is in the cache.
    Hit(Box<Hit>),
    /// It must be compiled.
    Miss {
        keyed: Box<Keyed>,
        /// Why, as the end of a sentence.
        reason: String,
    },
}
