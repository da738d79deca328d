//! Copies the logs of failed packages to the output directory, because in a container the directory of logs is lost when the run ends.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use super::checked::CheckedRelease;
use crate::compile::first_log;
use crate::diag::Chain;
use crate::fs;
use crate::release::{Name, Slug};

/// Where the logs of a release's failed packages are copied to.
#[derive(Debug, Clone)]
pub(super) struct FailedLogs {
    /// `NAME-VERSION.failed` next to the compiled release or, if the run has several stemcells, `NAME-VERSION-OS-STEMCELLVERSION.failed`.
    directory: PathBuf,
}

impl FailedLogs {
    /// `output` is the path of the compiled release, and `one_of_several` the stemcell, if the run has several.
    pub(super) fn new(
        output: &Path,
        release: &CheckedRelease,
        one_of_several: Option<&Slug>,
    ) -> Self {
        let manifest = &release.manifest;
        let mut name = format!("{}-{}", manifest.name, manifest.version);
        if let Some(Slug { os, version }) = one_of_several {
            let _ = write!(name, "-{os}-{version}");
        }
        Self {
            directory: fs::parent(output).join(format!("{name}.failed")),
        }
    }

    /// Where the log of a package is copied to.
    pub(super) fn log(&self, package: &Name) -> PathBuf {
        self.directory.join(format!("{package}.log"))
    }

    /// Copies the log of a package, and that of its first run if it ran twice.
    pub(super) fn copy(&self, package: &Name, log: &Path) -> fs::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let copy = self.log(package);
        copy_file(log, &copy)?;
        let first = first_log(log);
        match fs::lookup(&first)? {
            Some(_) => copy_file(&first, &first_log(&copy)),
            None => Ok(()),
        }
    }

    /// Removes the logs of a package that failed in an earlier run, and the directory if it is empty then.
    pub(super) fn remove(&self, package: &Name) {
        if let Err(error) = self.try_remove(package) {
            tracing::warn!(error = %Chain(&error), "could not remove the log of an earlier failure");
        }
    }

    fn try_remove(&self, package: &Name) -> fs::Result<()> {
        let log = self.log(package);
        if fs::lookup(&self.directory)?.is_none_or(|it| !it.is_dir()) {
            return Ok(());
        }
        fs::remove_file_if_there(&first_log(&log))?;
        fs::remove_file_if_there(&log)?;
        if fs::list(&self.directory)?.is_empty() {
            fs::remove_dir(&self.directory)?;
        }
        Ok(())
    }
}

/// Copies a file so that readers never see a partial copy.
fn copy_file(from: &Path, to: &Path) -> fs::Result<()> {
    let mut source = fs::open_file(from)?;
    let mut temporary = fs::temporary_next_to(to)?;
    io::copy(&mut source, temporary.as_file_mut())
        .map_err(|source| fs::Error::new("write", to, source))?;
    fs::set_mode(temporary.path(), 0o644)?;
    fs::persist(temporary.into_temp_path(), to)
}
