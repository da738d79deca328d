//! Downloads: every way of fetching a blob ends here, in a file with verified digests.

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

/// How many chunks are received ahead of the disk.
const AHEAD: usize = 4;

/// A blob to fetch: its name in messages, its digests and its destination.
///
/// It is written to a temporary file in the directory of its destination. Dropping the `TempPath` removes that file on every failure,
/// also when the future that owns it is dropped.
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
                // Writing failed. The error comes from the writer.
                break;
            }
        }
        drop(sender);
        let digests: io::Result<Digests> = writing.await?;
        self.keep(temporary, digests.at("write", self.to)?).await
    }

    /// Copies a file.
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

    /// A temporary file for a program that writes the blob; see [`check`](Self::check).
    pub(super) async fn temporary(&self) -> Result<TempPath, AttemptError> {
        Ok(self.create().await?.into_temp_path())
    }

    /// Accepts the file that a program wrote.
    pub(super) async fn check(
        &self,
        temporary: TempPath,
        cancel: &CancellationToken,
    ) -> Result<(), AttemptError> {
        let (path, to) = (temporary.to_path_buf(), self.to.to_owned());
        let (algorithms, cancel) = (self.digest.algorithms(), cancel.clone());
        let digests = on_disk("hash", move || {
            // The program may have replaced the file.
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

    /// Verifies the digests, then gives the file its name.
    async fn keep(&self, temporary: TempPath, digests: Digests) -> Result<(), AttemptError> {
        self.digest
            .verify(&digests)
            .map_err(|mismatch| AttemptError::digest(self.name, mismatch))?;
        let to = self.to.to_owned();
        on_disk("persist", move || fs::persist(temporary, &to)).await
    }
}
