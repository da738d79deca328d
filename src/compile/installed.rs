//! An installed package: its tree, what that was when it was sealed, and the blob that it can be installed from again.

use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::small_files;
use crate::fs::{self, Context as _, Record};
use crate::release::digest::{Algorithm, DigestMismatch, Hasher, HashingReader};
use crate::release::{Digests, MultiDigest};
use crate::runtime::Cancellable;

/// An installed package in the store. Clones are the same package.
#[derive(Debug, Clone)]
pub struct Installed(Arc<State>);

#[derive(Debug)]
struct State {
    known: Mutex<Known>,
    /// Held while the tree is replaced.
    replacing: Mutex<()>,
    blob: watch::Sender<BlobState>,
    /// The contents of the environment files for dependents (`bosh/*.env`), read when the tree was sealed.
    environment_files: Vec<String>,
}

/// A tree, and what it was when it was last known to be good.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) tree: PathBuf,
    pub(super) record: Arc<Record>,
    pub(super) good: Instant,
    /// Trees that were changed, and may still be mounted.
    changed: Vec<PathBuf>,
}

#[derive(Debug, Clone)]
enum BlobState {
    /// The package is still to be packed.
    Expected,
    There(KnownBlob),
    /// There is none, and there will be none.
    None,
}

/// A blob with its digest, which is verified before each use: scripts may have run since the last time.
#[derive(Debug, Clone)]
pub(super) struct KnownBlob {
    pub(super) file: PathBuf,
    pub(super) digest: MultiDigest,
}

/// Why a blob cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum BlobError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// It was changed after its digest had been verified.
    #[error(transparent)]
    Changed(#[from] DigestMismatch),
}

impl KnownBlob {
    /// `None` without any digest. One is enough.
    pub(super) fn new(file: &Path, digests: &Digests) -> Option<Self> {
        let preferred = [Algorithm::Sha256, Algorithm::Sha512, Algorithm::Sha1];
        let known = preferred.into_iter().find(|it| digests.get(*it).is_some());
        Some(Self {
            file: file.to_owned(),
            digest: MultiDigest::of(digests, &[known?])?,
        })
    }

    /// Opens the blob, once its digest was verified.
    pub(super) fn open(&self, cancel: &CancellationToken) -> Result<File, BlobError> {
        let mut file = fs::open(&self.file)?;
        let hasher = Hasher::new(&self.digest.algorithms());
        let mut reader = HashingReader::new(Cancellable::new(&mut file, cancel), hasher);
        io::copy(&mut reader, &mut io::sink()).at("read", &self.file)?;
        let (_, digests) = reader.finish();
        self.digest.verify(&digests)?;
        file.rewind().at("read", &self.file)?;
        Ok(file)
    }
}

impl Installed {
    /// A package that is not packed here. Its blob may be told later.
    pub(super) fn new(tree: PathBuf, record: Record) -> Self {
        Self::with(tree, record, BlobState::None)
    }

    /// A package that is still to be packed.
    pub(super) fn to_be_packed(tree: PathBuf, record: Record) -> Self {
        Self::with(tree, record, BlobState::Expected)
    }

    fn with(tree: PathBuf, record: Record, blob: BlobState) -> Self {
        Self(Arc::new(State {
            environment_files: small_files::read(&tree.join("bosh"), |name| name.ends_with(".env")),
            known: Mutex::new(Known {
                tree,
                record: Arc::new(record),
                good: Instant::now(),
                changed: Vec::new(),
            }),
            replacing: Mutex::default(),
            blob: watch::Sender::new(blob),
        }))
    }

    /// The contents of the environment files that the package installed for its dependents, before any other script could change them.
    pub(super) fn environment_files(&self) -> &[String] {
        &self.0.environment_files
    }

    /// The root of what the package installed.
    #[must_use]
    pub fn tree(&self) -> PathBuf {
        self.lock().tree.clone()
    }

    /// All trees of the package: the one in use, and those that were changed.
    pub(super) fn trees(&self) -> Vec<PathBuf> {
        let known = self.lock();
        let changed = known.changed.iter().cloned();
        changed.chain([known.tree.clone()]).collect()
    }

    pub(super) fn known(&self) -> Known {
        self.lock().clone()
    }

    /// At that moment the tree was what its record says.
    pub(super) fn was_good(&self, tree: &Path, moment: Instant) {
        let mut known = self.lock();
        if known.tree == tree {
            known.good = known.good.max(moment);
        }
    }

    /// Has `make` make another tree in the place of one that was changed. `false` where another one has been made already.
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
        let mut known = self.lock();
        let old = std::mem::replace(&mut known.tree, tree);
        known.changed.push(old);
        known.record = Arc::new(record);
        known.good = Instant::now();
        Ok(true)
    }

    /// Notes that the blob is about to be removed, so that the package cannot be installed from it again.
    pub fn forget_blob(&self) {
        self.set_blob(None);
    }

    /// The blob is there, or there will be none.
    pub(super) fn set_blob(&self, blob: Option<KnownBlob>) {
        let state = blob.map_or(BlobState::None, BlobState::There);
        self.0.blob.send_replace(state);
    }

    /// The blob, as soon as the package has been packed. `None` when there is none, and when `cancel` is called. Blocks, on a
    /// thread of the runtime that may.
    pub(super) fn blob(&self, cancel: &CancellationToken) -> Option<KnownBlob> {
        let mut blob = self.0.blob.subscribe();
        let decided = async {
            tokio::select! {
                // Cancel-safe per docs on `wait_for`. The sender lives as long as this.
                state = blob.wait_for(|it| !matches!(it, BlobState::Expected)) => {
                    state.ok().map(|state| state.clone())
                }
                () = cancel.cancelled() => None,
            }
        };
        match tokio::runtime::Handle::current().block_on(decided) {
            Some(BlobState::There(blob)) => Some(blob),
            Some(BlobState::Expected | BlobState::None) | None => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for Installed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Installed {}
