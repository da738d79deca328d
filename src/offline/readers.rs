//! Readers that wrap an input: one hashes the data that is read, one keeps the first bytes.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::lookalike;
use crate::release::digest::{BlobDigests, BlobHasher};

/// The hash of the data that a [`Hashed`] has read so far.
#[derive(Clone)]
pub(super) struct SharedHasher(Arc<Mutex<BlobHasher>>);

impl SharedHasher {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(BlobHasher::new(&[]))))
    }

    pub(super) fn digests(&self) -> BlobDigests {
        locked(&self.0).clone().finish()
    }
}

/// A reader that hashes what is read through it.
pub(super) struct Hashed<R> {
    inner: R,
    hasher: SharedHasher,
}

impl<R> Hashed<R> {
    pub(super) fn new(inner: R, hasher: SharedHasher) -> Self {
        Self { inner, hasher }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        locked(&self.hasher.0).update(&buffer[..count]);
        Ok(count)
    }
}

/// A reader that keeps the first bytes, as many as [`Lookalike`](lookalike::Lookalike) examines.
pub(crate) struct Prefixed<R> {
    inner: R,
    prefix: Prefix,
    is_complete: bool,
}

/// The first bytes of a reader, as far as it was read.
#[derive(Clone, Default)]
pub(super) struct Prefix(Arc<Mutex<Vec<u8>>>);

impl Prefix {
    pub(super) fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        locked(&self.0)
    }
}

impl<R> Prefixed<R> {
    pub(super) fn new(inner: R) -> (Self, Prefix) {
        let prefix = Prefix::default();
        let reader = Self {
            inner,
            prefix: prefix.clone(),
            is_complete: false,
        };
        (reader, prefix)
    }

    pub(crate) fn inner(&self) -> &R {
        &self.inner
    }
}

impl<R: Read> Read for Prefixed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if !self.is_complete {
            let mut prefix = self.prefix.bytes();
            let wanted = lookalike::BEGINNING.saturating_sub(prefix.len()).min(count);
            prefix.extend_from_slice(&buffer[..wanted]);
            self.is_complete = prefix.len() >= lookalike::BEGINNING;
        }
        Ok(count)
    }
}

/// Locks a value, which stays usable after a panic in another thread.
fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
