//! Blobs in a local directory, in the files `PATH/ID`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::on_disk::on_disk;
use super::options::StoreOptions;
use super::{AttemptError, BlobId, StoreProblem};
use crate::config::Vcap;
use crate::fs::{self, Context as _};
use crate::runtime::Cancellable;

/// The `blobstore_path` in the settings of a machine that `bosh create-env` creates. The CLI uploads
/// blobs to the agent itself, so this path means the agent's own blob directory, as in the Go agent.
const MICRO_BOSH: &str = "/var/vcap/micro_bosh/data/cache";

#[derive(Debug)]
pub(super) struct Local {
    directory: PathBuf,
}

impl Local {
    pub(super) fn new(options: StoreOptions<'_>, vcap: &Vcap) -> Result<Self, StoreProblem> {
        let path = options
            .text("blobstore_path")
            .map_err(|source| StoreProblem::Option {
                provider: "local",
                source,
            })?
            .filter(|path| !path.is_empty())
            .ok_or(StoreProblem::Missing {
                provider: "local",
                option: "blobstore_path",
            })?;
        Ok(Self {
            directory: if path == MICRO_BOSH {
                vcap.blobs()
            } else {
                path.into()
            },
        })
    }

    pub(super) fn file(&self, id: &BlobId) -> PathBuf {
        self.directory.join(id.as_str())
    }

    /// Copies a file into the directory under a temporary name, and renames it when it is complete.
    pub(super) async fn put(
        &self,
        from: &Path,
        id: &BlobId,
        cancel: &CancellationToken,
    ) -> Result<(), AttemptError> {
        let (directory, to) = (self.directory.clone(), self.file(id));
        let own = to.clone();
        let (mut file, temporary) = on_disk("create", move || {
            fs::create_dir_all_with_mode(&directory, 0o770)?;
            fs::temporary_next_to(&own)
        })
        .await?
        .into_parts();
        let (source, cancel) = (from.to_owned(), cancel.clone());
        on_disk("copy", move || {
            let mut reader = Cancellable::new(fs::open(&source)?, &cancel);
            io::copy(&mut reader, &mut file).at("copy", &source)
        })
        .await?;
        // Rename in a separate step: if the upload is canceled before, the temporary path is
        // dropped, which removes the file.
        on_disk("persist", move || {
            fs::set_mode(&temporary, 0o640)?;
            fs::persist(temporary, &to)
        })
        .await
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local blobstore {}", self.directory.display())
    }
}
