//! The work directory of a run. It contains all temporary files of the run, including the store of installed packages.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::WORK_PREFIX;
use crate::fs::{self, LeasedDirectory, MadeDirectories};
use crate::sandbox;

/// How long the removal of a killed run's work directory waits for the end of the run's processes.
const PATIENCE: Duration = Duration::from_secs(10);

/// The name of the directory of installed packages.
const STORE: &str = "store";

/// A directory with all temporary files of a run. If the run is killed, a later run removes it.
#[derive(Debug)]
pub struct WorkDirectory {
    leased: LeasedDirectory,
    made: MadeDirectories,
}

impl WorkDirectory {
    /// Creates a work directory in `parent`, with a store and the directories `contents`. `made` are the directories that were created above
    /// the work directory. They are removed together with it.
    ///
    /// First removes the work directories of killed runs in `parent`. Waits for the processes of these runs, but no longer than until `stop`
    /// returns `true`.
    ///
    /// # Errors
    /// The error of the system.
    pub fn make(
        parent: &Path,
        made: MadeDirectories,
        contents: &[&str],
        stop: &dyn Fn() -> bool,
    ) -> fs::Result<Self> {
        match lease(parent, contents, stop) {
            Ok(leased) => Ok(Self { leased, made }),
            Err(error) => {
                made.remove_empty();
                Err(error)
            }
        }
    }

    /// The path, with links resolved.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.leased.path()
    }

    /// The directory of installed packages.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path().join(STORE)
    }

    /// Whether the directory still exists.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.leased.is_there()
    }

    /// Removes the work directory, and the directories above it that were created for it.
    ///
    /// # Errors
    /// The error of the system.
    pub fn remove(self) -> fs::Result<()> {
        self.leased.remove()?;
        self.made.remove_empty();
        Ok(())
    }
}

fn lease(parent: &Path, contents: &[&str], stop: &dyn Fn() -> bool) -> fs::Result<LeasedDirectory> {
    let processes = (sandbox::PROCESSES, PATIENCE, stop);
    for removed in fs::remove_abandoned(parent, WORK_PREFIX, Some(processes)) {
        tracing::info!(path = %removed.display(), "removed the work directory of a killed run");
    }
    // Resolve links, because other code recognizes paths in the work directory by this prefix.
    let parent = fs::canonicalize(parent)?;
    let leased = LeasedDirectory::create(&parent, WORK_PREFIX)?;
    for name in [STORE].iter().chain(contents) {
        fs::create_dir(&leased.path().join(name))?;
    }
    Ok(leased)
}
