//! Writes a fetched blob to a file and verifies its digests, wherever the blob comes from.

use std::io::{self, Write as _};
use std::path::Path;

use bytes::Bytes;
use tempfile::{NamedTempFile, TempPath};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::AttemptError;
use super::on_disk::on_disk;
use crate::fs::{self, Context as _};
use crate::http::Response;
use crate::release::digest::{Hasher, HashingWriter};
use crate::release::{Digests, MultiDigest};
use crate::runtime::{self, Cancellable};

/// The maximum number of received chunks that wait to be written.
const AHEAD: usize = 4;

/// A blob to fetch: its name in messages, its digests and its destination.
///
/// The blob is written to a temporary file in the directory of the destination. Dropping the
/// `TempPath` removes that file, after a failure and also if the future that owns the path is
/// dropped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Download<'a> {
    name: &'a str,
    digest: &'a MultiDigest,
    to: &'a Path,
}

impl<'a> Download<'a> {
    pub(super) fn new(name: &'a str, digest: &'a MultiDigest, to: &'a Path) -> Self {
        Self { name, digest, to }
    }

    /// Receives the body of a response.
    pub(super) async fn receive(&self, mut response: Response) -> Result<(), AttemptError> {
        let (file, temporary) = self.create().await?.into_parts();
        let (sender, mut chunks) = mpsc::channel::<Bytes>(AHEAD);
        let mut writer = HashingWriter::new(file, self.hasher());
        let writing = runtime::spawn_blocking("download", move || {
            while let Some(chunk) = chunks.blocking_recv() {
                writer.write_all(&chunk)?;
            }
            Ok(writer.finish().1)
        });
        while let Some(chunk) = response.chunk().await? {
            if sender.send(chunk).await.is_err() {
                // The writer has failed. Its error is returned below.
                break;
            }
        }
        drop(sender);
        let digests: io::Result<Digests> = writing.await?;
        self.keep(temporary, digests.at("write", self.to)?).await
    }

    /// Copies the blob from a local file.
    pub(super) async fn copy(
        &self,
        from: &Path,
        cancel: &CancellationToken,
    ) -> Result<(), AttemptError> {
        let (mut file, temporary) = self.create().await?.into_parts();
        let (from, to) = (from.to_owned(), self.to.to_owned());
        let (hasher, cancel) = (self.hasher(), cancel.clone());
        let digests = on_disk("copy", move || {
            let mut from = Cancellable::new(fs::open(&from)?, &cancel);
            let mut out = HashingWriter::new(&mut file, hasher);
            io::copy(&mut from, &mut out).at("copy to", &to)?;
            Ok(out.finish().1)
        })
        .await?;
        self.keep(temporary, digests).await
    }

    /// Creates a temporary file for a program that writes the blob; see [`check`](Self::check).
    pub(super) async fn temporary(&self) -> Result<TempPath, AttemptError> {
        Ok(self.create().await?.into_temp_path())
    }

    /// Verifies the file that a program wrote, and renames it to the destination.
    pub(super) async fn check(
        &self,
        temporary: TempPath,
        cancel: &CancellationToken,
    ) -> Result<(), AttemptError> {
        let (path, to) = (temporary.to_path_buf(), self.to.to_owned());
        let (algorithms, cancel) = (self.digest.algorithms(), cancel.clone());
        let digests = on_disk("hash", move || {
            // The program may have replaced the file by one with another mode.
            fs::set_mode(&path, 0o600)?;
            let file = Cancellable::new(fs::open(&path)?, &cancel);
            Ok(Digests::of_reader(file, &algorithms).at("read", &to)?.0)
        })
        .await?;
        self.keep(temporary, digests).await
    }

    async fn create(&self) -> Result<NamedTempFile, AttemptError> {
        let to = self.to.to_owned();
        on_disk("create", move || fs::temporary_next_to(&to)).await
    }

    fn hasher(&self) -> Hasher {
        Hasher::new(&self.digest.algorithms())
    }

    /// Verifies the digests, then renames the file to the destination.
    async fn keep(&self, temporary: TempPath, digests: Digests) -> Result<(), AttemptError> {
        self.digest
            .verify(&digests)
            .map_err(|mismatch| AttemptError::digest(self.name, mismatch))?;
        let to = self.to.to_owned();
        on_disk("persist", move || fs::persist(temporary, &to)).await
    }
}
