//! The directories that a call uses: where it works, where logs stay, where results go.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{Vcap, WORK_PREFIX};
use crate::fs::{self, LeasedDirectory, MadeDirectories};
use crate::sandbox;

/// How long the processes of a killed run may take to end before its work directory is removed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the work directory goes when programs can be run in none of the usual places.
const LAST_RESORT: &str = "/var/tmp";

/// Where logs stay when the usual place cannot be had.
const LOGS_BESIDE: &str = "bosh-agent-logs";

/// The directory that holds everything temporary of a call.
#[derive(Debug)]
pub(super) struct Workplace {
    work: LeasedDirectory,
    made: MadeDirectories,
}

impl Workplace {
    /// Makes the work directory: below `wanted`, else below the data directory where that is a real disk, else beside the
    /// results. What a run that was killed has left there is removed first.
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
        // One spelling for all: paths below it are told apart from others by how they begin.
        let parent = fs::canonicalize(&parent)?;
        let work = LeasedDirectory::create(&parent, WORK_PREFIX)?;
        for name in ["spool", "blobs", "store"] {
            fs::create_dir(&work.path().join(name))?;
        }
        Ok(work)
    }

    /// Where the work directory goes when nobody says. Scripts may run in it, so a file system on which no program can be run
    /// comes last.
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

    /// Whether nobody has removed it.
    pub(super) fn is_there(&self) -> bool {
        self.work.is_there()
    }

    /// Where the files of one tarball go.
    pub(super) fn spool(&self, input: usize) -> fs::Result<PathBuf> {
        let path = self.path().join("spool").join(input.to_string());
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// Where compiled blobs of one release go.
    pub(super) fn blobs(&self, input: usize) -> fs::Result<PathBuf> {
        let path = self.path().join("blobs").join(input.to_string());
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// Where installed packages go.
    pub(super) fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    /// Where the pool of jobs of all scripts is.
    pub(super) fn jobserver(&self) -> PathBuf {
        self.path().join("jobserver")
    }

    /// Where logs stay: in `wanted`, else in the usual place, else beside the work directory.
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

    /// Removes the work directory, and the directories above it that were made for it.
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
        let place = Workplace::make(Some(&wanted), &vcap, scratch.path(), &|| false).unwrap();
        assert!(place.path().starts_with(&wanted));
        place.spool(0).unwrap();
        place.remove().unwrap();
        assert!(fs::list(scratch.path()).unwrap().is_empty());
    }

    #[test]
    fn logs_go_to_the_usual_place_or_where_they_are_told() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(&scratch.path().join("vcap"));
        let place =
            Workplace::make(Some(scratch.path()), &vcap, scratch.path(), &|| false).unwrap();
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
