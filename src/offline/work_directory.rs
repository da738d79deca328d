//! The work directory of a call, and the directory of its logs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ids::ReleaseId;
use crate::config::{Vcap, WORK_PREFIX};
use crate::fs::{self, LeasedDirectory, MadeDirectories};
use crate::sandbox;

/// How long the processes of a killed run may take to end before its work directory is removed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The place of the work directory if programs cannot run in the usual places.
const LAST_RESORT: &str = "/var/tmp";

/// The directory of logs if the usual one cannot be used.
const LOGS_BESIDE: &str = "bosh-agent-logs";

/// The work directory, with all temporary files of a call.
#[derive(Debug)]
pub(super) struct WorkDirectory {
    work: LeasedDirectory,
    made: MadeDirectories,
}

impl WorkDirectory {
    /// Creates the work directory: in `wanted`, or in the data directory if that is a real disk, or in `beside`. First removes
    /// what killed runs left there.
    pub(super) fn make(
        wanted: Option<&Path>,
        vcap: &Vcap,
        beside: &Path,
        stop: &dyn Fn() -> bool,
    ) -> fs::Result<Self> {
        let mut made = MadeDirectories::default();
        match Self::make_work(wanted, vcap, beside, stop, &mut made) {
            Ok(work) => Ok(Self { work, made }),
            Err(error) => {
                made.remove_empty();
                Err(error)
            }
        }
    }

    fn make_work(
        wanted: Option<&Path>,
        vcap: &Vcap,
        beside: &Path,
        stop: &dyn Fn() -> bool,
        made: &mut MadeDirectories,
    ) -> fs::Result<LeasedDirectory> {
        let parent = match wanted {
            Some(directory) => {
                made.make(directory)?;
                directory.to_owned()
            }
            None => Self::parent_of_work(vcap, beside, made)?,
        };
        for removed in fs::remove_abandoned(
            &parent,
            WORK_PREFIX,
            Some((sandbox::PROCESSES, PATIENCE, stop)),
        ) {
            tracing::info!(path = %removed.display(), "removed the leftovers of a killed run");
        }
        // Canonical, because paths in it are recognized by this prefix.
        let parent = fs::canonicalize(&parent)?;
        let work = LeasedDirectory::create(&parent, WORK_PREFIX)?;
        for name in ["spool", "blobs", "store"] {
            fs::create_dir(&work.path().join(name))?;
        }
        Ok(work)
    }

    /// The default place of the work directory. Scripts may run in it, so a file system that is mounted noexec comes last.
    fn parent_of_work(
        vcap: &Vcap,
        beside: &Path,
        made: &mut MadeDirectories,
    ) -> fs::Result<PathBuf> {
        let data = vcap.data();
        let can_run = |directory: &Path| matches!(fs::noexec(directory), Ok(None));
        let mut is_usable = |directory: &Path| {
            made.make(directory).is_ok() && fs::check_writable(directory).is_ok()
        };
        if !fs::is_volatile_or_overlay(&data)? && can_run(&data) && is_usable(&data) {
            return Ok(data);
        }
        if can_run(beside) {
            return Ok(beside.to_owned());
        }
        let others = [data.as_path(), LAST_RESORT.as_ref()];
        let other = others.into_iter().find(|it| can_run(it) && is_usable(it));
        Ok(other.unwrap_or(beside).to_owned())
    }

    pub(super) fn path(&self) -> &Path {
        self.work.path()
    }

    /// Whether it still exists.
    pub(super) fn is_there(&self) -> bool {
        self.work.is_there()
    }

    /// Creates the directory for the files of one tarball.
    pub(super) fn spool(&self, release: ReleaseId) -> fs::Result<PathBuf> {
        let path = self
            .path()
            .join("spool")
            .join(release.position().to_string());
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// Creates the directory for the compiled blobs of one release.
    pub(super) fn blobs(&self, release: ReleaseId) -> fs::Result<PathBuf> {
        let path = self
            .path()
            .join("blobs")
            .join(release.position().to_string());
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// The directory of installed packages.
    pub(super) fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    /// The path of the make jobserver that all scripts share.
    pub(super) fn jobserver(&self) -> PathBuf {
        self.path().join("jobserver")
    }

    /// Creates the directory of logs: `wanted`, or the usual one, or one next to the work directory.
    pub(super) fn logs(&self, wanted: Option<&Path>, vcap: &Vcap) -> fs::Result<PathBuf> {
        if let Some(directory) = wanted {
            fs::create_dir_all(directory)?;
            fs::check_writable(directory)?;
            return Ok(directory.to_owned());
        }
        let usual = vcap.compilation_logs();
        if fs::create_dir_all(&usual).is_ok() && fs::check_writable(&usual).is_ok() {
            return Ok(usual);
        }
        let beside = self.path().with_file_name(LOGS_BESIDE);
        fs::create_dir_all(&beside)?;
        Ok(beside)
    }

    /// The directory in which [`logs`](Self::logs) of an earlier run has kept files. Creates nothing.
    pub(super) fn logs_of_earlier_runs(&self, wanted: Option<&Path>, vcap: &Vcap) -> PathBuf {
        if let Some(directory) = wanted {
            return directory.to_owned();
        }
        let usual = vcap.compilation_logs();
        let beside = self.path().with_file_name(LOGS_BESIDE);
        match fs::check_writable(&usual).is_err() && fs::metadata(&beside).is_ok() {
            true => beside,
            false => usual,
        }
    }

    /// Removes the work directory, and the directories above it that were created for it.
    pub(super) fn remove(self) -> fs::Result<()> {
        self.work.remove()?;
        self.made.remove_empty();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_work_directory_goes_where_it_is_told_and_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let wanted = scratch.path().join("a/b");
        let vcap = Vcap::new(&scratch.path().join("vcap"));
        let place = WorkDirectory::make(Some(&wanted), &vcap, scratch.path(), &|| false).unwrap();
        assert!(place.path().starts_with(&wanted));
        place.spool(ReleaseId::from_position(0)).unwrap();
        place.remove().unwrap();
        assert!(fs::list(scratch.path()).unwrap().is_empty());
    }

    #[test]
    fn logs_go_to_the_usual_place_or_where_they_are_told() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(&scratch.path().join("vcap"));
        let place =
            WorkDirectory::make(Some(scratch.path()), &vcap, scratch.path(), &|| false).unwrap();
        assert_eq!(place.logs(None, &vcap).unwrap(), vcap.compilation_logs());
        let wanted = scratch.path().join("logs");
        assert_eq!(place.logs(Some(&wanted), &vcap).unwrap(), wanted);
        let file = scratch.path().join("file");
        fs::write(&file, b"").unwrap();
        let unusable = Vcap::new(&file);
        let logs = place.logs(None, &unusable).unwrap();
        assert_eq!(logs.parent(), place.path().parent());
    }
}
