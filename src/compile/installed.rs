//! An installed package in the store. The directory with its files is its tree. The state of these files is saved in a record, with which
//! the tree is compared before a dependent uses it. A changed tree is reinstalled from the package's compiled blob.

use std::fs::File;
use std::io::Seek;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::small_files;
use crate::fs::{self, Context as _, Record};
use crate::release::digest::{Algorithm, DigestMismatch};
use crate::release::{Digests, MultiDigest};
use crate::runtime::Cancellable;

/// An installed package in the store. Clones share its state.
#[derive(Debug, Clone)]
pub struct Installed(Arc<State>);

#[derive(Debug)]
struct State {
    sealed: Mutex<SealedTree>,
    /// Locked while the tree is replaced.
    replacing: Mutex<()>,
    blob: watch::Sender<BlobState>,
    /// The contents of the package's environment files for dependents (`bosh/*.env`), read when the tree was sealed.
    environment_files: Vec<String>,
    is_unrestricted: AtomicBool,
}

/// A tree, its record, and the time of the last successful check.
#[derive(Debug, Clone)]
pub(super) struct SealedTree {
    pub(super) tree: PathBuf,
    pub(super) record: Arc<Record>,
    pub(super) verified: Instant,
    /// Earlier trees, which were changed and replaced. Scripts may still have them mounted.
    replaced: Vec<PathBuf>,
}

#[derive(Debug, Clone)]
enum BlobState {
    /// The package is not packed yet.
    Expected,
    Available(KnownBlob),
    /// There will be no blob.
    None,
}

/// A blob and its expected digest. The digest is verified before each use, because scripts may have changed the blob.
#[derive(Debug, Clone)]
pub(super) struct KnownBlob {
    pub(super) file: PathBuf,
    pub(super) digest: MultiDigest,
}

/// Why a blob cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum KnownBlobError {
    /// The blob cannot be read.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The blob was changed after its digest had been verified.
    #[error(transparent)]
    Changed(#[from] DigestMismatch),
}

impl KnownBlob {
    /// Chooses the digest to verify. `None` if there are no digests.
    pub(super) fn new(file: &Path, digests: &Digests) -> Option<Self> {
        let preferred = [Algorithm::Sha256, Algorithm::Sha512, Algorithm::Sha1];
        let algorithm = preferred
            .into_iter()
            .find(|it| digests.get(*it).is_some())?;
        Some(Self {
            file: file.to_owned(),
            digest: MultiDigest::of(digests, &[algorithm])?,
        })
    }

    /// Verifies the digest and opens the blob.
    pub(super) fn open(&self, cancel: &CancellationToken) -> Result<File, KnownBlobError> {
        let mut file = fs::open_file(&self.file)?;
        let reader = Cancellable::new(&mut file, cancel);
        let (digests, _) =
            Digests::of_reader(reader, &self.digest.algorithms()).at("read", &self.file)?;
        self.digest.verify(&digests)?;
        file.rewind().at("read", &self.file)?;
        Ok(file)
    }
}

impl Installed {
    /// A package without a blob. [`set_blob`](Self::set_blob) can add a blob later.
    pub(super) fn new(tree: PathBuf, record: Record) -> Self {
        Self::with(tree, record, BlobState::None)
    }

    /// A package that is packed later. [`blob`](Self::blob) waits for the end of packing.
    pub(super) fn to_be_packed(tree: PathBuf, record: Record) -> Self {
        Self::with(tree, record, BlobState::Expected)
    }

    fn with(tree: PathBuf, record: Record, blob: BlobState) -> Self {
        Self(Arc::new(State {
            environment_files: small_files::read(&tree.join("bosh"), |name| name.ends_with(".env")),
            sealed: Mutex::new(SealedTree {
                tree,
                record: Arc::new(record),
                verified: Instant::now(),
                replaced: Vec::new(),
            }),
            replacing: Mutex::default(),
            is_unrestricted: AtomicBool::new(false),
            blob: watch::Sender::new(blob),
        }))
    }

    /// The contents of the environment files for dependents (`bosh/*.env`) at the time of sealing.
    pub(super) fn environment_files(&self) -> &[String] {
        &self.0.environment_files
    }

    /// The root of the installed tree.
    #[must_use]
    pub fn tree(&self) -> PathBuf {
        self.lock().tree.clone()
    }

    /// Records that the package, or one that it was compiled against, is the result of an unrestricted run (see
    /// [`Compiled::unrestricted`](super::job::Compiled::unrestricted)). Call this before the package's dependents start.
    pub(super) fn mark_unrestricted(&self) {
        self.0.is_unrestricted.store(true, Ordering::Relaxed);
    }

    /// Whether the package, or one that it was compiled against, is the result of an unrestricted run.
    pub(super) fn is_unrestricted(&self) -> bool {
        self.0.is_unrestricted.load(Ordering::Relaxed)
    }

    /// All trees of the package: the replaced trees, and the tree in use.
    pub(super) fn trees(&self) -> Vec<PathBuf> {
        let sealed = self.lock();
        let replaced = sealed.replaced.iter().cloned();
        replaced.chain([sealed.tree.clone()]).collect()
    }

    pub(super) fn sealed(&self) -> SealedTree {
        self.lock().clone()
    }

    /// Records that the tree was equal to its record at `moment`.
    pub(super) fn mark_verified(&self, tree: &Path, moment: Instant) {
        let mut sealed = self.lock();
        if sealed.tree == tree {
            sealed.verified = sealed.verified.max(moment);
        }
    }

    /// Replaces a changed tree with the tree that `make` creates. Returns `false` if the changed tree was already replaced.
    pub(super) fn replace<E>(
        &self,
        changed: &Path,
        make: impl FnOnce() -> Result<(PathBuf, Record), E>,
    ) -> Result<bool, E> {
        let _replacing = self.0.replacing.lock();
        if self.tree() != changed {
            return Ok(false);
        }
        let (tree, record) = make()?;
        let mut sealed = self.lock();
        let old = std::mem::replace(&mut sealed.tree, tree);
        sealed.replaced.push(old);
        sealed.record = Arc::new(record);
        sealed.verified = Instant::now();
        Ok(true)
    }

    /// Records that the blob is about to be removed. The package can then no longer be reinstalled.
    pub fn forget_blob(&self) {
        self.set_blob(None);
    }

    /// Sets the blob after packing, or `None` if there will be no blob.
    pub(super) fn set_blob(&self, blob: Option<KnownBlob>) {
        let state = blob.map_or(BlobState::None, BlobState::Available);
        self.0.blob.send_replace(state);
    }

    /// Waits until the package is packed and returns the blob. `None` if there is no blob, and after a cancellation. Call this on a
    /// blocking thread of the runtime.
    pub(super) fn blob(&self, cancel: &CancellationToken) -> Option<KnownBlob> {
        let mut blob = self.0.blob.subscribe();
        let decided = async {
            tokio::select! {
                // Cancel-safe per docs on `wait_for`. The sender lives as long as `self`.
                state = blob.wait_for(|it| !matches!(it, BlobState::Expected)) => {
                    state.ok().map(|state| state.clone())
                }
                () = cancel.cancelled() => None,
            }
        };
        match tokio::runtime::Handle::current().block_on(decided) {
            Some(BlobState::Available(blob)) => Some(blob),
            Some(BlobState::Expected | BlobState::None) | None => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, SealedTree> {
        self.0.sealed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for Installed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Installed {}
