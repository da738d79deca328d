//! The data directory of a daemon, and whether it may be used.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::bootstrap::{BootstrapError, Platform, bootstrap};
use crate::config::Vcap;
use crate::diag::Chain;
use crate::fs::{self, LeasedFile};

/// The data directory. The packaging script of a killed daemon may have replaced it with a link or a mount: until someone has removed that,
/// the agent stores and removes nothing in it, because the files may be those of other programs. Clones share the state.
#[derive(Debug, Clone)]
pub struct DataDirectory {
    vcap: Vcap,
    /// The platform for the bootstrap that must precede the use of the directory; `None` after that.
    unprepared: Arc<Mutex<Option<Platform>>>,
    check: Check,
}

/// Checks that the directory is not replaced. Blocks.
#[derive(Clone)]
struct Check(Arc<dyn Fn() -> bool + Send + Sync>);

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").finish_non_exhaustive()
    }
}

/// The data directory may not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a packaging script of a killed agent has replaced `{}`, which is therefore not used: the agent's log says how to repair that",
    path.display()
)]
pub struct ReplacedData {
    /// The data directory.
    pub path: PathBuf,
}

impl DataDirectory {
    /// The data directory of a machine on which [`bootstrap`] is done.
    #[must_use]
    pub fn prepared(vcap: &Vcap) -> Self {
        Self {
            vcap: vcap.clone(),
            unprepared: Arc::default(),
            check: Check(Arc::new(|| true)),
        }
    }

    /// The data directory of a machine on which the bootstrap must precede the use of the directory. `check` says whether it is not
    /// replaced; it may block.
    #[must_use]
    pub(crate) fn unprepared(
        vcap: &Vcap,
        platform: Platform,
        check: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            vcap: vcap.clone(),
            unprepared: Arc::new(Mutex::new(Some(platform))),
            check: Check(Arc::new(check)),
        }
    }

    /// Does the bootstrap, unless it is done. Call this only if the directory was not replaced. Blocks.
    ///
    /// # Errors
    /// Those of [`bootstrap`]. The directory is not used then.
    pub(crate) fn prepare(&self) -> Result<(), BootstrapError> {
        self.prepare_unless(&|| false).map(drop)
    }

    /// Does the bootstrap, unless it is done or `is_replaced`. Returns whether it is done.
    fn prepare_unless(&self, is_replaced: &dyn Fn() -> bool) -> Result<bool, BootstrapError> {
        let unprepared = self.unprepared.lock();
        let mut unprepared = unprepared.unwrap_or_else(PoisonError::into_inner);
        let Some(platform) = *unprepared else {
            return Ok(true);
        };
        if is_replaced() {
            return Ok(false);
        }
        bootstrap(&self.vcap, platform)?;
        *unprepared = None;
        Ok(true)
    }

    /// The directory for bundles of logs, from which clients copy them. Blocks while another thread prepares the directory.
    ///
    /// # Errors
    /// If the data directory may not be used.
    pub(crate) fn temporary(&self) -> Result<PathBuf, ReplacedData> {
        self.checked().map(Vcap::temporary)
    }

    /// The directory for blobs that are uploaded over HTTPS. Blocks as above.
    ///
    /// # Errors
    /// If the data directory may not be used.
    pub(crate) fn blobs(&self) -> Result<PathBuf, ReplacedData> {
        self.checked().map(Vcap::blobs)
    }

    /// The directory for blobs that were sent in requests. Blocks as above.
    ///
    /// # Errors
    /// If the data directory may not be used.
    pub(crate) fn sensitive_blobs(&self) -> Result<PathBuf, ReplacedData> {
        self.checked().map(Vcap::sensitive_blobs)
    }

    /// Creates a temporary file in the data directory or, if that may not be used or lacks the agent's directories, in the agent's own
    /// directory. Scripts cannot access the file in any tier that isolates them. If the agent is killed, its next start removes the file,
    /// provided that `prefix` begins with that of temporary files. Blocks as above.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub(crate) fn private_file(&self, prefix: &str, suffix: &str) -> fs::Result<LeasedFile> {
        if let Ok(blobs) = self.blobs() {
            match LeasedFile::create(&blobs.join("tmp"), prefix, suffix) {
                Err(error) if error.is_not_found() => {}
                created => return created,
            }
        }
        LeasedFile::create(&self.vcap.bosh(), prefix, suffix)
    }

    /// Prepares the directory if it was replaced and is not any more.
    fn checked(&self) -> Result<&Vcap, ReplacedData> {
        match self.prepare_unless(&|| !(self.check.0)()) {
            Ok(true) => return Ok(&self.vcap),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "failed to prepare the data directory");
            }
        }
        Err(ReplacedData {
            path: self.vcap.data(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn directory_is_used_once_it_is_prepared() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(&scratch.path().join("vcap"));
        let is_usable = Arc::new(AtomicBool::new(false));
        let own = Arc::clone(&is_usable);
        let check = move || own.load(Ordering::Relaxed);
        let data = DataDirectory::unprepared(&vcap, Platform::Dummy, check);
        let replaced = ReplacedData { path: vcap.data() };
        for found in [data.temporary(), data.blobs(), data.sensitive_blobs()] {
            assert_eq!(found, Err(replaced.clone()));
        }
        fs::create_dir_all(&vcap.bosh()).unwrap();
        let directory_of_file = || {
            let file = data.private_file(".bosh-agent-test-", "").unwrap();
            fs::parent(file.path()).to_owned()
        };
        assert_eq!(directory_of_file(), vcap.bosh());

        // The bootstrap fails.
        let own = data.clone();
        is_usable.store(true, Ordering::Relaxed);
        fs::symlink(Path::new("/none/at/all"), &vcap.data()).unwrap();
        own.prepare().unwrap_err();
        assert_eq!(data.blobs(), Err(replaced));

        fs::remove_file(&vcap.data()).unwrap();
        assert_eq!(own.blobs(), Ok(vcap.blobs()));
        assert_eq!(data.blobs(), Ok(vcap.blobs()));
        assert_eq!(directory_of_file(), vcap.blobs().join("tmp"));
        // Another start must not empty the directory.
        fs::write(&vcap.temporary().join("file"), b"").unwrap();
        data.prepare().unwrap();
        assert!(vcap.temporary().join("file").exists());
    }
}
