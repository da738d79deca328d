//! Blobs on their way in.

use std::io::{self, Write as _};
use std::path::Path;

use bytes::Bytes;
use tempfile::TempPath;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Cause;
use crate::fs::{self, Context as _};
use crate::http::Response;
use crate::release::digest::{Hasher, HashingReader, HashingWriter};
use crate::release::{Digests, MultiDigest};
use crate::runtime::{self, Cancellable};

/// How many chunks wait for the disk before the network has to.
const AHEAD: usize = 4;

/// A blob that is wanted: its name in messages, what it must be, and where it shall be.
///
/// It comes into a temporary file beside its place, which is removed on every way that does not end well: by the drop of
/// its `TempPath`, also when the future that holds it is dropped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    name: &'a str,
    digest: &'a MultiDigest,
    to: &'a Path,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(name: &'a str, digest: &'a MultiDigest, to: &'a Path) -> Self {
        Self { name, digest, to }
    }

    /// Takes the body of an answer.
    pub(super) async fn receive(&self, mut response: Response) -> Result<(), Cause> {
        let (file, temporary) = fs::temporary_beside(self.to)?.into_parts();
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
                // The disk does not take any more, and says why.
                break;
            }
        }
        drop(sender);
        let digests: io::Result<Digests> = writing.await?;
        self.keep(temporary, &digests.at("write", self.to)?)
    }

    /// Takes a copy of a file.
    pub(super) async fn copy(&self, from: &Path, cancel: &CancellationToken) -> Result<(), Cause> {
        let (mut file, temporary) = fs::temporary_beside(self.to)?.into_parts();
        let (from, to) = (from.to_owned(), self.to.to_owned());
        let (hasher, cancel) = (self.hasher(), cancel.clone());
        let copying = runtime::spawn_blocking("copy", move || {
            let mut reader =
                HashingReader::new(Cancellable::new(fs::open(&from)?, &cancel), hasher);
            io::copy(&mut reader, &mut file).at("copy to", &to)?;
            Ok::<_, fs::Error>(reader.finish().1)
        });
        let digests = copying.await??;
        self.keep(temporary, &digests)
    }

    /// A file for somebody else to write the blob into, to be handed to [`check`](Self::check).
    pub(super) fn temporary(&self) -> fs::Result<TempPath> {
        Ok(fs::temporary_beside(self.to)?.into_temp_path())
    }

    /// Takes what somebody else has written.
    pub(super) async fn check(
        &self,
        temporary: TempPath,
        cancel: &CancellationToken,
    ) -> Result<(), Cause> {
        // A writer may have put another file in its place.
        fs::set_mode(&temporary, 0o600)?;
        let file = Cancellable::new(fs::open(&temporary)?, cancel);
        let mut reader = HashingReader::new(file, self.hasher());
        let hashing = runtime::spawn_blocking("hash", move || {
            io::copy(&mut reader, &mut io::sink())?;
            Ok(reader.finish().1)
        });
        let digests: io::Result<Digests> = hashing.await?;
        self.keep(temporary, &digests.at("read", self.to)?)
    }

    fn hasher(&self) -> Hasher {
        Hasher::new(&self.digest.algorithms())
    }

    fn keep(&self, temporary: TempPath, digests: &Digests) -> Result<(), Cause> {
        self.digest
            .verify(digests)
            .map_err(|mismatch| Cause::digest(self.name, mismatch))?;
        Ok(fs::persist(temporary, self.to)?)
    }
}
