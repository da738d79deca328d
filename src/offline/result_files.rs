//! The sizes and digests of a run's results, from the time when they were written: another program may change a result before the report is
//! made.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::call_report::File;
use super::ids::ReleaseId;
use super::verify::WrittenFile;
use crate::release::digest::BlobDigests;

/// The results of a run, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct ResultFiles(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    are_wanted: bool,
    /// The files, without their paths.
    files: BTreeMap<ReleaseId, File>,
}

impl ResultFiles {
    /// Asks for the digests of results, for a report or for documents.
    pub(super) fn want_digests(&self) {
        self.known().are_wanted = true;
    }

    pub(super) fn wants_digests(&self) -> bool {
        self.known().are_wanted
    }

    /// Records a result that the run has written.
    pub(super) fn set_written(&self, id: ReleaseId, written: &WrittenFile) {
        let file = File {
            size: Some(written.size),
            sha1: written.digests.all().sha1().map(str::to_owned),
            ..unchanged(&written.digests)
        };
        self.known().files.insert(id, file);
    }

    /// Records a result that already had its path, by the digests of the bytes that the run has read.
    pub(super) fn set_unchanged(&self, id: ReleaseId, digests: &BlobDigests) {
        self.known().files.insert(id, unchanged(digests));
    }

    /// The file of a result with this path.
    pub(super) fn take(&self, id: ReleaseId, path: String) -> File {
        let known = self.known().files.remove(&id);
        File {
            path,
            ..known.unwrap_or_default()
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // The facts stay usable after a panic in another thread.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unchanged(digests: &BlobDigests) -> File {
    File {
        sha256: Some(digests.sha256().to_owned()),
        ..File::default()
    }
}
