//! Chooses and creates the directories of a run: the work directory, its contents, and the directory of logs.

use std::path::{Path, PathBuf};

use super::ids::ReleaseId;
use crate::compile::WorkDirectory;
use crate::config::Vcap;
use crate::fs::{self, MadeDirectories};

/// The parent of the work directory if programs cannot run in the default ones.
const LAST_RESORT: &str = "/var/tmp";

/// The directory next to the work directory for logs, if the default one cannot be used.
const LOGS_FALLBACK: &str = "bosh-agent-logs";

/// The directory in the work directory with the files of tarballs.
const SPOOL: &str = "spool";

/// The directory in the work directory with compiled blobs.
const BLOBS: &str = "blobs";

/// Creates the work directory: in `wanted` or, if it is `None`, in the data directory if that is on a real disk, or else in `fallback`.
/// First removes the work directories of killed runs.
pub(super) fn make(
    wanted: Option<&Path>,
    vcap: &Vcap,
    fallback: &Path,
    stop: &dyn Fn() -> bool,
) -> fs::Result<WorkDirectory> {
    let mut made = MadeDirectories::default();
    let parent = match wanted {
        Some(directory) => made.make(directory).map(|()| directory.to_owned()),
        None => default_parent(vcap, fallback, &mut made),
    };
    let parent = parent.inspect_err(|_| made.remove_empty())?;
    WorkDirectory::make(&parent, made, &[SPOOL, BLOBS], stop)
}

/// The default place of the work directory. Scripts may run in it, so a file system that is mounted noexec comes last.
fn default_parent(vcap: &Vcap, fallback: &Path, made: &mut MadeDirectories) -> fs::Result<PathBuf> {
    let data = vcap.data();
    let can_run = |directory: &Path| matches!(fs::noexec(directory), Ok(None));
    let mut is_usable =
        |directory: &Path| made.make(directory).is_ok() && fs::check_writable(directory).is_ok();
    if !fs::is_volatile_or_overlay(&data)? && can_run(&data) && is_usable(&data) {
        return Ok(data);
    }
    if can_run(fallback) {
        return Ok(fallback.to_owned());
    }
    let others = [data.as_path(), LAST_RESORT.as_ref()];
    let other = others.into_iter().find(|it| can_run(it) && is_usable(it));
    Ok(other.unwrap_or(fallback).to_owned())
}

/// Creates the directory for the files of one tarball.
pub(super) fn spool(work: &WorkDirectory, release: ReleaseId) -> fs::Result<PathBuf> {
    of_release(work, SPOOL, release)
}

/// Creates the directory for the compiled blobs of one release.
pub(super) fn blobs(work: &WorkDirectory, release: ReleaseId) -> fs::Result<PathBuf> {
    of_release(work, BLOBS, release)
}

fn of_release(work: &WorkDirectory, contents: &str, release: ReleaseId) -> fs::Result<PathBuf> {
    let path = work.path().join(contents);
    let path = path.join(release.position().to_string());
    fs::create_dir(&path)?;
    Ok(path)
}

/// The path of the make jobserver that all scripts share.
pub(super) fn jobserver(work: &WorkDirectory) -> PathBuf {
    work.path().join("jobserver")
}

/// Creates the directory of logs: `wanted`, or the default one, or one next to the work directory.
pub(super) fn logs(
    work: &WorkDirectory,
    wanted: Option<&Path>,
    vcap: &Vcap,
) -> fs::Result<PathBuf> {
    if let Some(directory) = wanted {
        fs::create_dir_all(directory)?;
        fs::check_writable(directory)?;
        return Ok(directory.to_owned());
    }
    let usual = vcap.compilation_logs();
    if fs::create_dir_all(&usual).is_ok() && fs::check_writable(&usual).is_ok() {
        return Ok(usual);
    }
    let fallback = work.path().with_file_name(LOGS_FALLBACK);
    fs::create_dir_all(&fallback)?;
    Ok(fallback)
}

/// The directory of logs that earlier runs with the same options have used (see [`logs`]). Creates nothing.
pub(super) fn logs_of_earlier_runs(
    work: &WorkDirectory,
    wanted: Option<&Path>,
    vcap: &Vcap,
) -> PathBuf {
    if let Some(directory) = wanted {
        return directory.to_owned();
    }
    let usual = vcap.compilation_logs();
    let fallback = work.path().with_file_name(LOGS_FALLBACK);
    match fs::check_writable(&usual).is_err() && fs::metadata(&fallback).is_ok() {
        true => fallback,
        false => usual,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_directory_is_created_in_the_wanted_directory_and_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let wanted = scratch.path().join("a/b");
        let vcap = Vcap::new(&scratch.path().join("vcap"));
        let place = make(Some(&wanted), &vcap, scratch.path(), &|| false).unwrap();
        assert!(place.path().starts_with(&wanted));
        spool(&place, ReleaseId::from_position(0)).unwrap();
        place.remove().unwrap();
        assert!(fs::list(scratch.path()).unwrap().is_empty());
    }

    #[test]
    fn logs_have_a_default_a_wanted_and_a_fallback_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(&scratch.path().join("vcap"));
        let place = make(Some(scratch.path()), &vcap, scratch.path(), &|| false).unwrap();
        assert_eq!(logs(&place, None, &vcap).unwrap(), vcap.compilation_logs());
        let wanted = scratch.path().join("logs");
        assert_eq!(logs(&place, Some(&wanted), &vcap).unwrap(), wanted);
        let file = scratch.path().join("file");
        fs::write(&file, b"").unwrap();
        let unusable = Vcap::new(&file);
        let logs = logs(&place, None, &unusable).unwrap();
        assert_eq!(logs.parent(), place.path().parent());
    }
}
