//! Blobs in a directory: `PATH/ID`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::options::Options;
use super::{BlobId, Cause, StoreProblem};
use crate::config::Vcap;
use crate::fs::{self, Context as _};
use crate::runtime::{self, Cancellable};

/// What `create-env` writes for a machine whose blobs the CLI brings itself. The Go agent, too, means its own directory by it.
const MICRO_BOSH: &str = "/var/vcap/micro_bosh/data/cache";

#[derive(Debug)]
pub(super) struct Local {
    directory: PathBuf,
}

impl Local {
    pub(super) fn new(options: Options<'_>, vcap: &Vcap) -> Result<Self, StoreProblem> {
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

    /// Copies a file into the directory, where it has its name only when it is complete.
    pub(super) async fn put(
        &self,
        from: &Path,
        id: &BlobId,
        cancel: &CancellationToken,
    ) -> Result<(), Cause> {
        fs::create_dir_all_with_mode(&self.directory, 0o770)?;
        let to = self.file(id);
        let (mut file, temporary) = fs::temporary_beside(&to)?.into_parts();
        let (source, cancel) = (from.to_owned(), cancel.clone());
        let copying = runtime::spawn_blocking("copy", move || {
            let mut reader = Cancellable::new(fs::open(&source)?, &cancel);
            io::copy(&mut reader, &mut file).at("copy", &source)
        });
        copying.await??;
        fs::set_mode(&temporary, 0o640)?;
        Ok(fs::persist(temporary, &to)?)
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local blobstore {}", self.directory.display())
    }
}
